# SPDX-License-Identifier: Apache-2.0
"""NIfTI files: their names, their headers, and writing them whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..files import replacing
from .dicom import unreadable

__all__ = ["NIFTI_SUFFIXES", "is_nifti", "nifti_files", "nifti_geometry", "save_nifti", "without_suffix"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")


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


def nifti_geometry(path: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Sides of the voxels (mm) and affine, as a NIfTI file's header has them.

    nibabel takes a side of 0 for 1, and MONAI makes a singular affine anew from the sides: both without an error.
    """
    header: Any = nib.load(path).header
    with nib.openers.ImageOpener(path) as file:
        raw = type(header).from_fileobj(file, check=False)
    return np.asarray(raw["pixdim"][1:4], dtype=float), np.asarray(header.get_best_affine(), dtype=float)


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
