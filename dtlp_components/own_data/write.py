# SPDX-License-Identifier: Apache-2.0
"""The files of a bundle of somebody's own scans."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..bundle.compose import WORKFLOWS, with_overlay
from ..bundle.lint import check_config, check_metadata
from ..data.datalists import datalist
from ..data.nifti import save_nifti
from ..data.series import is_series
from ..errors import InputError, raise_if_any
from ..files import is_leftover, read_json
from ..keys import DatalistKeys as Keys
from ..run_folder import RunFolder
from .find import FLAGS, Scan
from .masks import read_masks
from .recipe import COMMENT
from .sections import Inspected

__all__ = ["check_files", "distinct_names", "is_current", "list_scans", "plan_copies", "write_copy"]

COPIES = "scans"  # folder in the bundle for scans that had to be changed


def plan_copies(
    groups: Mapping[Keys, Inspected], folder: Path, frame: int | None, mapping: Mapping[int, int] | None
) -> tuple[dict[Path, tuple[str, bool]], dict[Keys, list[Scan]]]:
    """Files to write (target to source, and whether it is a label), and the scans with the paths to list."""
    copies: dict[Path, tuple[str, bool]] = {}
    listed: dict[Keys, list[Scan]] = {}

    def place(source: str, section: Keys, name: str, is_label: bool) -> str:
        is_folder = is_label and os.path.isdir(source)  # of masks
        if not is_folder and (is_series(source) or not ((is_label and mapping) or _is_4d(source, frame))):
            return source
        target = folder / COPIES / FLAGS[section] / f"{name}_{'label' if is_label else 'image'}.nii.gz"
        copies[target] = (source, is_label)
        return str(target.relative_to(folder))

    for section, items in groups.items():
        scans = [scan for scan, _ in items]
        listed[section] = [
            replace(
                scan,
                image=place(scan.image, section, name, False),
                label=place(scan.label, section, name, True) if scan.label and section != Keys.UNLABELED else None,
            )
            for scan, name in zip(scans, distinct_names(scans), strict=True)
        ]
    return copies, listed


def distinct_names(scans: Sequence[Scan]) -> list[str]:
    """
    A name for each scan: its case, or with the folders that tell it from others of that case, ``patient1_ct_image``.
    """
    cases = Counter(scan.case.lower() for scan in scans)  # a file system may not tell capitals
    names: list[str] = []
    for scan in scans:
        alike = [os.path.dirname(other.image) for other in scans if other.case.lower() == scan.case.lower()]
        name = scan.case
        if cases[scan.case.lower()] > 1:
            folders = Path(os.path.relpath(os.path.dirname(scan.image), os.path.commonpath(alike))).parts
            name = "_".join([*folders, scan.case])
        taken = {given.lower() for given in names}
        names.append(next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n.lower() not in taken))
    return names


def _is_4d(path: str, frame: int | None) -> bool:
    if frame is None:
        return False
    shape: tuple[int, ...] = nib.load(path).shape  # type: ignore[attr-defined]
    return len(shape) > 3 and shape[3] > 1


def write_copy(
    source: Path, target: Path, frame: int | None, mapping: Mapping[int, int] | None, structures: Sequence[str] = ()
) -> None:
    """
    A 3-D copy of a NIfTI file: one volume of it, and other label values; or the label map of a folder of masks.

    Args:
        source: file or folder.
        target: file.
        frame: number of the volume, from 0.
        mapping: new label values by those in the file.
        structures: names of the masks that count.
    """
    if source.is_dir():
        found, problems = read_masks(str(source), structures)
        raise_if_any(problems)
        assert found is not None
        values = found[0].astype(np.uint8 if len(structures) < 256 else np.uint16)
        save_nifti(target, values, np.asarray(found[1].affine))
        return
    image: Any = nib.load(source)
    voxels = np.asanyarray(image.dataobj)
    if voxels.ndim > 3:
        voxels = voxels.reshape(*voxels.shape[:3], -1)[..., frame if voxels.shape[3] > 1 else 0]
    if mapping is not None:
        table = np.zeros(max(mapping) + 1, np.uint8 if len(mapping) <= 256 else np.uint16)
        for value, new in mapping.items():
            table[value] = new
        voxels = table[voxels.astype(np.intp)]
    elif voxels.dtype == np.float64:
        voxels = voxels.astype(np.float32)  # what a scale factor in the header makes of integers
    save_nifti(target, voxels, image.affine, str(source))


def list_scans(
    listed: Mapping[Keys, list[Scan]], label_names: Sequence[str], how_made: Mapping[str, Any], patients: bool = False
) -> dict[str, Any]:
    def items(section: Keys) -> list[dict[str, Any]]:
        return [
            {
                Keys.IMAGE.value: scan.image,
                **({Keys.LABEL.value: scan.label} if scan.label is not None else {}),
                Keys.DOMAIN.value: scan.domain,
                **({Keys.PATIENT.value: scan.patient} if patients else {}),
                **({Keys.LABELS.value: list(scan.drawn)} if scan.drawn is not None and scan.label else {}),
            }
            for scan in listed[section]
        ]

    return datalist(
        {str(i): label for i, label in enumerate(label_names)},
        training=items(Keys.TRAINING),
        unlabeled=items(Keys.UNLABELED),
        validation=items(Keys.VALIDATION),
        testing=items(Keys.TESTING),
        **how_made,
    )


def check_files(files: Mapping[str, str], num_classes: int) -> None:
    """What the tests of the project check of its own bundles."""
    configs = {name: json.loads(files[f"configs/{name}.json"]) for name in (*WORKFLOWS, "paper", "metadata")}
    problems = check_metadata(configs["metadata"], num_classes)
    for workflow in WORKFLOWS:
        problems += check_config(configs[workflow])
    problems += check_config(with_overlay(configs["train"], configs["paper"]))
    raise_if_any(problems, "Cannot create the bundle")


def is_current(folder: Path, files: Mapping[str, str], copies: Mapping[Path, Any], overwrite: bool) -> bool:
    """
    Whether nothing is to be written.

    Raises:
        InputError: if writing would change what somebody may rely on.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder or nothing, got a file.")
    there = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    for path in [path for path, file in there.items() if is_leftover(file)]:
        there.pop(path).unlink()  # of a run of this command that was killed
    if not there:
        return False
    differing = [
        path for path, text in files.items() if path in there and there[path].read_text("utf-8", "replace") != text
    ]
    missing = [path for path in files if path not in there] + [str(c) for c in copies if not c.is_file()]
    if not differing and not missing:
        return True
    run = RunFolder(folder)
    besides = {file.relative_to(folder).as_posix() for file in (run.checked_inputs, run.labeled_scans)}
    mine = set(files) | {target.relative_to(folder).as_posix() for target in copies} | besides
    others = sorted(path for path in there if path not in mine and not path.startswith(f"{COPIES}/"))
    advice = "choose another name or move the folder"
    if others:
        raise InputError(
            f"{folder}: already exists and contains {', '.join(others[:5])}, which this command did not write; "
            f"{advice}."
        )
    config = there.get("configs/train.json")
    if config is not None and read_json(config, "a bundle's configuration").get("_comment", [""])[0] != COMMENT:
        raise InputError(f"{folder}: already exists and was not created by this command; {advice}.")
    if differing and not overwrite:
        raise InputError(
            f"{folder}: already exists with different content in {', '.join(differing)}; {advice}, or add --overwrite "
            "True."
        )
    return False
