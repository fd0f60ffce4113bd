# SPDX-License-Identifier: Apache-2.0
"""What every ``prepare`` command shares: safe writing, checking an image against its label, and datalists."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import InputError
from ..files import write_text
from ..keys import DatalistKeys

__all__ = [
    "check_percent",
    "check_seed",
    "datalist",
    "describe_pair",
    "name_cases",
    "place_file",
    "read_json",
    "refuse_changed_datalists",
    "save_nifti",
    "write_json",
]


def check_seed(seed: int) -> None:
    """Raise :py:class:`InputError` unless ``seed`` is an integer that NumPy's generators take."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed: found {seed!r}, wanted an integer from 0 to {2**32 - 1}.")


def check_percent(percent: int) -> None:
    """Raise :py:class:`InputError` unless ``percent`` can name and size a semi-supervised split."""
    if isinstance(percent, bool) or not isinstance(percent, int) or not 1 <= percent <= 99:
        raise InputError(
            f"percent: found {percent!r}, wanted an integer from 1 to 99 (the list with all is always made)."
        )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """
    A file to write beside ``path``, which takes that name only when the block ends well.

    Whoever finds ``path`` finds it complete, no matter when an earlier run was killed.
    """
    # always the same name: what a killed run leaves, the next one overwrites
    part = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}).") from error
    finally:
        part.unlink(missing_ok=True)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """
    Write a volume, whole or not at all.

    Args:
        path: target, ``.nii.gz``.
        array: ``(x, y, z)``, of a type NIfTI knows.
        affine: ``(4, 4)``, voxel index to mm in RAS.

    Raises:
        InputError: if the file cannot be written.
    """
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with _replacing(path) as part:
        nib.save(image, part)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all; :py:class:`InputError` if that is impossible."""
    try:
        write_text(str(path), json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}).") from error


def read_json(path: Path, wanted: str) -> Any:
    """
    Parse a JSON file.

    Args:
        path: the file.
        wanted: what the file should have been, for the error message.

    Raises:
        InputError: if there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); wanted {wanted}.") from error


def place_file(source: Path, target: Path) -> None:
    """
    Make ``target`` the same file as ``source``: a hard link on one file system, a copy across two.

    Raises:
        InputError: if ``target`` exists with another content, which is left alone.
    """
    if target.exists():
        if not filecmp.cmp(source, target, shallow=False):
            raise InputError(
                f"{target}: exists and differs from {source}; move it away or choose another output folder."
            )
        return
    with _replacing(target) as part:
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:  # another file system, or one without hard links, or a file of somebody else's
            shutil.copyfile(source, part)


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a NIfTI file, read to its last byte."""
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        image = nib.load(path)
        return np.asanyarray(image.dataobj), image.affine  # type: ignore[attr-defined]
    except Exception as error:  # a broken file makes nibabel, gzip and zlib raise many kinds
        raise InputError(f"{path}: cannot be read as NIfTI ({type(error).__name__}: {error}).") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_pair(image: Path, label: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """
    Check a label against its image and describe the two.

    Args:
        image: NIfTI file ``(x, y, z)``.
        label: NIfTI file on the same grid.
        names: label value, as text, to its name.

    Returns:
        ``shape`` (voxels), ``spacing_mm``, ``label_counts`` (voxels of each named value) and ``sha256`` of both files.

    Raises:
        InputError: if a file is missing or broken, or the two differ in shape or affine, or the label has other values.
    """
    voxels, affine = _load(image)
    label_voxels, label_affine = _load(label)
    if voxels.ndim != 3:
        raise InputError(f"{image}: found shape {voxels.shape}, wanted three axes.")
    if voxels.shape != label_voxels.shape:
        raise InputError(f"{label}: found shape {label_voxels.shape}, wanted that of its image, {voxels.shape}.")
    if not np.allclose(affine, label_affine, atol=1e-3):
        raise InputError(
            f"{label}: found affine {np.round(label_affine, 3).tolist()}, "
            f"wanted that of its image, {np.round(affine, 3).tolist()}."
        )
    values, counts = np.unique(label_voxels, return_counts=True)
    wanted = sorted(int(value) for value in names)
    if unknown := sorted(set(values.tolist()) - set(wanted)):
        raise InputError(f"{label}: found the values {unknown[:10]}, wanted only {wanted}.")
    counted = {int(value): int(count) for value, count in zip(values, counts)}
    return {
        "shape": list(voxels.shape),
        "spacing_mm": [round(float(size), 5) for size in nib.affines.voxel_sizes(affine)],
        "label_counts": {str(value): counted.get(value, 0) for value in wanted},
        "sha256": {DatalistKeys.IMAGE.value: _sha256(image), DatalistKeys.LABEL.value: _sha256(label)},
    }


def datalist(
    labels: Mapping[str, str],
    *,
    training: Iterable[Mapping[str, str]],
    unlabeled: Iterable[Mapping[str, str]] = (),
    validation: Iterable[Mapping[str, str]] = (),
    testing: Iterable[Mapping[str, str]] = (),
    **how_made: Any,
) -> dict[str, Any]:
    """
    Content of a datalist file.

    Args:
        labels: label value, as text, to its name.
        training: labelled items ``{"image": path, "label": path, "domain": name}``, paths relative to the datalist.
        unlabeled: items of which everything but ``image`` and ``domain`` is left out.
        validation: labelled items.
        testing: labelled items.
        how_made: further keys at the head of the file, such as ``name`` and ``seed``.
    """
    shown = (DatalistKeys.IMAGE, DatalistKeys.DOMAIN)
    return {
        **how_made,
        "labels": dict(labels),
        DatalistKeys.TRAINING.value: [dict(item) for item in training],
        DatalistKeys.UNLABELED.value: [{key.value: item[key] for key in shown if key in item} for item in unlabeled],
        DatalistKeys.VALIDATION.value: [dict(item) for item in validation],
        DatalistKeys.TESTING.value: [dict(item) for item in testing],
    }


def refuse_changed_datalists(output: Path, datalists: Mapping[str, Any]) -> None:
    """
    Make sure that writing ``datalists`` changes no split somebody may already have trained on.

    Args:
        output: folder of the datalists.
        datalists: file name to content.

    Raises:
        InputError: if one of the files exists with another content.
    """
    for name, content in datalists.items():
        path = output / name
        if path.exists() and read_json(path, "a datalist") != content:
            raise InputError(
                f"{path}: exists with another split (other cases, seed or numbers than this run's), and a split in use "
                "is never overwritten; move it away or choose another output folder."
            )


def name_cases(title: str, cases: Iterable[str]) -> None:
    """Print ``title``, the number of ``cases`` and every one of them; nothing when there are none."""
    if listed := sorted(cases):
        print(f"{title} ({len(listed)}): {', '.join(listed)}")
