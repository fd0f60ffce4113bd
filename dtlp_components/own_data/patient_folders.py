# SPDX-License-Identifier: Apache-2.0
"""Scans in a folder for each patient, as of BraTS, KiTS, TotalSegmentator and BIDS."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..checks.literals import is_literal
from ..data.channel_files import SEPARATORS, first_channels, split_channel
from ..data.dicom import folders_below
from ..data.nifti import is_nifti, without_suffix
from ..data.segmentations import is_named_label
from ..errors import InputError
from .channels import Channels

__all__ = ["MOST_SCANS", "PatientScan", "find_in_folders"]

# of label maps; `derivatives` is BIDS' for all that is made from images
_LABEL_FOLDERS = re.compile(r"^(labels?|labelsTr|masks?|seg|segmentations?|derivatives)$", re.IGNORECASE)
MOST_SCANS = 12  # of one patient


@dataclass(frozen=True)
class PatientScan:
    """
    A scan in a patient's folder.

    Attributes:
        case: folders and start of the name, below the place.
        image: file of its first channel.
        label: its label map, or a folder with a mask for each structure; ``None`` if there is neither.
        patient: name of the outermost folder, if it is that of a patient.
    """

    case: str
    image: Path
    label: Path | None
    patient: str


def find_in_folders(root: Path, given: Channels | None = None) -> tuple[list[PatientScan], Channels]:
    """
    Find scans in the folders below a place: images of one folder that differ in how their names end are channels.

    Which files are labels is told by their names (``_seg``, ``_mask``, ``segmentation``, …) or by a folder above them
    (``labels``, ``masks``, ``segmentations``, ``derivatives``). A label belongs to the scan in its folder, in the
    folder above it, or in a folder of the patient's name elsewhere.

    Args:
        root: the place.
        given: channels that the user or another section has named.

    Returns:
        Scans by path, and their channels; none, and one channel, if there is no NIfTI file.

    Raises:
        InputError: if a label cannot be told.
    """
    files = [
        place / name
        for place, names in folders_below(root)
        for name in names
        if place != root and is_nifti(name) and not name.startswith(".")
    ]
    labels = [file for file in files if _is_label(file, root)]
    images = [file for file in files if file not in set(labels)]
    if not images:
        return [], Channels()
    endings = given.endings if given is not None else _common_endings(images)
    first = sorted(first_channels(images, endings)) if endings else images
    several = Counter(file.parent for file in first)
    outermost = Counter(file.relative_to(root).parts[0] for file in first)
    # a folder of many scans is that of a site or of a section, not of a patient
    are_patients = len(outermost) > 1 and max(outermost.values()) <= MOST_SCANS
    found = [
        PatientScan(
            _case(file, root, endings),
            file,
            _label_of(file, labels, root, endings, several[file.parent] == 1),
            file.relative_to(root).parts[0] if are_patients else "",
        )
        for file in first
    ]
    # where the others have a folder of masks, a single one is no label map either
    folders = {scan.label.name for scan in found if scan.label is not None and scan.label.is_dir()}
    found = [
        replace(scan, label=scan.label.parent) if scan.label and scan.label.parent.name in folders else scan
        for scan in found
    ]
    return found, Channels(max(1, len(endings)), tuple(endings))


def _is_label(file: Path, root: Path) -> bool:
    folders = file.relative_to(root).parts[:-1]
    whole_name = _LABEL_FOLDERS.match(without_suffix(file.name)) is not None  # KiTS: segmentation.nii.gz
    return whole_name or is_named_label(file.name) or any(_LABEL_FOLDERS.match(folder) for folder in folders)


def _common_endings(images: Sequence[Path]) -> tuple[str, ...]:
    """
    How the names of the images in every folder end, in the order of the alphabet; empty if each has its own name, or
    if they are numbered, as visits and frames are.
    """
    by_folder: dict[Path, list[str]] = {}
    for file in images:
        by_folder.setdefault(file.parent, []).append(
            re.split(f"[{re.escape(SEPARATORS)}]", without_suffix(file.name))[-1]
        )
    counted = Counter(ending for endings in by_folder.values() for ending in set(endings))
    # what at least half of the folders have; the others lack it, which is said
    common = tuple(sorted(ending for ending, count in counted.items() if 2 * count >= len(by_folder)))
    distinct = all(len(set(endings)) == len(endings) for endings in by_folder.values())
    if not common or not all(map(is_literal, common)) or (len(common) > 1 and (not distinct or _numbered(common))):
        return ()
    return common


def _numbered(endings: Sequence[str]) -> bool:
    """Whether some differ in their number alone, such as ``visit1`` and ``visit2``; T1 and T2 are kinds of MR."""
    kinds = [re.sub(r"\d+$", "", ending.lower()) for ending in endings if ending.lower() not in ("t1", "t2")]
    return len(set(kinds)) < len(kinds)


def _case(file: Path, root: Path, endings: Sequence[str]) -> str:
    folders = file.relative_to(root).parts[:-1]
    stem = (split_channel(file.name, endings) or (without_suffix(file.name),))[0]
    # BraTS repeats the folder's name in the file's
    return "_".join([*folders, stem] if stem and stem != folders[-1] else folders)


def _label_of(image: Path, labels: Sequence[Path], root: Path, endings: Sequence[str], alone: bool) -> Path | None:
    """
    The label map of an image, or the folder of its masks.

    Args:
        image: file of the first channel.
        labels: all there are.
        root: the place.
        endings: of the channels.
        alone: whether it is the only scan in its folder.
    """
    case = (split_channel(image.name, endings) or (without_suffix(image.name),))[0]
    patient = image.relative_to(root).parts[0]
    beside = [label for label in labels if label.parent == image.parent]
    below = [label for label in labels if image.parent in label.parents and label.parent != image.parent]
    places = {label: label.relative_to(root).parts for label in labels}
    elsewhere = [label for label, parts in places.items() if patient in parts[1:-1] and parts[0] != patient]
    for candidates in (beside, below, elsewhere):
        named = [label for label in candidates if case and without_suffix(label.name).startswith(case)]
        chosen = candidates if alone and len(named) != 1 else named
        if len(chosen) == 1:
            return chosen[0]
        folders = {label.parent for label in chosen}
        if len(chosen) > 1 and len(folders) == 1 and folders != {image.parent}:
            return folders.pop()
        if chosen:
            raise InputError(
                f"{image}: expected one label, or a folder with one mask per structure, got {len(chosen)} labels "
                f"({', '.join(label.name for label in chosen[:3])}). Use a datalist to say which label belongs to "
                "which scan."
            )
    return None
