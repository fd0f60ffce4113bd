# SPDX-License-Identifier: Apache-2.0
"""NIfTI files: their names, their headers, and writing them whole."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import first_line
from ..files import replacing
from .dicom import unreadable

__all__ = ["NIFTI_SUFFIXES", "is_nifti", "nifti_files", "nifti_problem", "read_nifti", "save_nifti", "without_suffix"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
GZIP = b"\x1f\x8b"  # how such a file begins
SMALLEST_SIDE = 1e-6  # mm
SMALLEST_DETERMINANT = 1e-3  # of the directions of the axes: 1 if they are at right angles


def nifti_files(folder: str | Path) -> list[Path]:
    """
    The folder's own NIfTI files (``.nii``, ``.nii.gz``, in small or capital letters), sorted; empty if there is none.

    Hidden files are skipped: macOS leaves ``._*`` with the same endings on shared disks, and a program that was stopped a
    file that is half written. A link to nothing is listed, so that whoever reads it says so.

    Raises:
        InputError: if the folder cannot be read.
    """
    try:
        files = sorted(Path(folder).iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error
    return [
        file
        for file in files
        if is_nifti(file.name)
        and not file.name.startswith(".")
        and (file.is_file() or (file.is_symlink() and not file.exists()))
    ]


def without_suffix(name: str) -> str:
    """A file's name without the ending that makes it NIfTI, if it has one."""
    return name[: name.lower().rindex(".nii")] if is_nifti(name) else name


def is_nifti(name: str) -> bool:
    return name.lower().endswith(NIFTI_SUFFIXES)


def nifti_problem(path: str) -> str | None:
    """
    What is wrong with a NIfTI file as its name and header tell, in one sentence; ``None`` if its voxels can be read.

    Neither nibabel nor MONAI complains of most of it: nibabel takes a side of 0 mm for 1 and complex numbers by their
    real part, MONAI makes a singular affine anew from the sides, and both take any unit for mm.
    """
    if not is_nifti(os.path.basename(path)):
        return f"{path}: expected a NIfTI file (.nii or .nii.gz) or a folder with a DICOM series, got another name."
    try:
        with open(path, "rb") as file:
            start = file.read(len(GZIP))
        if (start == GZIP) != path.lower().endswith(".gz"):
            name = path + ".gz" if start == GZIP else path[: -len(".gz")]
            got = "gzip" if start == GZIP else "something else"
            return (
                f"{path}: expected {'no gzip' if start == GZIP else 'gzip'}, as its name says, got {got}; is it {name}?"
            )
        header: Any = nib.load(path).header
        with nib.openers.ImageOpener(path) as file:
            raw = type(header).from_fileobj(file, check=False)
    except Exception as error:  # readers raise whatever the damage happens to trigger
        return f"{path}: expected a NIfTI file, got one that is truncated, damaged or of another kind ({first_line(error)})."
    if header.get_data_dtype().kind not in "iuf":
        kind = {"c": "complex numbers", "V": "RGB colors"}.get(header.get_data_dtype().kind, "something else")
        return f"{path}: expected one real number for every voxel, got {kind}."
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        return (
            f"{path}: expected sides of the voxels in mm, got {unit}; convert the header (xyzt_units, pixdim, affine)."
        )
    return _geometry_problem(path, np.asarray(raw["pixdim"][1:4], float), np.asarray(header.get_best_affine(), float))


def _geometry_problem(path: str, sides: np.ndarray, affine: np.ndarray) -> str | None:
    """What is wrong with the sides of the voxels ``(3,)`` in mm, or with the affine ``(4, 4)``."""
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    for found in (np.abs(sides), columns):
        if not np.isfinite(found).all() or (found < SMALLEST_SIDE).any():
            text = " x ".join(f"{side:.3g}" for side in found)
            return f"{path}: expected voxels with three sides above 0 mm, got {text} mm; the header is damaged."
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3] / columns)) < SMALLEST_DETERMINANT:
        return f"{path}: expected three axes in three directions, got a singular affine; the header is damaged."
    return None


def read_nifti(path: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Read a NIfTI file to its last byte.

    Returns:
        Voxels ``(x, y, z)``, or ``(x, y, z, n)``; axes of length 1 after the third are left out. Numbers are those of the
        file, float32 where it has longer ones, as in training. And the affine ``(4, 4)``, voxel index to mm in RAS.

    Raises:
        Exception: of any kind, if the file is damaged.
    """
    if path.lower().endswith(".gz"):
        # nibabel stops after the last voxel; only who reads on gets the checksum compared
        with gzip.open(path) as file:
            while file.read(1 << 24):
                pass
    image: Any = nib.load(path)
    voxels = np.asanyarray(image.dataobj)
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize > 4:
        with np.errstate(over="ignore"):  # infinite then, which the judge says
            voxels = voxels.astype(np.float32)
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    return (voxels if voxels.ndim <= 4 else voxels.reshape(*voxels.shape[:3], -1)), np.asarray(image.affine, float)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """
    Write a volume, whole or not at all.

    Args:
        path: target, ``.nii.gz``.
        array: ``(x, y, z)``, of a type NIfTI knows; stored as float32 if its numbers are longer than that.
        affine: ``(4, 4)``, voxel index to mm in RAS.

    Raises:
        InputError: if the file cannot be written.
    """
    if array.dtype.itemsize > 4:  # MONAI trains in float32, and NIfTI readers stumble over 64-bit integers
        array = array.astype(np.float32)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with replacing(path) as part:
        nib.save(image, part)
