# SPDX-License-Identifier: Apache-2.0
"""LA (2018 Atrial Segmentation Challenge): both released layouts to NIfTI, with the published split."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.nifti import save_nifti
from ..errors import InputError
from ..keys import DatalistKeys
from .pairs import common_affine, describe_converted
from .published import Sections, case_item, prepare_all, published_datalists, read_split, usable_cases

__all__ = ["prepare_la"]

_H5, _NRRD, _NRRD_LABEL = "mri_norm2.h5", "lgemri.nrrd", "laendo.nrrd"

# The h5 files hold bare arrays. Their axes run to the patient's left, back and head, like those of the nrrd files they
# were cropped from (the descending aorta lies left of the spine); voxels are cubes of 0.625 mm. The place is lost.
_H5_AFFINE = np.diag([-0.625, -0.625, 0.625, 1.0])


def _read_h5(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path}: reading it requires h5py: pip install h5py") from error
    try:
        with h5py.File(path) as file:
            image, label = (file[key][()] for key in (DatalistKeys.IMAGE.value, DatalistKeys.LABEL.value))
    except (OSError, KeyError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected an HDF5 file with `image` and `label`."
        ) from error
    return image, label, _H5_AFFINE


def _nrrd_affine(path: Path, header: dict[str, Any]) -> np.ndarray:
    """Voxel index to mm in RAS, ``(4, 4)``, of a three-dimensional nrrd header."""
    # the short forms come first in the format's definition; each letter says where an axis points
    space = str(header.get("space", "left-posterior-superior")).lower()
    sides = [word[0] for word in space.split("-")] if "-" in space else list(space)
    to_ras = [{"r": 1.0, "l": -1.0}, {"a": 1.0, "p": -1.0}, {"s": 1.0, "i": -1.0}]
    directions = header.get("space directions")
    if directions is None and "spacings" in header:
        directions = np.diag(header["spacings"])
    directions = np.asarray(directions if directions is not None else [], dtype=float)
    if len(sides) != 3 or any(side not in signs for side, signs in zip(sides, to_ras, strict=True)):
        raise InputError(f"{path}: expected a space such as left-posterior-superior, got {space!r}.")
    if directions.shape != (3, 3) or not np.isfinite(directions).all() or np.linalg.det(directions) == 0:
        raise InputError(f"{path}: expected three vectors in mm as space directions, got {directions.tolist()}.")
    affine = np.eye(4)
    affine[:3, :3] = directions.T  # nrrd has one row for each array axis, an affine one column
    affine[:3, 3] = np.asarray(header.get("space origin", (0.0, 0.0, 0.0)), dtype=float)
    return np.diag([signs[side] for side, signs in zip(sides, to_ras, strict=True)] + [1.0]) @ affine


def _read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        import nrrd
    except ImportError as error:
        raise InputError(f"{path}: reading it requires pynrrd: pip install pynrrd") from error
    label_path = path.with_name(_NRRD_LABEL)
    volumes = []
    for file in (path, label_path):
        try:
            array, header = nrrd.read(str(file))
        except Exception as error:  # nrrd.NRRDError, and whatever gzip, zlib and numpy raise for a broken file
            raise InputError(f"{file}: cannot be read as NRRD ({type(error).__name__}: {error}).") from error
        volumes.append((array, _nrrd_affine(file, header)))
    (image, affine), (label, label_affine) = volumes
    return image, np.where(label == 255, 1, label), common_affine(image.shape, path, affine, label_path, label_affine)


def _convert(raw: Path, image_path: Path, label_path: Path) -> None:
    """Write a raw case as two NIfTI files; the label last, so that a pair exists only when it is complete."""
    image, label, affine = _read_h5(raw) if raw.name == _H5 else _read_nrrd(raw)
    if image.ndim != 3 or image.shape != label.shape:
        raise InputError(f"{raw}: expected image and label of equal shape, got {image.shape} and {label.shape}.")
    if unknown := sorted(set(np.unique(label).tolist()) - {0, 1}):
        raise InputError(f"{raw}: expected the label values 0 and 1 (h5) or 0 and 255 (nrrd), got {unknown[:10]}.")
    save_nifti(image_path, image, affine)
    save_nifti(label_path, label.astype(np.uint8), affine)


def _find_cases(source: Path) -> dict[str, Path]:
    """Case id, which is the name of its folder, to its raw image file; where both layouts are there, to the h5 file."""
    found: dict[str, Path] = {}
    for layout in (_H5, _NRRD):
        for path in sorted(source.rglob(layout)):
            if "__MACOSX" in path.parts:
                continue
            earlier = found.setdefault(path.parent.name, path)
            if earlier.name == layout and earlier != path:
                raise InputError(
                    f"{source}: expected each case only once, got {path.parent.name} twice: {earlier} and {path}."
                )
    if not found:
        raise InputError(
            f"{source}: expected the challenge's folder, got one with neither <id>/{_H5} nor <id>/{_NRRD} at any depth."
        )
    return found


def prepare_la(source: str, output: str, *, dry_run: bool = False) -> Path | None:
    """
    Convert the challenge's left-atrium scans to NIfTI and write the datalists of the published split.

    Reads ``<id>/mri_norm2.h5`` (``image`` and ``label``, cropped and normalized, as used by the published comparisons)
    and ``<id>/lgemri.nrrd`` with ``<id>/laendo.nrrd`` (the challenge's own release), at any depth. Writes
    ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs``, ``manifest.json``, and ``datalist_5.json`` (4 labeled,
    76 unlabeled), ``datalist_10.json`` (8, 72) and ``datalist_100.json`` (80), each with the 20 published test cases
    and no validation cases, since none are published. Published cases that are missing are listed and excluded; other
    cases are listed and ignored. An interrupted run resumes where it stopped: valid converted pairs are kept.

    Args:
        source: folder with the cases.
        output: folder to write to.
        dry_run: print what would be done, but write nothing.

    Returns:
        ``output``, ``None`` with ``dry_run``.

    Raises:
        InputError: if a case is broken (all such cases are listed, the others are converted) or present twice, if none
            of the labeled cases is there, if an existing datalist has another content, or if h5py or pynrrd is needed
            and not installed.
    """
    source_dir, output_dir = Path(source), Path(output)
    split = read_split("la")
    found = _find_cases(source_dir)

    # 1. what is there, against what was published
    published = [*split["train"], *split["test"]]
    without_label = {
        case for case, raw in found.items() if raw.name == _NRRD and not raw.with_name(_NRRD_LABEL).is_file()
    }
    usable = usable_cases(published, found, without_label, _NRRD_LABEL)
    layouts = Counter(found[case].name for case in usable)
    if len(layouts) > 1:
        print(
            f"Warning: mixed formats, {dict(layouts)}: {_H5} is cropped and normalized, {_NRRD} is not; "
            "a training set should contain only one of them."
        )

    # 2. the datalists
    items = {case: case_item(case, "Ts" if case in split["test"] else "Tr") for case in usable}
    settings = {
        percent.rstrip("%"): Sections(cases["labeled"], cases["unlabeled"], testing=split["test"])
        for percent, cases in split["settings"].items()
    }
    settings["100"] = Sections(split["train"], testing=split["test"])
    datalists = published_datalists("la", split["label_map"], settings, items, split_source=split["source"])

    # 3. every case, then the lists
    def convert(case: str) -> list[dict[str, Any]]:
        raw, item = found[case], items[case]
        image, label = (output_dir / item[key] for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL))
        described = describe_converted(image, label, split["label_map"], partial(_convert, raw, image, label))
        return [{**item, "raw": raw.name, **described}]

    return prepare_all(
        output_dir,
        datalists,
        usable,
        convert,
        verb="convert",
        dry_run=dry_run,
        split_source=split["source"],
        labels=split["label_map"],
        missing=sorted(set(published) - set(usable)),
    )
