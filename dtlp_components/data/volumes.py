# SPDX-License-Identifier: Apache-2.0
"""What is in a file or a DICOM series, and whether it can be used: the one judge of an image and its label."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from ..errors import first_line
from .dicom import series_problems
from .nifti import nifti_geometry
from .readers import load_volume

__all__ = [
    "PROGRESS_FROM",
    "Volume",
    "describe_volume",
    "pair_problems",
    "read_volume",
    "scan_problems",
    "volume_problems",
]

AFFINE_TOLERANCE = 1e-3  # mm; headers keep affines as float32
SMALLEST_SIDE = 1e-6  # mm
SMALLEST_DETERMINANT = 1e-3  # of the directions of the axes: 1 if they are at right angles
PROGRESS_FROM = 20  # files; fewer are read before a bar is worth it


@dataclass(frozen=True)
class Volume:
    """What the checks need to know of a file, channel first; `minimum` and `maximum` are 0 if it is not finite."""

    shape: list[int]
    affine: list[list[float]]
    finite: bool
    integer: bool
    minimum: float
    maximum: float


def scan_problems(path: str) -> list[str]:
    """
    What is wrong with one scan, a file or a folder with a DICOM series, which is read to its last byte; none if it can be
    segmented.
    """
    if not os.path.exists(path):
        return [f"{path}: no such file."]
    volume, problems = read_volume(path)
    return problems if volume is None else list(volume_problems(path, volume))


def read_volume(path: str) -> tuple[Volume | None, list[str]]:
    """What is in a file or a series, or why that cannot be said."""
    if os.path.isdir(path) and (found := series_problems(Path(path))):
        return None, found
    try:
        volume = load_volume(path)
        problems = [] if os.path.isdir(path) else list(geometry_problems(path, *nifti_geometry(path)))
        return (None, problems) if problems else (describe_volume(volume), [])
    except Exception as error:  # noqa: BLE001 - readers raise whatever the damage happens to trigger
        return None, [f"{path}: truncated, damaged or no image ({type(error).__name__}: {first_line(error)})."]


def geometry_problems(path: str, sides: np.ndarray, affine: np.ndarray) -> Iterator[str]:
    """What is wrong with the header of a NIfTI file: sides of the voxels in mm ``(3,)`` and affine ``(4, 4)``."""
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    for found in (np.abs(sides), columns):
        if not np.isfinite(found).all() or (found < SMALLEST_SIDE).any():
            text = " x ".join(f"{side:.3g}" for side in found)
            yield f"{path}: found voxels of {text} mm, expected three sides above 0; the header is damaged."
            return
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3] / columns)) < SMALLEST_DETERMINANT:
        yield f"{path}: found a singular affine, two axes of which point the same way; the header is damaged."


def volume_problems(path: str, volume: Volume) -> Iterator[str]:
    """What is wrong with a volume whatever it is for, one sentence each."""
    if len(volume.shape) != 4 or volume.shape[0] != 1:
        found = [n for n in (*volume.shape[1:], volume.shape[0]) if n > 1]
        yield f"{path}: expected one 3-D volume, found {found} voxels by axis."
    if not volume.finite:
        yield f"{path}: holds NaN or infinite values."


def pair_problems(image_path: str, image: Volume, label_path: str, label: Volume) -> Iterator[str]:
    """One sentence if a label is not on the grid of its image."""
    if image.shape != label.shape:
        yield f"{label_path}: has shape {label.shape[1:]}, its image {image_path} has {image.shape[1:]}."
    else:
        difference = np.abs(np.subtract(image.affine, label.affine)).max()
        if not difference <= AFFINE_TOLERANCE:  # so that NaN is a difference
            yield (
                f"{label_path}: its affine differs from that of its image {image_path} by up to {difference:g} "
                f"(allowed: {AFFINE_TOLERANCE:g}), so the two are not on one grid."
            )


def describe_volume(volume: MetaTensor) -> Volume:
    """What the checks need to know of a scan."""
    affine, data = volume.affine.tolist(), volume.as_tensor()
    finite = bool(torch.isfinite(data).all())
    low, high = (x.item() for x in data.aminmax()) if finite else (0.0, 0.0)
    return Volume(list(data.shape), affine, finite, bool((data == data.round()).all()), low, high)
