# SPDX-License-Identifier: Apache-2.0
"""NIfTI files: their names, their headers, and writing them whole."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import stand_in
from ..files import replacing
from .dicom import unreadable
from .grids import MAX_DISTANCE, grid_distance

__all__ = [
    "NIFTI_SUFFIXES",
    "is_nifti",
    "nifti_files",
    "nifti_problems",
    "nifti_warnings",
    "placed_header",
    "placed_image",
    "save_nifti",
    "without_suffix",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
SMALLEST_SIDE = 1e-6  # mm
SMALLEST_DETERMINANT = 1e-3  # of the directions of the axes: 1 if they are at right angles
LOGGER = logging.getLogger("dtlp")
_FORM_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_QUATERNION_ROUNDING = 1e-6  # nibabel takes less
_SAME_GRID = 1e-3  # voxels; float32
_GZIP = b"\x1f\x8b"
_UNITS = {1: "meters", 3: "microns"}  # of `xyzt_units`, but for 2, mm, and 0, which says nothing


def nifti_files(folder: str | Path) -> list[Path]:
    """
    The folder's own NIfTI files (``.nii``, ``.nii.gz``, in small or capital letters), sorted; empty if there is none.

    Hidden files are skipped: macOS leaves ``._*`` with the same endings on shared disks, and a program that was stopped
    a file that is half written. A link to nothing is listed, so that whoever reads it says so.

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


def nifti_problems(path: str) -> Iterator[str]:
    """
    What is wrong with a NIfTI file before its voxels are read, one sentence each: its name, compression and header.

    nibabel takes a side of 0 for 1, MONAI makes a singular affine anew from the sides, and both read the real part of
    complex numbers and pass over the unit: all without an error.

    Raises:
        Exception: whatever nibabel raises for a header that it cannot read.
    """
    named_gzip = path.lower().endswith(".gz")
    with open(path, "rb") as stream:
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
    if found := stand_in(start):
        yield f"{path}: expected a NIfTI file, got {found}."
    elif named_gzip and not start.startswith(_GZIP) and _header_kind(start):
        yield f"{path}: expected gzip, as its name says, got an uncompressed NIfTI file; rename it to *.nii."
    elif not named_gzip and start.startswith(_GZIP):
        yield f"{path}: expected an uncompressed file, as its name says, got gzip; rename it to *.nii.gz."
    else:
        yield from _header_problems(path)


def _header_kind(start: bytes) -> Any:
    """Class of the header that a file begins with; ``None`` if it is none."""
    return next((kind for kind in (nib.Nifti1Header, nib.Nifti2Header) if kind.may_contain_header(start)), None)


def _header_problems(path: str) -> Iterator[str]:
    with nib.openers.ImageOpener(path) as file:
        raw = _raw_header(file)
    if raw is not None:
        quaternion = [float(raw[name]) for name in ("quatern_b", "quatern_c", "quatern_d")]
        # nibabel cannot even load such a file
        if raw["qform_code"] > 0 and sum(q * q for q in quaternion) > 1 + _QUATERNION_ROUNDING:
            yield (
                f"{path}: expected a rotation in its qform, got the quaternion {np.round(quaternion, 4).tolist()}, "
                "which is longer than 1; write an sform and set qform_code to 0, or correct the qform."
            )
            return
    header: Any = nib.load(path).header
    raw = header if raw is None else raw
    kind = header.get_data_dtype()
    if kind.fields:
        yield f"{path}: expected one number per voxel, got colors ({'RGBA'[: len(kind)]}); convert it to grayscale."
    elif kind.kind == "c":
        yield f"{path}: expected real numbers, got complex ones ({kind}); save their magnitude."
    if (unit := int(raw["xyzt_units"]) & 7) in _UNITS:
        yield (
            f"{path}: expected mm, got {_UNITS[unit]} (xyzt_units in its header); convert the file, or correct the "
            "unit if its numbers are already in mm."
        )
    if raw["sform_code"] > 0 and not any(raw[row].any() for row in ("srow_x", "srow_y", "srow_z")):
        yield (
            f"{path}: expected an affine in its sform, got only zeros (sform_code {int(raw['sform_code'])}); write the "
            "affine into the header, or set sform_code to 0 if the qform is correct."
        )
    else:
        yield from _geometry_problems(path, np.asarray(raw["pixdim"][1:4], float), header.get_best_affine())


def _raw_header(file: Any) -> Any:
    """A header as it is written: nibabel mends the sides of its own copy; ``None`` if it is none."""
    kind = _header_kind(file.read(nib.Nifti2Header.sizeof_hdr))
    if kind is None:
        return None
    file.seek(0)
    return kind.from_fileobj(file, check=False)


def _geometry_problems(path: str, sides: np.ndarray, affine: np.ndarray) -> Iterator[str]:
    if not np.isfinite(affine).all():
        yield f"{path}: expected finite numbers in its affine, got NaN or infinity; the header is damaged."
        return
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    for found in (np.abs(sides), columns):
        if not np.isfinite(found).all() or (found < SMALLEST_SIDE).any():
            text = " x ".join(f"{side:.3g}" for side in found)
            yield f"{path}: expected voxel sizes greater than 0, got {text} mm; the header is damaged."
            return
    if abs(np.linalg.det(affine[:3, :3] / columns)) < SMALLEST_DETERMINANT:
        yield f"{path}: expected an invertible affine, got one with linearly dependent axes; the header is damaged."


def nifti_warnings(path: str) -> Iterator[str]:
    """What readers of a sound NIfTI file may see in different ways, one sentence each."""
    header: Any = nib.load(path).header
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        yield (
            f"{path}: its header has neither qform nor sform, so left and right are unknown, and programs display it "
            "differently. It is read as nibabel reads it, with x running from right to left."
        )


def placed_header(shape: Sequence[int], affine: np.ndarray, source: str = "") -> Any:
    """
    A NIfTI header for a volume that every program shows where it shows the scan that it belongs to.

    Args:
        shape: voxels ``(x, y, z)``.
        affine: ``(4, 4)``, voxel index to mm in RAS.
        source: the scan. If it is a NIfTI file on this grid, its forms, their codes and its unit of length are taken:
            programs choose between the two forms by rules of their own.

    Returns:
        The header; without a source, sform and qform are the affine, but for a sheared one, which no qform can tell:
        then its code is 0, and the log says so.
    """
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    scan = _header_of(source, shape, affine)
    if scan is not None:
        for name in _FORM_FIELDS:
            header[name] = scan[name]
        header["pixdim"][:4] = scan["pixdim"][:4]
        header.set_xyzt_units(scan.get_xyzt_units()[0])
    else:
        header.set_xyzt_units("mm")
        header.set_sform(affine, code="scanner")
        header.set_qform(affine, code="scanner")  # without its shear
    if grid_distance(shape, affine, _without_shear(affine)) > MAX_DISTANCE:
        if scan is None:
            header.set_qform(None, code="unknown")
            header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
        LOGGER.info(
            f"{source or 'a volume'}: its axes are not at right angles, which a qform cannot represent, so files "
            "derived from it have only an sform; programs built on ITK (3D Slicer, ITK-SNAP) refuse such files."
        )
    return header


def _without_shear(affine: np.ndarray) -> np.ndarray:
    header = nib.Nifti1Header()
    header.set_qform(affine, code="scanner")
    return np.asarray(header.get_qform())


def _header_of(path: str, shape: Sequence[int], affine: np.ndarray) -> Any:
    """Header of a NIfTI file, if it is on that grid."""
    if not path or not is_nifti(path):
        return None
    try:
        header: Any = nib.load(path).header
    except Exception:  # gone or changed since it was read: its affine is known
        return None
    same = tuple(header.get_data_shape()[:3]) == tuple(shape)
    return header if same and grid_distance(shape, affine, header.get_best_affine()) <= _SAME_GRID else None


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray, source: str = "") -> None:
    """
    Write a volume, whole or not at all.

    Args:
        path: target, ``.nii.gz``.
        array: ``(x, y, z)``, of a type NIfTI knows; stored as float32 if its numbers are longer than that.
        affine: ``(4, 4)``, voxel index to mm in RAS.
        source: see :py:func:`placed_header`.

    Raises:
        InputError: if the file cannot be written.
    """
    if array.dtype.itemsize > 4:  # MONAI trains in float32, and NIfTI readers stumble over 64-bit integers
        array = array.astype(np.float32)
    with replacing(path) as part:
        nib.save(placed_image(array, affine, source), part)


def placed_image(array: np.ndarray, affine: np.ndarray, source: str = "") -> Any:
    """A volume ``(x, y, z)`` with :py:func:`placed_header`, to be saved."""
    header = placed_header(array.shape, affine, source)
    header.set_data_dtype(array.dtype)
    return nib.Nifti1Image(array, None, header)  # given an affine, nibabel would put it into both forms
