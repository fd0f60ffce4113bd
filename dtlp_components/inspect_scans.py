# SPDX-License-Identifier: Apache-2.0
"""Finding scans in the folders people have, reading every one of them, and describing what was read."""

# MONAI's DataAnalyzer (monai.apps.auto3dseg) is not used: it stops at the first broken file, where a user needs the
# list of all, and describes axes as they are stored, where spacing and patch size are given in RAS.

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from tqdm import tqdm

from .checks import PROGRESS_FROM, Volume, describe_volume, pair_problems
from .data.datalists import load_datalist, nifti_files, without_suffix
from .data.dicom import find_series, series_problems
from .data.readers import load_volume
from .data.transforms import border_median
from .errors import InputError, first_line
from .keys import DatalistKeys
from .prepare.common import read_json

__all__ = [
    "FLAGS",
    "Found",
    "Scan",
    "ScanFacts",
    "find_scans",
    "inspect_scans",
    "read_label_names",
    "scan_table",
]

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
_WANTED = (
    "imagesTr and labelsTr, images and labels, or *_image.nii.gz and *_label.nii.gz in one folder, "
    "or a datalist (.json)"
)

_PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLE = 1_000_000  # voxels that percentiles are taken from, evenly spaced
_FOREGROUND_SAMPLE = 20_000  # of every labelled scan, so that each counts alike


@dataclass(frozen=True)
class Scan:
    """
    A scan that was found, not read: its image (a file, or a folder with one DICOM series), its label, if any, and its
    domain, if a list names one.
    """

    case: str
    image: str
    label: str | None = None
    domain: str = ""


@dataclass(frozen=True)
class Found:
    """Scans of one place, the folder that gives them their name, and the label names there (empty if there are none)."""

    scans: list[Scan]
    home: Path
    label_names: dict[int, str]


@dataclass(frozen=True)
class ScanFacts:
    """
    What decisions need to know of a scan; sizes are along the patient's x, y, z (axes of the voxel grid nearest to RAS).

    Attributes:
        shape: voxels.
        spacing_mm: of the voxels.
        orientation: as stored, such as ``LPS``.
        whole: whether every intensity is a whole number.
        minimum: of the intensities.
        percentiles: 0.5th, 50th and 99.5th.
        maximum: of the intensities.
        border: median of the outermost voxels.
        checksum: of the voxels.
        label_counts: voxels by label value; ``None`` without a label.
        foreground: intensities under labels above 0, at most 20 000 of them.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    whole: bool
    minimum: float
    percentiles: tuple[float, float, float]
    maximum: float
    border: float
    checksum: str
    label_counts: dict[int, int] | None
    foreground: np.ndarray

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing_mm)) / 1000


def find_scans(path: str, section: DatalistKeys) -> Found:
    """
    Find scans and, by their names, the labels that belong to them; no image or label is opened.

    Args:
        path: a datalist (``.json``), or a folder in one of these layouts: ``imagesTr`` and ``labelsTr`` (also nnU-Net's,
            with ``_0000``), ``images`` and ``labels``, or images and ``*_label`` or ``*_seg`` files in one folder. For
            ``validation`` and ``testing``, ``imagesVal`` and ``imagesTs`` come first. For ``unlabeled`` it may also hold
            DICOM: every folder with ``.dcm`` files, or DICOM files without that ending, is one scan.
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
            f"{flag} {path}: found {'a file' if root.is_file() else 'nothing'}, wanted a folder with {_WANTED}."
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
            f"{flag} {path}: found DICOM in {series[0]}, wanted NIfTI: only unlabelled scans may be DICOM. "
            "dcm2niix converts a series to NIfTI."
        )
    if not images and not series:
        dicom = " or folders with .dcm files" if section == DatalistKeys.UNLABELED else ""
        raise InputError(f"{flag} {path}: found no NIfTI image{dicom} in {images_dir}, wanted {_WANTED}.")
    # who has no use for labels need not hear of those that are left over, unless they might be images
    paired = _pair(images, labels, labels_dir, strict=section != DatalistKeys.UNLABELED or labels_dir == images_dir)
    scans = [Scan(case, str(image), None if label is None else str(label)) for case, image, label in paired]
    scans += [Scan(folder.name, str(folder)) for folder in series]
    return Found(scans, home, names)


def read_label_names(content: Any, origin: str) -> dict[int, str]:
    """
    Label names by value, from ``{"0": "background", "1": "liver"}``, ``{"background": 0, "liver": 1}`` (nnU-Net) or a
    list that begins with the background.

    Raises:
        InputError: if it is none of these, a value is named twice, a name cannot be used in a configuration, or voxels
            are to be ignored.
    """
    wanted = f'{origin}: wanted label names like {{"0": "background", "1": "liver"}}'
    if isinstance(content, list):
        content = {str(value): name for value, name in enumerate(content)}
    if not isinstance(content, dict) or not content:
        raise InputError(f"{wanted}, found {json.dumps(content)[:80]}.")
    pairs = [(key, name) if isinstance(name, str) else (name, key) for key, name in content.items()]
    names: dict[int, str] = {}
    for value, name in pairs:
        if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).isdecimal():
            raise InputError(f"{wanted}, found the value {value!r} for {name!r}.")
        if name.strip().lower() == "ignore":
            raise InputError(
                f"{origin}: found the label {name!r} ({value}), nnU-Net's for voxels to leave out, wanted only classes: every "
                "voxel of a labelled scan counts here. Give the scans that have such voxels as --unlabeled and take "
                f"{name!r} out of the file, or set these voxels to the class they belong to."
            )
        # MONAI would evaluate or look up the first three; the others end a cell of the README's table
        if not name.strip() or name[0] in "$@%" or re.search(r"[|\x00-\x1f]", name):
            raise InputError(f"{origin}: found the label name {name!r}, wanted words that do not begin with $, @ or %.")
        if int(value) in names:
            raise InputError(f"{origin}: found two names for the value {value}: {names[int(value)]!r} and {name!r}.")
        names[int(value)] = "background" if int(value) == 0 and name.strip().lower() == "background" else name.strip()
    if names.get(0, "background") != "background":
        raise InputError(f"{origin}: found {names[0]!r} as the name of 0, wanted 'background'.")
    if len({name.lower() for name in names.values()}) != len(names):
        raise InputError(f"{origin}: found the names {sorted(names.values())}, wanted names that differ in lower case.")
    return {0: "background"} | dict(sorted(names.items()))


def inspect_scans(
    scans: Sequence[Scan], frame: int | None, with_labels: bool, title: str
) -> tuple[list[tuple[Scan, ScanFacts]], dict[str, list[str]]]:
    """
    Read every scan to its last byte.

    Args:
        scans: what to read.
        frame: number, from 0, of the volume to take from 4-D files.
        with_labels: whether to open the labels.
        title: of the progress bar.

    Returns:
        The scans that can be used with what was read, and for every other one, by its image, one sentence per problem.

    Raises:
        InputError: if a package that reads the files is missing.
    """
    good, broken = [], {}
    for scan in tqdm(scans, desc=title, unit="scan", disable=len(scans) <= PROGRESS_FROM):
        facts, problems = _inspect(scan, frame, with_labels)
        if facts is None or problems:
            broken[scan.image] = problems
        else:
            good.append((scan, facts))
    return good, broken


def scan_table(groups: Mapping[str, Sequence[ScanFacts]], label_names: Mapping[int, str]) -> str:
    """
    Two tables as text: the scans of every group, and the labels with their volumes.

    Args:
        groups: title to scans, none of them empty.
        label_names: by value.
    """
    rows = [["", *groups]]
    rows.append(["scans", *(str(len(facts)) for facts in groups.values())])
    for axis, name in enumerate("xyz"):
        rows.append([f"voxels {name}", *(_spread([f.shape[axis] for f in facts]) for facts in groups.values())])
    for axis, name in enumerate("xyz"):
        rows.append([f"mm {name}", *(_spread([f.spacing_mm[axis] for f in facts]) for facts in groups.values())])
    rows.append(["minimum", *(_spread([f.minimum for f in facts]) for facts in groups.values())])
    for i, percent in enumerate(_PERCENTILES):
        rows.append([f"{percent:g} %", *(_spread([f.percentiles[i] for f in facts]) for facts in groups.values())])
    rows.append(["maximum", *(_spread([f.maximum for f in facts]) for facts in groups.values())])
    rows.append(["stored as", *(", ".join(sorted({f.orientation for f in facts})) for facts in groups.values())])
    text = "Scans: smallest / median / largest, along the patient's x, y, z\n" + _columns(rows)

    labelled = {title: counted for title, facts in groups.items() if (counted := _counted(facts))}
    rows = [["value", "name", *(f"{title}: scans, ml" for title in labelled)]]
    for value in sorted(
        label_names.keys() | {v for facts in labelled.values() for f in facts for v in f.label_counts or ()}
    ):
        row = [str(value), label_names.get(value, "")]
        for facts in labelled.values():
            present = [(f.label_counts or {}).get(value, 0) * f.voxel_ml for f in facts]
            present = [ml for ml in present if ml > 0]
            row.append(f"{len(present)} of {len(facts)}, {_spread(present)}" if present else f"0 of {len(facts)}")
        rows.append(row)
    return f"{text}\n\nLabels: in how many scans, and smallest / median / largest volume there\n{_columns(rows)}"


def _counted(facts: Sequence[ScanFacts]) -> list[ScanFacts]:
    return [f for f in facts if f.label_counts is not None]


def _spread(values: Iterable[float]) -> str:
    three = [f"{x:.4g}" for x in np.percentile(list(values), (0, 50, 100))]
    return " / ".join(three if len(set(three)) > 1 else three[:1])


def _columns(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


# --- finding


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
            f"{file}: found {len(channels)} channels {channels}, wanted one: images have a single channel here."
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
            raise InputError(f"{label}: found {by_case[case].name} beside it, wanted one label of each scan.")
        by_case[case] = label
    paired: list[tuple[str, Path, Path | None]] = []
    taken: dict[str, Path] = {}
    for image in images:
        stem = without_suffix(image.name)
        candidates = [stem.removesuffix(ending) for ending in _IMAGE_ENDINGS if stem.endswith(ending)]
        case = next((case for case in candidates if case in by_case), candidates[0])
        if case in taken:
            raise InputError(f"{image}: found {taken[case].name} beside it, wanted one image of each scan.")
        taken[case] = image
        paired.append((case, image, by_case.get(case)))
    if strict and (unused := sorted(set(by_case) - set(taken))):
        raise InputError(
            f"{labels_dir}: found labels without an image: {', '.join(by_case[case].name for case in unused[:10])}; wanted "
            "an image of the same name (or ending in _image or _0000) for each."
        )
    return paired


# --- reading


def _inspect(scan: Scan, frame: int | None, with_labels: bool) -> tuple[ScanFacts | None, list[str]]:
    problems: list[str] = []
    is_folder = Path(scan.image).is_dir()
    if is_folder and (problems := series_problems(Path(scan.image))):
        return None, problems
    image = _read(scan.image, frame, problems)
    label = _read(scan.label, frame, problems) if scan.label is not None and with_labels else None
    if image is None or problems:
        return None, problems
    voxels, described = image
    affine = np.asarray(described.affine)
    if not described.finite:
        return None, [f"{scan.image}: holds NaN or infinite values."]
    if described.minimum == described.maximum:
        return None, [f"{scan.image}: every voxel is {described.minimum:g}."]
    sizes = nib.affines.voxel_sizes(affine)
    if not np.isfinite(affine).all() or not (sizes > 0).all():
        return None, [f"{scan.image}: found voxels of {sizes.tolist()} mm, wanted three positive sizes in its header."]

    counts, foreground = None, np.empty(0, np.float32)
    if label is not None and scan.label is not None:
        labels, label_described = label
        problems += pair_problems(scan.image, described, scan.label, label_described)
        if not label_described.finite or not label_described.integer or label_described.minimum < 0:
            problems.append(f"{scan.label}: a label must hold whole numbers from 0 on.")
        if problems:
            return None, problems
        values, numbers = np.unique(labels, return_counts=True)
        counts = {int(value): int(number) for value, number in zip(values, numbers)}
        foreground = _sample(voxels[labels > 0], _FOREGROUND_SAMPLE)

    # RAS: which stored axis is nearest to the patient's x, y, z
    axes = np.argsort(nib.orientations.io_orientation(affine)[:, 0])
    low, median, high = (float(x) for x in np.percentile(_sample(voxels, _SAMPLE), _PERCENTILES))
    x, y, z = (int(axis) for axis in axes)
    facts = ScanFacts(
        shape=(voxels.shape[x], voxels.shape[y], voxels.shape[z]),
        spacing_mm=(float(sizes[x]), float(sizes[y]), float(sizes[z])),
        orientation="".join(map(str, nib.orientations.aff2axcodes(affine))),
        whole=described.integer,
        minimum=described.minimum,
        percentiles=(low, median, high),
        maximum=described.maximum,
        border=border_median(voxels),
        checksum=hashlib.sha256(f"{voxels.shape}".encode() + voxels.tobytes()).hexdigest(),
        label_counts=counts,
        foreground=foreground,
    )
    return facts, []


def _read(path: str, frame: int | None, problems: list[str]) -> tuple[np.ndarray, Volume] | None:
    """Voxels ``(x, y, z)`` and their description; a sentence is added to ``problems`` if there is no such thing."""
    if not Path(path).exists():
        problems.append(f"{path}: no such file.")
        return None
    try:
        volume = load_volume(path)
    except Exception as e:  # noqa: BLE001 - readers raise whatever the damage happens to trigger
        problems.append(f"{path}: truncated, damaged or no image ({type(e).__name__}: {first_line(e)}).")
        return None
    if volume.ndim != 4:
        problems.append(f"{path}: found shape {list(volume.shape[1:])}, wanted three axes.")
        return None
    frames = volume.shape[0]
    if frames > 1 and frame is None:
        problems.append(
            f"{path}: found {frames} volumes of {list(volume.shape[1:])} voxels (4-D), wanted one; --frame 0 to "
            f"--frame {frames - 1} takes one of them."
        )
        return None
    if frames > 1 and frame is not None:
        if not 0 <= frame < frames:
            problems.append(
                f"{path}: found {frames} volumes (4-D), wanted more than --frame {frame}, which counts from 0."
            )
            return None
        volume = MetaTensor(volume.as_tensor()[frame : frame + 1], affine=volume.affine)
    return np.ascontiguousarray(volume.as_tensor().numpy()[0]), describe_volume(volume)


def _sample(values: np.ndarray, most: int) -> np.ndarray:
    flat = values.ravel()
    return flat[:: -(-len(flat) // most)] if len(flat) > most else flat
