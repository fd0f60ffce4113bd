# SPDX-License-Identifier: Apache-2.0
"""Finding scans and their labels in the folders people have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.datalists import load_datalist
from ..data.nifti import nifti_files, without_suffix
from ..data.segmentations import case_name
from ..data.series import find_series
from ..errors import InputError
from ..files import read_json
from ..keys import DatalistKeys
from .label_names import read_label_names

__all__ = ["FLAGS", "Found", "Scan", "find_scans"]


# section of the datalist -> flag of the command line
FLAGS = {
    DatalistKeys.TRAINING: "labeled",
    DatalistKeys.UNLABELED: "unlabeled",
    DatalistKeys.VALIDATION: "validation",
    DatalistKeys.TESTING: "testing",
}

# folders of images and of their labels, the first that is there
_TRAINING_FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"))
_FOLDERS = {
    DatalistKeys.TRAINING: _TRAINING_FOLDERS,
    DatalistKeys.UNLABELED: _TRAINING_FOLDERS,
    DatalistKeys.VALIDATION: (("imagesVal", "labelsVal"), *_TRAINING_FOLDERS),
    DatalistKeys.TESTING: (("imagesTs", "labelsTs"), *_TRAINING_FOLDERS),
}
_IMAGE_ENDINGS = ("", "_image", "_0000")  # nnU-Net's _0000 is the first channel
_LABEL_ENDING = re.compile(r"_(label|seg)$")
_EXPECTED = (
    "imagesTr and labelsTr, images and labels, or *_image.nii.gz and *_label.nii.gz in one folder, "
    "or a datalist (.json)"
)


@dataclass(frozen=True)
class Scan:
    """
    A scan that was found, not read: its image (a NIfTI file or a DICOM series), its label, if any, and its
    domain, if a list names one.
    """

    case: str
    image: str
    label: str | None = None
    domain: str = ""


@dataclass(frozen=True)
class Found:
    """
    Scans of one place, the folder that gives them their name, and the label names there (empty if there are none).
    """

    scans: list[Scan]
    home: Path
    label_names: dict[int, str]


def find_scans(path: str, section: DatalistKeys) -> Found:
    """
    Find scans and, by their names, the labels that belong to them; no image or label is opened.

    Args:
        path: a datalist (``.json``), or a folder in one of these layouts: ``imagesTr`` and ``labelsTr`` (also
            nnU-Net's, with ``_0000``), ``images`` and ``labels``, or images and ``*_label`` or ``*_seg`` files in one
            folder. For ``validation`` and ``testing``, ``imagesVal`` and ``imagesTs`` come first. For ``unlabeled`` it
            may also hold DICOM: every series, in it or below it, is one scan.
        section: what the scans are for.

    Returns:
        The scans, in the order of the list or sorted by path.

    Raises:
        InputError: if nothing is found, or a label or a name fits more than one image or none.
    """
    root, flag = Path(path), f"--{FLAGS[section]}"
    if root.is_file() and root.suffix == ".json":
        return _from_list(root, section)
    if not root.is_dir():
        raise InputError(
            f"{flag} {path}: found {'a file' if root.is_file() else 'nothing'}, expected a folder with {_EXPECTED}."
        )
    root = root.resolve()
    names = _names_beside(root, section)
    # a folder given as .../lge/imagesTr is known as lge
    layout_names = {name for folders in _FOLDERS.values() for pair in folders for name in pair}
    home = root.parent if root.name in layout_names else root

    for images_name, labels_name in _FOLDERS[section]:
        if (root / images_name).is_dir():
            images_dir, labels_dir = root / images_name, root / labels_name
            images = nifti_files(images_dir)
            labels = nifti_files(labels_dir) if labels_dir.is_dir() else []
            break
    else:
        images_dir = labels_dir = root
        files = nifti_files(root)
        labels = [file for file in files if _LABEL_ENDING.search(without_suffix(file.name))]
        images = [file for file in files if file not in labels]
    series = find_series(images_dir)
    if series and section != DatalistKeys.UNLABELED:
        raise InputError(
            f"{flag} {path}: found DICOM in {series[0]}, expected NIfTI: only unlabeled scans may be DICOM. "
            "dcm2niix converts a series to NIfTI."
        )
    if not images and not series:
        dicom = " or folders with .dcm files" if section == DatalistKeys.UNLABELED else ""
        raise InputError(f"{flag} {path}: found no NIfTI image{dicom} in {images_dir}, expected {_EXPECTED}.")
    # who has no use for labels need not hear of those that are left over, unless they might be images
    paired = _pair(images, labels, labels_dir, strict=section != DatalistKeys.UNLABELED or labels_dir == images_dir)
    scans = [Scan(case, str(image), None if label is None else str(label)) for case, image, label in paired]
    scans += [Scan(case_name(path.name), str(path)) for path in series]
    return Found(scans, home, names)


def _names_beside(root: Path, section: DatalistKeys) -> dict[int, str]:
    """Label names in an nnU-Net or Decathlon ``dataset.json``, which also tells how many channels an image has."""
    file = root / "dataset.json"
    if not file.is_file():
        return {}
    content = read_json(file, "nnU-Net's or the Decathlon's description of the data")
    if not isinstance(content, dict):
        return {}
    channels = content.get("channel_names", content.get("modality", {}))
    if isinstance(channels, (dict, list)) and len(channels) > 1:
        raise InputError(
            f"{file}: found {len(channels)} channels {channels}, expected one: images have a single channel here."
        )
    return _names_in(content, file, section)


def _from_list(file: Path, section: DatalistKeys) -> Found:
    folder = file.resolve().parent
    items = load_datalist(str(file), section, str(folder))
    content = read_json(file, "a datalist")
    if not items:
        there = [name for name, value in content.items() if isinstance(value, list) and value]
        raise InputError(f"--{FLAGS[section]} {file}: found no items in `{section}`, only in {there}.")
    scans = []
    for item in items:
        image = item[DatalistKeys.IMAGE]
        scans.append(
            Scan(
                without_suffix(Path(image).name), image, item.get(DatalistKeys.LABEL), item.get(DatalistKeys.DOMAIN, "")
            )
        )
    return Found(scans, folder, _names_in(content, file, section))


def _names_in(content: Mapping[str, Any], file: Path, section: DatalistKeys) -> dict[int, str]:
    # who has no use for labels need not hear of their names
    if "labels" not in content or section == DatalistKeys.UNLABELED:
        return {}
    return read_label_names(content["labels"], f"{file}, `labels`")


def _pair(
    images: list[Path], labels: list[Path], labels_dir: Path, strict: bool
) -> list[tuple[str, Path, Path | None]]:
    """Case, image and label of every image; names are compared without their endings."""
    by_case: dict[str, Path] = {}
    for label in labels:
        case = _LABEL_ENDING.sub("", without_suffix(label.name))
        if case in by_case:
            raise InputError(f"{label}: found {by_case[case].name} beside it, expected one label of each scan.")
        by_case[case] = label
    paired: list[tuple[str, Path, Path | None]] = []
    taken: dict[str, Path] = {}
    for image in images:
        stem = without_suffix(image.name)
        candidates = [stem.removesuffix(ending) for ending in _IMAGE_ENDINGS if stem.endswith(ending)]
        case = next((case for case in candidates if case in by_case), candidates[0])
        if case in taken:
            raise InputError(f"{image}: found {taken[case].name} beside it, expected one image of each scan.")
        taken[case] = image
        paired.append((case, image, by_case.get(case)))
    if strict and (unused := sorted(set(by_case) - set(taken))):
        raise InputError(
            f"{labels_dir}: found labels without an image: {', '.join(by_case[case].name for case in unused[:10])}; "
            "expected an image of the same name (or ending in _image or _0000) for each."
        )
    return paired
