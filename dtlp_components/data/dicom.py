# SPDX-License-Identifier: Apache-2.0
"""DICOM files: which files are some, and what of an image each of them holds, a slice or the frames of a volume."""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..errors import InputError

__all__ = ["NotASliceError", "Slice", "folders_below", "has_dicom_ending", "is_dicom", "read_slices", "unreadable"]

# a slice of these that lacks its place is a damaged one; other images without a place are photographs, projections, …
_VOLUME_CLASSES = ("CT Image Storage", "MR Image Storage", "Positron Emission Tomography Image Storage")
_FRAME_CLASSES = ("Enhanced CT Image Storage", "Enhanced MR Image Storage", "Enhanced PET Image Storage")
# Segmentation and Label Map Segmentation Storage, such as `--dicom_seg` writes; pydicom has no name for the second
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_HEADER_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "RescaleIntercept", "RescaleSlope", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


class NotASliceError(Exception):
    """A sound DICOM file that holds no slice of a volume; the text says what it is, in a word or two."""


@dataclass(frozen=True)
class Slice:
    """
    One plane of a volume: a file, or a frame of one.

    Attributes:
        file: where it is.
        frame: number in its file, from 0; ``None`` if it is all of it.
        instance: UID of the file's object; empty if there is none.
        series: UID of its series; empty if there is none.
        title: number and description of the series, for people.
        sop_class: name of what kind of object it is.
        modality: such as ``CT``.
        syntax: UID of how its pixels are packed; empty if the file does not say.
        rows, columns: pixels; 0 if missing.
        spacing: mm from row to row and from column to column.
        orientation: direction of a row and of a column in LPS, six numbers.
        position: of the first pixel in LPS, mm.
        decimals: digits after the point that each number of the position is written with.
        slope, intercept: from stored numbers to the scanner's; ``None`` if missing.
    """

    file: Path
    frame: int | None
    instance: str
    series: str
    title: str
    sop_class: str
    modality: str
    syntax: str
    rows: int
    columns: int
    spacing: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    decimals: tuple[int, ...]
    slope: float | None
    intercept: float | None

    @property
    def missing(self) -> list[str]:
        """DICOM's names of what is needed to place the slice, and is not there."""
        there = {
            "ImagePositionPatient": self.position, "ImageOrientationPatient": self.orientation,
            "PixelSpacing": self.spacing, "Rows": self.rows, "Columns": self.columns,
        }  # fmt: skip
        return [name for name, value in there.items() if not value]


def has_dicom_ending(file: Path) -> bool:
    return file.suffix.lower() in (".dcm", ".dicom")


def is_dicom(file: Path) -> bool:
    """
    Whether a file ends in ``.dcm``, has DICOM's mark, or, without that, begins with DICOM's first tags; not hidden
    files, nor a ``DICOMDIR``, which is an index, nor what is no file (a pipe would never end).

    Raises:
        OSError: if that cannot be read.
    """
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR":
        return False
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return False
    except OSError:
        if not has_dicom_ending(file):
            raise
        return True  # a link to nothing, which whoever reads it names
    if has_dicom_ending(file):
        return True
    with open(file, "rb") as stream:
        return _begins_like_dicom(stream.read(132))


def _begins_like_dicom(start: bytes) -> bool:
    if start[128:] == b"DICM":
        return True
    if len(start) < 132:
        return False
    # pydicom's own test is the mark alone, which files of old archives and some exports lack
    group, element, kind, length = struct.unpack("<HH2sH", start[:8])
    explicit = kind in (b"UL", b"UI", b"CS", b"OB", b"SH", b"LO")
    return group in (2, 8) and element <= 0x18 and (explicit or (length == 0 and 0 < kind[0] <= 0x40 and kind[1] == 0))


def read_slices(file: Path) -> list[Slice]:
    """
    The slices in a DICOM file: one, or, of an enhanced multi-frame image, one for each frame; pixels are not read.

    Raises:
        NotASliceError: if it holds none, such as a report, a scout view or a DICOM Segmentation.
        Exception: whatever pydicom raises for a file that is damaged or no DICOM.
    """
    import pydicom

    # forced: without the mark, pydicom reads a file only then
    header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=[*_HEADER_TAGS])
    uid = pydicom.uid.UID(header.get("SOPClassUID") or "")
    sop_class = uid.name
    if not sop_class and not header.get("Rows"):
        raise ValueError("it states neither its kind nor its size")
    if uid in _SEGMENTATIONS:
        raise NotASliceError("DICOM Segmentation")
    if "LOCALIZER" in _texts(header.get("ImageType")):
        raise NotASliceError("localizer")
    if groups := header.get("PerFrameFunctionalGroupsSequence"):
        shared = [*(header.get("SharedFunctionalGroupsSequence") or []), pydicom.Dataset()][0]
        frames = [_slice(file, header, sop_class, _Groups(group, shared, header), i) for i, group in enumerate(groups)]
        if not any(frame.position for frame in frames):
            raise NotASliceError(sop_class)
        return frames
    if sop_class in _FRAME_CLASSES:
        # whoever judges it says that its places are missing
        return [_slice(file, header, sop_class, pydicom.Dataset())]
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise NotASliceError(f"{sop_class} with several frames")
    if int(header.get("SamplesPerPixel") or 1) > 1:
        raise NotASliceError("color image")
    found = _slice(file, header, sop_class, header)
    if found.missing and sop_class not in _VOLUME_CLASSES:
        raise NotASliceError(sop_class or "object without a class")
    return [found]


class _Groups:
    """Functional groups of a frame, its own before those of all frames, read like a header; what they lack, it has."""

    _SEQUENCES = (
        "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"
    )  # fmt: skip

    def __init__(self, own: Any, shared: Any, header: Any) -> None:
        self._items: list[Any] = [
            item for group in (own, shared) for name in self._SEQUENCES for item in group.get(name) or []
        ]
        self._items.append(header)  # converters leave some of it there

    def get(self, name: str) -> Any:
        return next((item[name].value for item in self._items if name in item), None)


def _slice(file: Path, header: Any, sop_class: str, place: Any, frame: int | None = None) -> Slice:
    position = place.get("ImagePositionPatient")
    return Slice(
        file=file,
        frame=frame,
        instance=str(header.get("SOPInstanceUID") or ""),
        series=str(header.get("SeriesInstanceUID") or ""),
        title=f'series {header.get("SeriesNumber") or "without a number"} "{header.get("SeriesDescription") or ""}"',
        sop_class=sop_class,
        modality=str(header.get("Modality") or ""),
        syntax=str(header.file_meta.get("TransferSyntaxUID") or ""),
        rows=int(header.get("Rows") or 0),
        columns=int(header.get("Columns") or 0),
        spacing=_numbers(place.get("PixelSpacing"), 2),
        orientation=_numbers(place.get("ImageOrientationPatient"), 6),
        position=_numbers(position, 3),
        decimals=tuple(_decimals(number) for number in position or ()),
        slope=_number(place.get("RescaleSlope")),
        intercept=_number(place.get("RescaleIntercept")),
    )


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(text) for text in value or []]


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    if not values:
        return None
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"expected {count} numbers, got {numbers}")
    return numbers


def _decimals(number: Any) -> int:
    """Digits after the point that a decimal number is written with; of a binary one, as many as it can have."""
    text = getattr(number, "original_string", "").strip()
    exponent = Decimal(text).as_tuple().exponent if text else None
    return max(0, -exponent) if isinstance(exponent, int) else 16


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
        f"{path}: cannot be read ({error.strerror}), so scans may be missing; expected files and folders that exist "
        "and are readable. Fix it, or move it elsewhere."
    )


def _raise_unreadable(error: OSError) -> None:
    raise unreadable(error.filename, error) from error
