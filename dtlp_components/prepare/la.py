# SPDX-License-Identifier: Apache-2.0
"""LA (2018 Atrial Segmentation Challenge): both released layouts to NIfTI, with the published split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from monai.utils import optional_import
from tqdm import tqdm

from ..errors import InputError
from ..keys import DatalistKeys
from .common import (
    datalist,
    describe_pair,
    name_cases,
    read_json,
    refuse_changed_datalists,
    save_nifti,
    write_json,
)

__all__ = ["prepare_la"]

h5py, _has_h5py = optional_import("h5py")
nrrd, _has_nrrd = optional_import("nrrd")

_H5, _NRRD, _NRRD_LABEL = "mri_norm2.h5", "lgemri.nrrd", "laendo.nrrd"
_SPLIT = Path(__file__).parents[1] / "recipes" / "splits" / "la.json"

# The h5 files hold bare arrays. Their axes run to the patient's left, back and head, like those of the nrrd files they
# were cropped from (the descending aorta lies left of the spine); voxels are cubes of 0.625 mm. The place is lost.
_H5_AFFINE = np.diag([-0.625, -0.625, 0.625, 1.0])


def _read_h5(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not _has_h5py:
        raise InputError(f"{path}: reading it needs the package h5py; install it with: pip install h5py")
    try:
        with h5py.File(path) as file:
            image, label = (file[key][()] for key in (DatalistKeys.IMAGE.value, DatalistKeys.LABEL.value))
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}), wanted an HDF5 file with `image` and `label`.") from error
    return image, label, _H5_AFFINE


def _nrrd_affine(path: Path, header: dict) -> np.ndarray:
    """Voxel index to mm in RAS, ``(4, 4)``, of a three-dimensional nrrd header."""
    # the short forms come first in the format's definition; each letter says where an axis points
    space = str(header.get("space", "left-posterior-superior")).lower()
    sides = [word[0] for word in space.split("-")] if "-" in space else list(space)
    to_ras = [{"r": 1.0, "l": -1.0}, {"a": 1.0, "p": -1.0}, {"s": 1.0, "i": -1.0}]
    directions = header.get("space directions")
    if directions is None and "spacings" in header:
        directions = np.diag(header["spacings"])
    directions = np.asarray(directions if directions is not None else [], dtype=float)
    if len(sides) != 3 or any(side not in signs for side, signs in zip(sides, to_ras)):
        raise InputError(f"{path}: found the space {space!r}, wanted one like left-posterior-superior.")
    if directions.shape != (3, 3) or not np.isfinite(directions).all() or np.linalg.det(directions) == 0:
        raise InputError(f"{path}: found the space directions {directions.tolist()}, wanted three vectors in mm.")
    affine = np.eye(4)
    affine[:3, :3] = directions.T  # nrrd has one row for each array axis, an affine one column
    affine[:3, 3] = np.asarray(header.get("space origin", (0.0, 0.0, 0.0)), dtype=float)
    return np.diag([signs[side] for side, signs in zip(sides, to_ras)] + [1.0]) @ affine


def _read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not _has_nrrd:
        raise InputError(f"{path}: reading it needs the package pynrrd; install it with: pip install pynrrd")
    label_path = path.with_name(_NRRD_LABEL)
    volumes = []
    for file in (path, label_path):
        try:
            array, header = nrrd.read(str(file))
        except Exception as error:  # nrrd.NRRDError, and whatever gzip, zlib and numpy raise for a broken file
            raise InputError(f"{file}: cannot be read as NRRD ({type(error).__name__}: {error}).") from error
        volumes.append((array, _nrrd_affine(file, header)))
    (image, affine), (label, label_affine) = volumes
    if not np.allclose(affine[:3, :3], label_affine[:3, :3], atol=1e-3):
        raise InputError(
            f"{label_path}: found the axes {label_affine[:3, :3].tolist()} (mm, RAS), "
            f"wanted those of {path.name} beside it, {affine[:3, :3].tolist()}."
        )
    if not np.allclose(affine, label_affine, atol=1e-3):  # equal axes and equal shape: only the origin was lost
        tqdm.write(f"{label_path}: its origin differs from that of {path.name}, which is used for both.")
    return image, np.where(label == 255, 1, label), affine


def _convert(raw: Path, image_path: Path, label_path: Path) -> None:
    """Write a raw case as two NIfTI files; the label last, so that a pair exists only when it is complete."""
    image, label, affine = _read_h5(raw) if raw.name == _H5 else _read_nrrd(raw)
    if image.ndim != 3 or image.shape != label.shape:
        raise InputError(f"{raw}: found an image {image.shape} and a label {label.shape}, wanted two equal volumes.")
    if unknown := sorted(set(np.unique(label).tolist()) - {0, 1}):
        raise InputError(f"{raw}: found the label values {unknown[:10]}, wanted 0 and 1 (h5) or 0 and 255 (nrrd).")
    if image.dtype.itemsize > 4:  # MONAI trains in float32, and NIfTI readers stumble over 64-bit integers
        image = image.astype(np.float32)
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
                    f"{source}: found the case {path.parent.name} twice, {earlier} and {path}; wanted it once."
                )
    if not found:
        raise InputError(
            f"{source}: found neither <id>/{_H5} nor <id>/{_NRRD} anywhere in it, wanted the challenge's folder."
        )
    return found


def prepare_la(source: str, output: str, *, dry_run: bool = False) -> Path | None:
    """
    Convert the challenge's left-atrium scans to NIfTI and write the datalists of the published split.

    Reads ``<id>/mri_norm2.h5`` (``image`` and ``label``, cropped and normalised, as used by the published comparisons)
    and ``<id>/lgemri.nrrd`` with ``<id>/laendo.nrrd`` (the challenge's own release), at any depth. Writes
    ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs``, ``manifest.json``, and ``datalist_5.json`` (4 labelled,
    76 unlabelled), ``datalist_10.json`` (8, 72) and ``datalist_100.json`` (80), each with the 20 published test cases
    and no validation cases, since none are published. Published cases that are missing are named and left out, other
    cases named and left alone. A run that was interrupted goes on where it stopped: converted pairs that load are kept.

    Args:
        source: folder with the cases.
        output: folder to write to.
        dry_run: print what would be done, but write nothing.

    Returns:
        ``output``, ``None`` with ``dry_run``.

    Raises:
        InputError: if a case is broken (all such cases are listed, the others are converted) or present twice, if an
            existing datalist has another content, or if h5py or pynrrd is needed and not installed.
    """
    source_dir, output_dir = Path(source), Path(output)
    split = read_json(_SPLIT, "the published split, part of this package")
    found = _find_cases(source_dir)

    # 1. what is there, against what was published
    published = [*split["train"], *split["test"]]
    without_label = {
        case for case, raw in found.items() if raw.name == _NRRD and not raw.with_name(_NRRD_LABEL).is_file()
    }
    usable = [case for case in published if case in found and case not in without_label]
    layouts = Counter(found[case].name for case in usable)
    print(f"{len(usable)} of {len(published)} published cases: {dict(layouts)}.")
    name_cases("Published cases that are missing; they are left out", set(published) - set(found))
    name_cases(f"Cases without {_NRRD_LABEL}; they are left out", without_label)
    name_cases("Cases that are not in the published split; they are left alone", set(found) - set(published))
    if len(layouts) > 1:
        print(f"Beware: {_H5} is cropped and normalised, {_NRRD} is not; a training set should hold only one of them.")

    # 2. the datalists, and whether they may be written
    def items(cases: Iterable[str]) -> list[dict[str, str]]:
        section = {case: "Ts" if case in split["test"] else "Tr" for case in cases if case in usable}
        return [
            {
                DatalistKeys.IMAGE.value: f"images{suffix}/{case}.nii.gz",
                DatalistKeys.LABEL.value: f"labels{suffix}/{case}.nii.gz",
            }
            for case, suffix in section.items()
        ]

    settings = {
        percent.rstrip("%"): (cases["labelled"], cases["unlabelled"]) for percent, cases in split["settings"].items()
    }
    settings["100"] = (split["train"], [])
    datalists = {}
    for percent, (labeled, unlabeled) in settings.items():
        training = items(labeled)
        if not training:
            print(f"datalist_{percent}.json is not written: none of its {len(labeled)} labelled cases is there.")
            continue
        datalists[f"datalist_{percent}.json"] = datalist(
            split["label_map"],
            name=f"la_{percent}",
            split_source=split["source"],
            training=training,
            unlabeled=items(unlabeled),
            testing=items(split["test"]),
        )
    refuse_changed_datalists(output_dir, datalists)
    if dry_run:
        print(
            f"Dry run: would convert {len(usable)} cases, unless done, and write {', '.join(datalists)} to {output_dir}."
        )
        return None

    # 3. convert what is not there yet; a broken case does not keep the others waiting
    manifest, complaints = [], []
    for case, item in tqdm(list(zip(usable, items(usable))), desc="converting", unit="case"):
        image, label = (output_dir / item[key] for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL))
        try:
            try:
                described = describe_pair(image, label, split["label_map"])
            except InputError:  # not converted yet, or not readable
                _convert(found[case], image, label)
                described = describe_pair(image, label, split["label_map"])
        except InputError as error:
            complaints.append(str(error))
        else:
            manifest.append({**item, "raw": found[case].name, **described})
    if complaints:
        raise InputError("\n".join([f"{len(complaints)} cases cannot be used, no datalist is written:", *complaints]))

    # 4. write
    missing = sorted(set(published) - set(usable))
    head = {"split_source": split["source"], "labels": split["label_map"], "missing": missing}
    write_json(output_dir / "manifest.json", {**head, "cases": manifest})
    for name, content in datalists.items():
        write_json(output_dir / name, content)
    print(f"Wrote {', '.join([*datalists, 'manifest.json'])} to {output_dir}.")
    return output_dir
