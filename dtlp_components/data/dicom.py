# SPDX-License-Identifier: Apache-2.0
"""DICOM series as folders: which folders hold one, which of their files are its slices, what is wrong with them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import InputError, first_line

__all__ = ["find_series", "folders_below", "is_dicom", "series_among", "series_files", "series_problems", "unreadable"]

_STEP_TOLERANCE = 0.05  # share of the usual distance between slices
_SAME = 1e-3  # scanners write the same direction and spacing with other last digits
_SOP_CLASS_UID, _SERIES_INSTANCE_UID = 0x00080016, 0x0020000E
# Segmentation and Label Map Segmentation Storage: label maps of a series, such as `--dicom_seg` writes
_SEGMENTATIONS = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}


def is_dicom(file: Path) -> bool:
    """Whether a file ends in ``.dcm`` or has DICOM's mark; not hidden files, nor a ``DICOMDIR``, which is an index."""
    try:
        return _is_dicom(file)
    except OSError:
        return False


def _is_dicom(file: Path) -> bool:
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR":
        return False
    if file.suffix.lower() == ".dcm":
        return True
    with open(file, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def folders_below(folder: str | Path) -> Iterator[tuple[Path, list[str]]]:
    """
    The folder itself and those below it, at any depth, each with the names of its files, sorted.

    Links are followed, but every folder comes once, under its own path if that lies below `folder`; so cycles end. Not
    followed are links up to a folder that holds `folder`; hidden folders are passed over, as hidden files are.

    Raises:
        InputError: if a folder cannot be read.
    """
    seen, waiting = {str(parent) for parent in Path(os.path.realpath(folder)).parents}, [str(folder)]
    for start in waiting:  # grows
        for place, folders, names in os.walk(start, onerror=_raise_unreadable):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [link for name in folders if os.path.islink(link := os.path.join(place, name))]
            yield Path(place), sorted(names)


def unreadable(path: str | Path, error: OSError) -> InputError:
    """What to raise for a file or folder that cannot be read."""
    return InputError(
        f"{path}: cannot be read ({error.strerror}), so that scans may be missing; expected files and folders that are "
        "there and may be read. Mend it, or move it away."
    )


def _raise_unreadable(error: OSError) -> None:
    raise unreadable(error.filename, error) from error


def find_series(folder: str | Path) -> list[Path]:
    """
    :py:func:`series_among` the folder itself and those below it, at any depth.

    Raises:
        InputError: if a folder cannot be read, and see there.
    """
    return series_among(folders_below(folder))


def series_among(folders: Iterable[tuple[Path, list[str]]]) -> list[Path]:
    """
    Those of the folders, given with the names of their files, that hold a slice, sorted; each is one scan. A slice is a
    DICOM file that is no DICOM Segmentation.

    Of each such folder one file's first lines are read, up to the number of its series; a warning names two folders
    with slices of one series.

    Raises:
        InputError: if a file without ending cannot be read, which may be a slice or a link to a folder that is gone.
    """
    found, by_series = [], dict[str, Path]()
    for place, names in folders:
        closed = None
        for name in names:
            file = place / name
            try:
                if not _is_dicom(file):
                    continue
            except OSError as error:
                closed = closed or (None if name.startswith(".") or _ending(file) else (file, error))
                continue
            sop_class, series = _identity(file)
            if sop_class in _SEGMENTATIONS:
                continue
            found.append(place)
            if (other := by_series.setdefault(series, place) if series else place) != place:
                # phases may share a number, so that this need not be wrong
                logging.getLogger("dtlp").warning(
                    f"{place} holds slices of the series that {other} holds too ({series}): taken for two scans. If "
                    "they are parts of one volume, put them into one folder; if they are copies, take one away."
                )
            break
        else:
            # beside a slice it would be met as a damaged one
            if closed:
                raise unreadable(*closed) from closed[1]
    return sorted(found)


def _identity(file: Path) -> tuple[str, str]:
    """SOP class and series of a DICOM file, each empty if that cannot be said; what follows them is not read."""
    try:
        from pydicom.filereader import read_partial
    except ImportError:  # `series_problems` says so
        return "", ""
    try:
        with open(file, "rb") as stream:
            header = read_partial(
                stream,
                stop_when=lambda tag, vr, length: tag > _SERIES_INSTANCE_UID,
                specific_tags=[_SOP_CLASS_UID, _SERIES_INSTANCE_UID],
            )
            return str(header.get("SOPClassUID") or ""), str(header.get("SeriesInstanceUID") or "")
    except Exception:  # readers raise whatever the damage triggers; whoever reads it all says so
        return "", ""


def series_files(folder: Path) -> list[Path]:
    """
    Files to read as slices, sorted by name.

    These are the DICOM files and those that end like one of them, so that a slice that is damaged beyond recognition is
    met and not skipped; DICOM Segmentations and what else lies beside the slices (a NIfTI file, a note) are passed
    over.
    """
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
    files = [file for file in files if file.name.upper() != "DICOMDIR"]
    dicom = {file: _identity(file)[0] for file in files if is_dicom(file)}
    endings = {_ending(file) for file, sop_class in dicom.items() if sop_class not in _SEGMENTATIONS}
    return [file for file in files if _ending(file) in endings and dicom.get(file) not in _SEGMENTATIONS]


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
        except Exception as e:  # readers raise whatever the damage happens to trigger
            return [f"{file}: damaged or no DICOM file ({type(e).__name__}: {first_line(e)})."]
    if len(slices) < 2:
        return [
            f"{folder}: found {'one' if slices else 'no'} DICOM file, expected a series of slices; dcm2niix converts "
            "multi-frame files to NIfTI."
        ]
    needed = (
        *("SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
        *("Rows", "Columns"),
    )
    for name, header in slices:
        if missing := [tag for tag in needed if getattr(header, tag, None) is None]:
            return [f"{folder / name}: found no {' and no '.join(missing)}, which is needed to place the slice."]
    series = {str(header.SeriesInstanceUID) for _, header in slices}
    if len(series) > 1:
        return [f"{folder}: found {len(series)} series, expected one in each folder; move them apart."]
    for tag in ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
        values = [np.atleast_1d(np.asarray(header[tag].value, float)) for _, header in slices]
        if any(len(v) != len(values[0]) or not np.allclose(v, values[0], rtol=0, atol=_SAME) for v in values):
            return [f"{folder}: found slices that differ in {tag}, expected one grid."]

    slices.sort(key=lambda item: int(item[1].InstanceNumber))
    directions = np.asarray(slices[0][1].ImageOrientationPatient, float)
    normal = np.cross(directions[:3], directions[3:])
    moves = np.diff([np.asarray(header.ImagePositionPatient, float) for _, header in slices], axis=0)  # (slices - 1, 3)
    steps = moves @ normal
    usual = float(np.median(np.abs(steps)))
    names = [name for name, _ in slices]
    if (np.abs(steps) < _STEP_TOLERANCE * usual).any() or usual == 0:
        i = int(np.abs(steps).argmin())
        return [f"{folder}: found {names[i]} and {names[i + 1]} at the same place, expected every slice once."]
    if not (np.sign(steps) == np.sign(steps[0])).all():
        return [f"{folder}: found slices whose InstanceNumber does not follow their position, expected them in order."]
    gaps = [i for i, step in enumerate(np.abs(steps)) if abs(step - usual) > _STEP_TOLERANCE * usual]
    if gaps:
        return [
            f"{folder}: found {abs(steps[i]):.3g} mm from {names[i]} to {names[i + 1]} and {usual:.3g} mm elsewhere, "
            "expected one distance: a slice is missing, or the spacing varies. Export the series again, or convert it "
            "with dcm2niix."
            for i in gaps
        ]
    # a tilted gantry moves every slice sideways by the same; readers make one affine from the first and the last
    usual_move = np.median(moves, axis=0)
    aside = np.linalg.norm(moves - usual_move, axis=1) > _STEP_TOLERANCE * usual
    return [
        f"{folder}: found a move by {_vector(moves[i])} mm from {names[i]} to {names[i + 1]} and by "
        f"{_vector(usual_move)} mm elsewhere, expected one direction: slices are displaced sideways, or belong "
        "to two series. Export the series again."
        for i in np.flatnonzero(aside)
    ]


def _vector(values: np.ndarray) -> str:
    return f"({', '.join(f'{value:.3g}' for value in values + 0.0)})"
