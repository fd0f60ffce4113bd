# SPDX-License-Identifier: Apache-2.0
"""DICOM files sorted into series, each of which is a scan."""

# A scan is known by one path. That of a series is its folder; of a folder that holds several, the first file of each.

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import InputError, first_line
from .channel_files import channel_files
from .dicom import NotASliceError, Slice, folders_below, is_dicom, read_slices, unreadable

__all__ = [
    "SortedFolder",
    "find_series",
    "is_series",
    "scan_stamp",
    "series_among",
    "series_files",
    "series_of",
    "slice_normal",
    "sort_folder",
]

LOGGER = logging.getLogger("dtlp")

_SAME_WAY = 0.99  # cosine; scout views are turned by much more
_FEWEST = 3  # slices of a volume; two may be a scout view from the front and one from the side
_FEW = 5  # images: fewer, beside more of the same series, are scout views without a mark
_NAMED = 3


@dataclass(frozen=True)
class SortedFolder:
    """
    DICOM in a folder.

    Attributes:
        series: scans, each with its slices in the order of their places, sorted by the name of their first file.
        passed_over: what holds no slice of a scan, by what it is.
        damaged: files that may have been slices, with the reason why nobody can tell.
    """

    series: tuple[tuple[Slice, ...], ...]
    passed_over: dict[str, list[Path]]
    damaged: dict[Path, str]

    def paths(self, folder: Path) -> list[Path]:
        """By what path each scan is known; the folder if there are only damaged files, so that somebody names them."""
        if len(self.series) <= 1:
            return [folder] if self.series or self.damaged else []
        return [_first(slices) for slices in self.series]


def is_series(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a DICOM series: a folder, or a DICOM file."""
    return os.path.isdir(path) or (os.path.isfile(path) and is_dicom(Path(path)))


def find_series(folder: str | Path) -> list[Path]:
    """
    :py:func:`series_among` the folder itself and those below it, at any depth.

    Raises:
        InputError: if a folder cannot be read, and see there.
    """
    return series_among(folders_below(folder))


def series_among(folders: Iterable[tuple[Path, list[str]]]) -> list[Path]:
    """
    Paths of the series in folders that are given with the names of their files, sorted; each is one scan.

    What is passed over is counted in a warning, and so are series whose slices lie in two folders.

    Raises:
        InputError: if a file without ending cannot be read, which may be a slice or a link to a folder that is gone.
    """
    found, by_series = [], dict[str, Path]()
    passed_over: dict[str, list[Path]] = {}
    for place, names in folders:
        if not _has_dicom(place, names):
            continue
        if importlib.util.find_spec("pydicom") is None:  # whoever reads the folder says so
            found.append(place)
            continue
        content = sort_folder(place)
        found += (paths := content.paths(place))
        for kind, files in content.passed_over.items():
            passed_over.setdefault(kind, []).extend(files)
        if len(content.series) > 1:
            LOGGER.info(
                f"{place}: {len(content.series)} series, each treated as a scan named by its first file: "
                f"{_listed(content)}"
            )
        for path, slices in zip(paths, content.series, strict=False):  # a damaged folder has a path alone
            uid = slices[0].series
            if uid and (other := by_series.setdefault(uid, place)) != place:
                # phases may share a number, so that this need not be wrong
                LOGGER.warning(
                    f"{path} and {other} hold slices of the same series ({uid}), treated as two scans. If they are "
                    "parts of one volume, put them into one folder; if they are copies, remove one."
                )
    if passed_over:
        LOGGER.warning(f"Skipped DICOM files that are not slices of a scan: {_counted(passed_over)}.")
    return sorted(found)


def _has_dicom(place: Path, names: Sequence[str]) -> bool:
    closed = None
    for name in names:
        try:
            if is_dicom(place / name):
                return True
        except OSError as error:
            closed = closed or (None if name.startswith(".") or _ending(place / name) else (place / name, error))
    if closed:
        raise unreadable(*closed) from closed[1]
    return False


def _counted(passed_over: dict[str, list[Path]]) -> str:
    texts = []
    for kind, files in sorted(passed_over.items()):
        more = ", …" if len(files) > _NAMED else ""
        texts.append(f"{len(files)} × {kind} ({', '.join(str(file) for file in files[:_NAMED])}{more})")
    return "; ".join(texts)


def _listed(content: SortedFolder) -> str:
    return ", ".join(f"{_first(s).name} ({s[0].title}, {len(s)} slices)" for s in content.series)


def _ending(file: Path) -> str:
    # a UID as a name ends in a number, which is no ending
    return "" if file.suffix[1:].isdecimal() else file.suffix.lower()


def sort_folder(folder: Path) -> SortedFolder:
    """
    Tell the series of a folder apart, by UID, direction and size; copies of a slice are dropped.

    Headers are read once as long as no file changes.

    Raises:
        InputError: if the folder cannot be read.
        ImportError: if pydicom is missing.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        stamps = tuple((e.name, s.st_size, s.st_mtime_ns) for e in entries if e.is_file() for s in (e.stat(),))
    except OSError as error:
        raise unreadable(folder, error) from error
    return _sort(folder, stamps)


@lru_cache(maxsize=4096)
def _sort(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> SortedFolder:
    slices, passed_over, damaged = list[Slice](), dict[str, list[Path]](), dict[Path, str]()
    strangers, endings = [], set()
    for file in (folder / name for name, *_ in stamps):
        if not _may_be_read(file):
            strangers.append(file)
            continue
        try:
            slices += read_slices(file)
            endings.add(_ending(file))
        except NotASliceError as kind:
            passed_over.setdefault(str(kind), []).append(file)
        except Exception as error:  # readers raise whatever the damage happens to trigger
            damaged[file] = f"{type(error).__name__}: {first_line(error)}"
    # a slice that is damaged beyond recognition is met by its name; what lies beside (a NIfTI file, a note) is not one
    for file in strangers:
        if _ending(file) in endings and not file.name.startswith(".") and not _is_text(file):
            damaged[file] = "not a DICOM file"
    groups = [group for alike in _by_series(slices) for group in _scans_of(alike, passed_over)]
    for group in [g for g in groups if len(g) < _FEWEST and g[0].frame is None and not g[0].missing]:
        passed_over.setdefault("image that is not part of a volume", []).extend(s.file for s in group)
        groups.remove(group)
    ordered = sorted((tuple(_in_order(group)) for group in groups), key=_first)
    return SortedFolder(tuple(ordered), passed_over, damaged)


def _may_be_read(file: Path) -> bool:
    try:
        return is_dicom(file)
    except OSError:
        return False


def _is_text(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            start = stream.read(4096)
    except OSError:
        return False
    return bool(start) and b"\0" not in start and start.isascii()


def _first(slices: Sequence[Slice]) -> Path:
    return min(s.file for s in slices)


def _by_series(slices: Iterable[Slice]) -> list[list[list[Slice]]]:
    """Slices of each series, in groups of one size and direction; those without a place are in the largest group."""
    by_uid: dict[str, list[list[Slice]]] = {}
    placeless = []
    for found in slices:
        groups = by_uid.setdefault(found.series, [])
        if found.missing:
            placeless.append(found)
            continue
        for group in groups:
            if _size(group[0]) == _size(found) and _is_same_way(group[0], found):
                group.append(found)
                break
        else:
            groups.append([found])
    for found in placeless:
        groups = by_uid[found.series]
        if groups:
            max(groups, key=len).append(found)
        else:
            groups.append([found])
    return [groups for groups in by_uid.values() if groups]


def _size(found: Slice) -> tuple[int, int]:
    return found.rows, found.columns


def _is_same_way(one: Slice, other: Slice) -> bool:
    directions = np.array([one.orientation, other.orientation], float).reshape(2, 2, 3)
    return bool((directions.prod(axis=0).sum(axis=1) > _SAME_WAY).all())


def _scans_of(groups: list[list[Slice]], passed_over: dict[str, list[Path]]) -> list[list[Slice]]:
    """Groups of one series that are scans, each slice once."""
    largest = max(len(group) for group in groups)
    scans = []
    for group in groups:
        if len(group) < _FEW <= largest:
            passed_over.setdefault("image whose orientation or size differs from its series", []).extend(
                s.file for s in group
            )
            continue
        once: dict[object, Slice] = {}
        for found in group:
            # a broken program gives all slices one UID: only at the same place it is the same slice
            key = (found.instance, found.frame, found.position) if found.instance and found.position else found
            if once.setdefault(key, found) is not found:
                passed_over.setdefault("copy of a slice", []).append(found.file)
        scans.append([*once.values()])
    return scans


def _in_order(slices: Sequence[Slice]) -> list[Slice]:
    placed = [s for s in slices if not s.missing]
    if not placed:
        return [*slices]
    normal = slice_normal(placed[0])
    placed.sort(key=lambda s: float(np.dot(s.position, normal)))  # type: ignore[arg-type]
    return [*placed, *(s for s in slices if s.missing)]


def slice_normal(found: Slice) -> np.ndarray:
    """Unit vector in LPS across the plane of a slice."""
    directions = np.asarray(found.orientation, float)
    return np.cross(directions[:3], directions[3:])


def series_of(path: str | os.PathLike[str]) -> tuple[Slice, ...]:
    """
    Slices of a scan, in the order of their places.

    Args:
        path: a folder with one series, or a file of the series.

    Raises:
        InputError: if that is not one series.
    """
    folder = Path(path) if os.path.isdir(path) else Path(path).parent
    content = sort_folder(folder)
    if folder != Path(path):
        found = [slices for slices in content.series if any(s.file == Path(path) for s in slices)]
        if found:
            return found[0]
    elif len(content.series) == 1:
        return content.series[0]
    raise InputError(_no_series(Path(path), folder, content))


def _no_series(path: Path, folder: Path, content: SortedFolder) -> str:
    if path in content.damaged:
        return f"{path}: damaged or not a DICOM file ({content.damaged[path]})."
    if path == folder and len(content.series) > 1:
        count = len(content.series)
        return f"{folder}: expected one series, got {count}; each is named by its first file: {_listed(content)}."
    if path == folder and not content.passed_over and content.damaged:
        file, reason = next(iter(content.damaged.items()))
        return f"{file}: damaged or not a DICOM file ({reason})."
    kind = next((kind for kind, files in content.passed_over.items() if path in files), "")
    if kind:
        return f"{path}: expected a series of slices, got a DICOM file that is not a slice of a series ({kind})."
    if content.passed_over:
        return f"{folder}: expected a series of slices, got only {_counted(content.passed_over)}."
    return f"{folder}: expected a series of slices, got no DICOM file."


def series_files(path: str | os.PathLike[str]) -> list[Path]:
    """Files of the slices of a scan, in the order of their places; see :py:func:`series_of`."""
    return [*dict.fromkeys(s.file for s in series_of(path))]


def scan_stamp(path: str | os.PathLike[str], channels: Sequence[str] = ()) -> dict[str, int]:
    """
    Size and time of change of all that a scan is read from, which tell whether it is still the same.

    Args:
        path: of the scan.
        channels: see :py:class:`dtlp_components.ScanReader`.
    """
    if len(files := channel_files(os.fspath(path), channels)) > 1:
        # those of a channel that is not there count as nothing
        stamps = [scan_stamp(file) for file in files if os.path.exists(file)] or [scan_stamp(path)]
        return {"size": sum(s["size"] for s in stamps), "mtime_ns": max(s["mtime_ns"] for s in stamps)}
    # a folder's own time does not change with the files in it
    folder = path if os.path.isdir(path) else os.path.dirname(path) if is_series(path) else None
    states = [os.stat(file) for file in ([path] if folder is None else [folder, *os.scandir(folder)])]
    return {"size": sum(s.st_size for s in states), "mtime_ns": max(s.st_mtime_ns for s in states)}
