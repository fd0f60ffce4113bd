# SPDX-License-Identifier: Apache-2.0
"""DICOM series as folders: which folders hold one, which of their files are its slices, what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import InputError, first_line

__all__ = ["find_series", "is_dicom", "series_files", "series_problems"]

_STEP_TOLERANCE = 0.05  # share of the usual distance between slices


def is_dicom(file: Path) -> bool:
    """Whether a file ends in ``.dcm`` or has DICOM's mark; not hidden files, nor a ``DICOMDIR``, which is an index."""
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR":
        return False
    if file.suffix.lower() == ".dcm":
        return True
    try:
        with open(file, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_series(folder: str | Path) -> list[Path]:
    """The folder itself and those below it, at any depth, that hold a DICOM file, sorted; each is one scan."""
    return sorted(
        Path(place) for place, _, names in os.walk(folder) if any(is_dicom(Path(place, name)) for name in names)
    )


def series_files(folder: Path) -> list[Path]:
    """
    Files to read as slices, sorted by name.

    These are the DICOM files and those that end like one of them, so that a slice that is damaged beyond recognition is
    met and not skipped; what lies beside the slices (a NIfTI file, a note) is passed over.
    """
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
    files = [file for file in files if file.name.upper() != "DICOMDIR"]
    endings = {_ending(file) for file in files if is_dicom(file)}
    return [file for file in files if _ending(file) in endings]


def _ending(file: Path) -> str:
    # a UID as a name ends in a number, which is no ending
    return "" if file.suffix[1:].isdecimal() else file.suffix.lower()


def series_problems(folder: Path) -> list[str]:
    """
    What would make a reader stack the slices of a folder wrongly, one sentence each; pixels are not read.

    Raises:
        InputError: if pydicom is missing.
    """
    try:
        import pydicom
    except ImportError as error:
        raise InputError(f"{folder}: found DICOM; reading it needs pydicom: pip install pydicom") from error
    slices = []
    for file in series_files(folder):
        try:
            slices.append((file.name, pydicom.dcmread(file, stop_before_pixels=True)))
        except Exception as e:  # noqa: BLE001 - readers raise whatever the damage happens to trigger
            return [f"{file}: damaged or no DICOM file ({type(e).__name__}: {first_line(e)})."]
    if len(slices) < 2:
        return [
            f"{folder}: found {'one' if slices else 'no'} DICOM file, wanted a series of slices; dcm2niix converts multi-frame files to NIfTI."
        ]
    needed = ("SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    for name, header in slices:
        if missing := [tag for tag in needed if getattr(header, tag, None) is None]:
            return [f"{folder / name}: found no {' and no '.join(missing)}, which is needed to place the slice."]
    series = {str(header.SeriesInstanceUID) for _, header in slices}
    if len(series) > 1:
        return [f"{folder}: found {len(series)} series, wanted one in each folder; move them apart."]
    for tag in ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
        # rounded: scanners write the same direction with other last digits
        different = {tuple(np.round(np.atleast_1d(np.asarray(header[tag].value, float)), 3)) for _, header in slices}
        if len(different) > 1:
            return [f"{folder}: found slices that differ in {tag}, wanted one grid."]

    slices.sort(key=lambda item: int(item[1].InstanceNumber))
    directions = np.asarray(slices[0][1].ImageOrientationPatient, float)
    normal = np.cross(directions[:3], directions[3:])
    steps = np.diff([np.asarray(header.ImagePositionPatient, float) @ normal for _, header in slices])
    usual = float(np.median(np.abs(steps)))
    names = [name for name, _ in slices]
    if (np.abs(steps) < _STEP_TOLERANCE * usual).any() or usual == 0:
        i = int(np.abs(steps).argmin())
        return [f"{folder}: found {names[i]} and {names[i + 1]} at the same place, wanted every slice once."]
    if not (np.sign(steps) == np.sign(steps[0])).all():
        return [f"{folder}: found slices whose InstanceNumber does not follow their position, wanted them in order."]
    gaps = [i for i, step in enumerate(np.abs(steps)) if abs(step - usual) > _STEP_TOLERANCE * usual]
    return [
        f"{folder}: found {abs(steps[i]):.3g} mm from {names[i]} to {names[i + 1]} and {usual:.3g} mm elsewhere, wanted "
        "one distance: a slice is missing, or the spacing varies. Export the series again, or convert it with dcm2niix."
        for i in gaps
    ]
