# SPDX-License-Identifier: Apache-2.0
"""DICOM series whose headers are changed slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def change(folder: Path, edit: Callable[[int, Any], None]) -> Path:
    """Edit each slice's header, given its number from 0."""
    import pydicom

    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        edit(int(header.InstanceNumber) - 1, header)
        header.save_as(file)
    return folder


def move(shift: Callable[[int], list[float]]) -> Callable[[int, Any], None]:
    def edit(number: int, header: Any) -> None:
        header.ImagePositionPatient = [*np.add(header.ImagePositionPatient, shift(number))]

    return edit
