# SPDX-License-Identifier: Apache-2.0
"""What a segmentation run leaves in a folder: names of label maps, and the table of scans."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.utils import ImageMetaKey

from .nifti import without_suffix

__all__ = ["LABEL_MAP_ENDING", "TABLE", "PredictionNames", "prediction_name", "printable", "read_table"]


class PredictionNames:
    """
    For ``SaveImaged(output_name_formatter=)``: name a label map after its scan.

    The name is that of the file or DICOM folder; below `root`, with the folders in between in front, so that series of
    one name do not overwrite each other: ``patient1/ct/series`` in `root` becomes ``patient1_ct_series``.

    Args:
        root: what :py:func:`find_images` was given.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def name_of(self, image: str) -> str:
        """Name of the label map of an image, without what says that it is one."""
        path, root = (Path(os.path.abspath(path)) for path in (image, self.root))
        return prediction_name(path, root)

    def __call__(self, metadict: Mapping[str, Any], saver: Any) -> dict[str, str]:
        # with an ending, since MONAI cuts off what follows the last dot: in a folder's name that is a part of it
        return {"subject": f"{self.name_of(metadict[ImageMetaKey.FILENAME_OR_OBJ])}.nii.gz"}


def prediction_name(image: Path, root: Path) -> str:
    parts = image.relative_to(root).parts if root in image.parents else (image.name,)
    name = "_".join(parts)
    return without_suffix(name)


TABLE = "segmentations.csv"
LABEL_MAP_ENDING = "_seg.nii.gz"


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


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that every file and terminal takes: bytes that are no UTF-8 become ``\\xfc``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
