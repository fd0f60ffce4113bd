# SPDX-License-Identifier: Apache-2.0
"""What a segmentation run leaves in a folder: names of label maps, and the table of scans."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import ImageMetaKey

from ..keys import ScanKeys
from .channel_files import split_channel
from .nifti import is_nifti, without_suffix

__all__ = [
    "COLORS",
    "COLOR_TABLE",
    "COMPANIONS",
    "IMAGE_PREFIX",
    "LABEL_ENDING",
    "LABEL_MAP_ENDING",
    "LABEL_PREFIX",
    "TABLE",
    "PredictionNames",
    "case_name",
    "color_table",
    "is_named_label",
    "prediction_name",
    "printable",
    "read_table",
]


class PredictionNames:
    """
    For ``SaveImaged(output_name_formatter=)``: name a label map after its scan.

    The name is that of the file or DICOM folder; below `root`, with the folders in between in front, so that series of
    one name do not overwrite each other: ``patient1/ct/series`` in `root` becomes ``patient1_ct_series``.

    Args:
        root: what :py:func:`find_images` was given.
        channels: endings of the files of the channels, which are no part of the name.

    Example:
        >>> PredictionNames("scans").name_of("scans/patient1/ct.nii.gz")
        'patient1_ct'
    """

    def __init__(self, root: str, channels: Sequence[str] = ()) -> None:
        self.root, self.channels = root, list(channels)

    def name_of(self, image: str) -> str:
        """Name of the label map of an image, without what says that it is one."""
        path, root = (Path(os.path.abspath(path)) for path in (image, self.root))
        return prediction_name(path, root, self.channels)

    def __call__(self, metadict: Mapping[str, Any], saver: Any) -> dict[str, str]:
        # with an ending, since MONAI cuts off what follows the last dot: in a folder's name that is a part of it
        return {"subject": f"{self.name_of(metadict[ImageMetaKey.FILENAME_OR_OBJ])}.nii.gz"}


def prediction_name(image: Path, root: Path, channels: Sequence[str] = ()) -> str:
    parts = image.relative_to(root).parts if root in image.parents else (image.name,)
    if (found := split_channel(image.name, channels)) is not None:
        # BraTS repeats the folder's name in the file's
        case = () if parts[-2:-1] == found[:1] else found[:1]
        return "_".join(filter(None, (*parts[:-1], *case))) or case_name(image.name)
    name = "_".join(parts)
    return case_name(name)


def case_name(name: str) -> str:
    """Name of a scan after its file or folder, without what says what kind of file it is."""
    return without_suffix(name) if is_nifti(name) else re.sub(r"\.(dcm|dicom)$", "", name, flags=re.IGNORECASE)


TABLE = "segmentations.csv"
COLOR_TABLE = "labels.ctbl"
# of classes after the background, over and over: matplotlib's tab10, which pictures have too
COLORS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194),
    (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip
LABEL_MAP_ENDING = "_seg.nii.gz"
# what may be written of a scan beside its label map
COMPANIONS = {
    ScanKeys.ENTROPY: "_entropy.nii.gz",
    ScanKeys.DISAGREEMENT: "_disagreement.nii.gz",
    ScanKeys.DICOM_SEG: "_seg.dcm",
}


def read_table(prediction_dir: str | os.PathLike[str]) -> list[dict[str, str]]:
    """
    Rows of the table that an earlier run left in a folder, with ``scan`` and ``label_map``; none if there is no table.
    """
    try:
        with open(Path(prediction_dir, TABLE), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [row for row in rows if row.get("scan") and row.get("label_map")]


# ACDC has _gt, BraTS -seg, BIDS _dseg, LiTS volume-0 and segmentation-0, the BTCV challenge img0001 and label0001
LABEL_ENDING = re.compile(r"[-_](labels?|d?seg|segmentation|mask|gt|groundtruth)$", re.IGNORECASE)
LABEL_PREFIX = re.compile(r"^(segmentation|label|mask|seg)[-_]?(?=\d)", re.IGNORECASE)
IMAGE_PREFIX = re.compile(r"^(volume|image|img)[-_]?(?=\d)", re.IGNORECASE)


def is_named_label(name: str) -> bool:
    """Whether a file's name is one that data sets give to label maps."""
    stem = without_suffix(name)
    return bool(LABEL_ENDING.search(stem) or LABEL_PREFIX.search(stem))


def color_table(label_names: Sequence[str]) -> str:
    """
    Names and colors of the labels as a color table of 3D Slicer: a line ``value name red green blue opacity`` for each.
    """
    lines = [f"# labels of the *{LABEL_MAP_ENDING} files in this folder, for 3D Slicer"]
    for value, name in enumerate(label_names):
        red, green, blue = COLORS[(value - 1) % len(COLORS)] if value else (0, 0, 0)
        word = re.sub(r"\s+", "_", name.strip()) or str(value)  # blanks end a column
        lines.append(f"{value} {word} {red} {green} {blue} {255 if value else 0}")
    return "\n".join(lines) + "\n"


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that every file and terminal takes: bytes that are no UTF-8 become ``\\xfc``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
