# SPDX-License-Identifier: Apache-2.0
"""Scans to segment: finding them, and loading one so that a broken one stops no other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..errors import InputError, cause_of
from ..keys import DatalistKeys, ScanKeys
from ..processes import same_for_all
from .channel_files import channel_files, first_channels, split_channel
from .dicom import folders_below, unreadable
from .nifti import NIFTI_SUFFIXES, is_nifti, nifti_files, without_suffix
from .segmentations import IMAGE_PREFIX, LABEL_ENDING, LABEL_PREFIX, prediction_name, printable, read_table
from .series import is_series, scan_stamp, series_among, series_of

__all__ = ["ScanDataset", "counted", "find_images", "other_formats", "scans_to_segment", "without_label_map"]

NAMED = 3  # of the files that are not read
OTHER_FORMATS = (".nrrd", ".mha", ".mhd", ".img", ".hdr", ".mgz", ".mgh", ".nii.bz2", ".nii.zst", ".npy", ".npz")
LOGGER = logging.getLogger("dtlp")


def find_images(path: str, channels: Sequence[str] = ()) -> list[dict[str, str]]:
    """
    List the scans to segment at `path`: a NIfTI file, a DICOM file (the series that it belongs to), or a folder with
    NIfTI files (its own, not those of its subfolders, which a warning names), DICOM series (in it and below it, at any
    depth; :py:mod:`dtlp_components.data.series` says what is one), or both.

    Args:
        path: file or folder.
        channels: endings of the files of the channels (:py:class:`dtlp_components.ScanReader`). The folder's files that
            end in one of them are then the scans, and if it has none, those below it, as in a folder for each patient.

    Returns:
        One ``{"image": absolute path}`` per scan, NIfTI files first, each kind sorted by path.

    Raises:
        InputError: if there is no such path, nothing to segment there, something there cannot be read, or two scans
            would have one name (:py:class:`PredictionNames`).
    """
    root = Path(os.path.abspath(path))
    images: list[Path]
    if channels and root.exists():
        images = _scans_of_channels(root, channels)
    elif root.is_dir():
        folders = list(folders_below(root))
        images = [*_without_labels(nifti_files(root), root), *series_among(folders)]
        for sentence in other_formats(root):
            LOGGER.warning(sentence)
        _warn_of_nifti_below(root, folders)
    elif root.is_file():
        images = [root] if is_nifti(root.name) or _is_of_a_series(root) else []
    else:
        raise InputError(f"{root}: no such file or folder; expected a NIfTI image, a DICOM series or a folder of them.")
    if not images:
        raise InputError(
            f"{root}: expected files ending in {' or '.join(NIFTI_SUFFIXES)}, or DICOM slices, got no NIfTI image and "
            "no DICOM series."
            if not channels
            else f"{root}: expected NIfTI files ending in {', '.join(channels)}, got no scan with {len(channels)} "
            "channels."
        )
    names: dict[str, Path] = {}
    for image in images:
        other = names.setdefault(prediction_name(image, root, channels), image)
        if other != image:
            raise InputError(
                f"{image}: its label map would have the same name as that of {other}; rename one of the scans, or "
                "segment them one at a time."
            )
    return [{str(DatalistKeys.IMAGE): str(image)} for image in images]


def _scans_of_channels(root: Path, channels: Sequence[str]) -> list[Path]:
    """Scans, named by the files of their first channel."""
    if root.is_file():
        return first_channels([root], channels)
    files = nifti_files(root)
    found = first_channels(files, channels)
    if not found:
        files = [place / name for place, names in folders_below(root) for name in names if is_nifti(name)]
        found = first_channels(sorted(files), channels)
    if others := [file for file in files if split_channel(file.name, channels) is None]:
        LOGGER.warning(f"{root}: {counted(others)} not of any channel ({', '.join(channels)}) and skipped.")
    return found


def scans_to_segment(
    path: str, prediction_dir: str, model_file: str, skip_existing: bool = False, channels: Sequence[str] = ()
) -> list[dict[str, str]]:
    """
    :py:func:`find_images`, without those that have been segmented already, if asked.

    Args:
        path: see there.
        prediction_dir: folder of the label maps, whose table says which scan each is of.
        model_file: weights; label maps that are older than they, or than their scan, are made again.
        skip_existing: leave scans out that have a label map.
        channels: see :py:func:`find_images`.

    Raises:
        InputError: see :py:func:`find_images`.
        SystemExit: with code 0, if none is left to segment.
    """
    # of several processes, the first one looks, before any has segmented one
    images, left = same_for_all(lambda: _look(path, prediction_dir, model_file, skip_existing, channels))
    if not skip_existing:
        return images
    LOGGER.info(
        f"{len(images) - len(left)} of {len(images)} scans already have a label map in {prediction_dir}: skipped."
    )
    if not left:
        raise SystemExit(0)
    return left


def _look(
    path: str, prediction_dir: str, model_file: str, skip_existing: bool, channels: Sequence[str]
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """All scans, and those that are left to segment."""
    images = find_images(path, channels)
    return images, without_label_map(images, prediction_dir, model_file, channels) if skip_existing else images


def without_label_map(
    images: Sequence[dict[str, str]], prediction_dir: str, model_file: str, channels: Sequence[str] = ()
) -> list[dict[str, str]]:
    """
    Items ``{"image": path}`` that are left to segment.

    Args:
        images: all of them.
        prediction_dir: folder of the label maps, whose table says which scan each is of.
        model_file: weights; label maps that are older than they, or than their scan, do not count.
        channels: see :py:func:`find_images`.
    """
    weights = os.stat(model_file).st_mtime_ns if os.path.exists(model_file) else 0
    made = {}
    for row in read_table(prediction_dir):
        label_map = Path(prediction_dir, os.path.basename(row["label_map"]))
        if label_map.is_file() and not row.get("problem"):
            made[row["scan"]] = label_map.stat().st_mtime_ns

    def is_current(image: str) -> bool:
        when = made.get(printable(image))
        if when is None or not all(map(os.path.exists, channel_files(image, channels))):
            return False
        return when >= max(weights, scan_stamp(image, channels)["mtime_ns"])

    return [item for item in images if not is_current(item[DatalistKeys.IMAGE])]


def _without_labels(files: list[Path], root: Path) -> list[Path]:
    """Files without the label maps of others among them, which a warning names."""
    stems = {without_suffix(file.name) for file in files}
    labels = []
    for file in files:
        stem = without_suffix(file.name)
        scan, number = LABEL_ENDING.sub("", stem), LABEL_PREFIX.sub("", stem)
        others = {scan, f"{scan}_image", f"{scan}_0000"} if scan != stem else set()
        if number != stem:
            others |= {other for other in stems if IMAGE_PREFIX.sub("", other) == number != other}
        if others & stems:
            labels.append(file)
    if labels:
        LOGGER.warning(f"{root}: {counted(labels)} named like label maps of scans in the same folder and skipped.")
    return [file for file in files if file not in labels]


def other_formats(folder: Path) -> list[str]:
    """A sentence if a folder holds volumes of formats that are not read; none else."""
    # a link or a folder of such a name is none
    files = [file for file in sorted(folder.iterdir()) if file.name.lower().endswith(OTHER_FORMATS) and file.is_file()]
    if not files:
        return []
    return [f"{folder}: {counted(files)} in unsupported formats; convert them to NIfTI to use them."]


def counted(files: list[Path]) -> str:
    """Beginning of a sentence on files: how many they are, and the first of their names."""
    more = ", …" if len(files) > NAMED else ""
    noun, verb = ("file", "is") if len(files) == 1 else ("files", "are")
    return f"{len(files)} {noun} ({', '.join(file.name for file in files[:NAMED])}{more}) {verb}"


def _is_of_a_series(file: Path) -> bool:
    try:
        found = is_series(file)
    except OSError as error:
        raise unreadable(file, error) from error
    if found:
        series_of(file)
    return found


def _warn_of_nifti_below(root: Path, folders: Iterable[tuple[Path, list[str]]]) -> None:
    below = [
        str((place / name).relative_to(root))
        for place, names in folders
        for name in names
        if place != root and is_nifti(name) and not name.startswith(".")
    ]
    if below:
        listed = ", ".join(sorted(below)[:NAMED]) + (", …" if len(below) > NAMED else "")
        LOGGER.warning(
            f"{root}: NIfTI files in its subfolders are not read ({len(below)} found: {listed}). To segment them, pass "
            "their folders one at a time."
        )


class ScanDataset(Dataset[Any]):
    """
    Preprocessed scans, and what is wrong with those that cannot be.

    Args:
        data: items ``{"image": path}``.
        transform: preprocessing; maps an item to an item.
        find_problems: maps a path to sentences, none if the scan can be segmented; called before `transform`.

    Example:
        >>> scans = ScanDataset([{"image": "a.nii.gz"}], lambda item: item["image"].upper(), lambda path: [])
        >>> scans[0]
        'A.NII.GZ'
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        transform: Callable[[Any], Any],
        find_problems: Callable[[str], Sequence[str]],
    ) -> None:
        self.data, self.transform, self.find_problems = data, transform, find_problems

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The transformed item, or ``image``, its path, and ``problem``."""
        path = self.data[index][ScanKeys.IMAGE]
        try:
            if problems := self.find_problems(path):
                return {str(ScanKeys.IMAGE): path, str(ScanKeys.PROBLEM): " ".join(problems)}
            item: dict[str, Any] = self.transform(dict(self.data[index]))
            return item
        except (Exception, InputError) as error:  # whatever it is, it is this scan's
            LOGGER.debug(f"{path}: cannot be preprocessed", exc_info=True)
            return {
                str(ScanKeys.IMAGE): path,
                str(ScanKeys.PROBLEM): f"{path}: cannot be preprocessed ({cause_of(error)}).",
            }
