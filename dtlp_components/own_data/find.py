# SPDX-License-Identifier: Apache-2.0
"""Finding scans and their labels in the folders people have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.channel_files import first_channels, split_channel
from ..data.datalists import section_items
from ..data.dicom import folders_below
from ..data.nifti import is_nifti, nifti_files, without_suffix
from ..data.scans import counted, other_formats
from ..data.segmentations import IMAGE_PREFIX, LABEL_ENDING, LABEL_PREFIX, case_name, is_named_label
from ..data.series import find_series
from ..errors import InputError
from ..files import read_json
from ..keys import DatalistKeys
from .channels import (
    ONE,
    Channels,
    channel_ending,
    channel_names,
    channels_of_lists,
    modality_of,
    numbered_channels,
    one_channel,
)
from .label_names import read_ignored, read_label_names
from .patient_folders import find_in_folders

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
_EXPECTED = (
    "imagesTr and labelsTr, images and labels, *_image.nii.gz and *_label.nii.gz in one folder, or one folder per "
    "patient; or a datalist (.json)"
)


@dataclass(frozen=True)
class Scan:
    """
    A scan that was found, not read: its image (a NIfTI file, of several channels that of the first, or a DICOM
    series), its label, if any (a file, or a folder with a mask for each structure), its domain and patient, if known,
    and, if a list says that not all classes were drawn, those that were.
    """

    case: str
    image: str
    label: str | None = None
    domain: str = ""
    patient: str = ""
    drawn: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Found:
    """
    Scans of one place.

    Attributes:
        scans: in the order of the list or sorted by path.
        home: folder that gives them their name.
        label_names: by value; empty if none are there.
        modality: what a ``dataset.json`` says of the channel, ``CT`` or ``MR``; empty if it does not.
        notes: what was passed over, one sentence each.
        channels: of every image.
        ignored: value of voxels that nobody labeled, if the label names say so.
    """

    scans: list[Scan]
    home: Path
    label_names: dict[int, str]
    modality: str = ""
    notes: tuple[str, ...] = ()
    channels: Channels = ONE
    ignored: int | None = None


def find_scans(path: str, section: DatalistKeys, frame: int | None = None, given: Channels | None = None) -> Found:
    """
    Find scans and, by their names, the labels that belong to them; no image or label is opened.

    Args:
        path: a datalist (``.json``), or a folder in one of these layouts: ``imagesTr`` and ``labelsTr`` (also
            nnU-Net's, with ``_0000``), ``images`` and ``labels``, images and ``*_label`` or ``*_seg`` files in one
            folder, or a folder for each patient. For ``validation`` and ``testing``, ``imagesVal`` and ``imagesTs``
            come first. For ``unlabeled`` it may also hold DICOM: every series, in it or below it, is one scan.
        section: what the scans are for.
        frame: number, from 0, of the one channel to take where there are several; all of them if ``None``.
        given: channels that the user or another section has named; found by the names of files, or in a
            ``dataset.json``, if ``None``.

    Raises:
        InputError: if nothing is found, or a label or a name fits more than one image or none.
    """
    root, flag = Path(path), f"--{FLAGS[section]}"
    if root.is_file() and root.suffix == ".json":
        return _from_list(root, section, given)
    if not root.is_dir():
        raise InputError(
            f"{flag} {path}: {'is a file' if root.is_file() else 'no such folder'}; expected a folder with {_EXPECTED}."
        )
    root = root.resolve()
    content = _dataset_json(root)
    described = channel_names(content)
    names, ignored = _names_in(content, root / "dataset.json", section)
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
        labels = [file for file in files if is_named_label(file.name)]
        images = [file for file in files if file not in labels]
    labeled_cases = {_case_of_label(label) for label in labels}
    if frame is not None:
        images, channels = one_channel(images, labeled_cases, frame, len(described)), ONE
    else:
        images, channels = _of_all_channels(images, labeled_cases, len(described), given)
    series = find_series(images_dir)
    if series and section != DatalistKeys.UNLABELED:
        raise InputError(
            f"{flag} {path}: expected NIfTI, got DICOM in {series[0]}: only unlabeled scans may be DICOM. "
            "Convert the series to NIfTI with dcm2niix."
        )
    if not images and not series and frame is None:
        in_folders, channels = find_in_folders(images_dir, given)
        if in_folders:
            scans = [Scan(s.case, str(s.image), str(s.label) if s.label else None, "", s.patient) for s in in_folders]
            note = f"{images_dir}: found {len(scans)} scans in its subfolders"
            note += f", in files ending in {', '.join(channels.endings)}." if channels.endings else "."
            modality = modality_of(described, None, channels.count)
            return Found(scans, home, names, modality, (note,), channels, ignored)
    if not images and not series:
        dicom = " and no DICOM series" if section == DatalistKeys.UNLABELED else ""
        raise InputError(
            f"{flag} {path}: no NIfTI image{dicom} in {images_dir}; expected {_EXPECTED}.{_scans_below(images_dir)}"
        )
    notes = other_formats(images_dir)
    if section == DatalistKeys.UNLABELED and labels and labels_dir == images_dir:
        notes.append(f"{images_dir}: {counted(labels)} named like label maps and therefore not used as images.")
    # who has no use for labels need not hear of those that are left over, unless they might be images

    def names_of(stem: str) -> list[str]:
        if split := split_channel(stem, channels.endings):
            return [split[0]]
        endings = ("", "_image", channel_ending(frame))
        return [stem.removesuffix(ending) for ending in endings if stem.endswith(ending)]

    paired = _pair(images, labels, labels_dir, section != DatalistKeys.UNLABELED, names_of)
    scans = [Scan(case, str(image), None if label is None else str(label)) for case, image, label in paired]
    scans += [Scan(case_name(path.name), str(path)) for path in series]
    return Found(scans, home, names, modality_of(described, frame, channels.count), tuple(notes), channels, ignored)


def _of_all_channels(
    images: list[Path], cases: Collection[str], described: int, given: Channels | None
) -> tuple[list[Path], Channels]:
    """Images, each once, by the file of its first channel; and what the channels are."""
    if given is None:
        numbered = numbered_channels(images, cases, described)
        numbers = sorted({number for scan in numbered.values() for number in scan})
        given = Channels(len(numbers), tuple(f"{number:04d}" for number in numbers)) if numbers else None
    if given is not None and given.endings:
        return first_channels(images, given.endings), given
    # without files for them, a dataset.json means the fourth axis
    return images, given or Channels(max(1, described))


def _dataset_json(root: Path) -> dict[str, Any]:
    """nnU-Net's or the Decathlon's description of the data; empty if there is none."""
    file = root / "dataset.json"
    if not file.is_file():
        return {}
    content = read_json(file, "nnU-Net's or the Decathlon's description of the data")
    return content if isinstance(content, dict) else {}


def _case_of_label(label: Path) -> str:
    return LABEL_ENDING.sub("", without_suffix(label.name))


def _scans_below(folder: Path) -> str:
    below = [place / name for place, names in folders_below(folder) for name in names if is_nifti(name)]
    if not below:
        return ""
    return (
        f" Its subfolders hold {len(below)} NIfTI files, such as {below[0].relative_to(folder)}: list them in a "
        "datalist, which names the image and label of every scan (docs/get-started/own-scans.md)."
    )


def _from_list(file: Path, section: DatalistKeys, given: Channels | None) -> Found:
    folder = file.resolve().parent
    content = read_json(file, "a datalist")
    listed = content.get(section, []) if isinstance(content, dict) else []
    channels = channels_of_lists(listed, f"{file}: `{section}`") if isinstance(listed, list) else None
    if channels is not None:  # a scan is named by the file of its first channel
        content[section] = [{**item, "image": item["image"][0]} for item in listed]
    items = section_items(content, section, str(file), str(folder))
    if not items:
        there = [name for name, value in content.items() if isinstance(value, list) and value]
        raise InputError(f"--{FLAGS[section]} {file}: expected items in `{section}`, got items only in {there}.")
    scans = []
    for item in items:
        image = item[DatalistKeys.IMAGE]
        scans.append(
            Scan(
                case_name(Path(image).name),
                image,
                item.get(DatalistKeys.LABEL),
                item.get(DatalistKeys.DOMAIN, ""),
                item.get(DatalistKeys.PATIENT, ""),
                item.get(DatalistKeys.LABELS),
            )
        )
    names, ignored = _names_in(content, file, section)
    return Found(scans, folder, names, channels=channels or given or ONE, ignored=ignored)


def _names_in(content: Mapping[str, Any], file: Path, section: DatalistKeys) -> tuple[dict[int, str], int | None]:
    """Names of the classes, and the value of voxels that nobody labeled."""
    # who has no use for labels need not hear of their names
    if "labels" not in content or section == DatalistKeys.UNLABELED:
        return {}, None
    return read_label_names(content["labels"], f"{file}, `labels`"), read_ignored(content["labels"])


def _pair(
    images: list[Path], labels: list[Path], labels_dir: Path, strict: bool, names_of: Callable[[str], list[str]]
) -> list[tuple[str, Path, Path | None]]:
    """Case, image and label of every image; names are compared without their endings."""
    by_case: dict[str, Path] = {}
    for label in labels:
        case = _case_of_label(label)
        if case in by_case:
            raise InputError(
                f"{label}: expected one label per scan, got {by_case[case].name} in the same folder as well."
            )
        by_case[case] = label
    by_number = {case[match.end() :]: case for case in by_case if (match := LABEL_PREFIX.match(case))}
    paired: list[tuple[str, Path, Path | None]] = []
    taken: dict[str, Path] = {}
    for image in images:
        stem = without_suffix(image.name)
        candidates = names_of(stem)
        numbers = [candidate[match.end() :] for candidate in candidates if (match := IMAGE_PREFIX.match(candidate))]
        candidates += [by_number[number] for number in numbers if number in by_number]
        case = next((case for case in candidates if case in by_case), candidates[0])
        if case in taken:
            raise InputError(
                f"{image}: expected one image per scan, got {taken[case].name} in the same folder as well."
            )
        taken[case] = image
        paired.append((case, image, by_case.get(case)))
    if strict and (unused := sorted(set(by_case) - set(taken))):
        raise InputError(
            f"{labels_dir}: expected for each label an image of the same name (or ending in _image or _0000), got "
            f"labels without an image: {', '.join(by_case[case].name for case in unused[:10])}."
        )
    return paired
