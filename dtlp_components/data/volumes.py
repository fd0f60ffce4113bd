# SPDX-License-Identifier: Apache-2.0
"""What is in a file or a DICOM series, and whether it can be used: the one judge of images and labels."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import first_line
from .dicom import series_problems
from .nifti import nifti_problem, read_nifti
from .readers import load_series

__all__ = [
    "PROGRESS_FROM",
    "Volume",
    "describe_volume",
    "image_problems",
    "label_problems",
    "pair_problems",
    "read_volume",
    "scan_problems",
]

LARGEST_SHIFT = 0.1  # voxels between the corners of an image's grid and of its label's
PROGRESS_FROM = 20  # files; fewer are read before a bar is worth it


@dataclass(frozen=True)
class Volume:
    """
    What has to be known of a file to judge it.

    Args:
        size: voxels along its axes; axes of length 1 after the third are left out.
        affine: ``(4, 4)``, voxel index to mm in RAS.
        finite: whether no value is NaN or infinite; else `minimum` and `maximum` are 0.
        whole: whether every value is an integer.
        minimum: of the values.
        maximum: of the values.
    """

    size: list[int]
    affine: list[list[float]]
    finite: bool
    whole: bool
    minimum: float
    maximum: float


def read_volume(path: str) -> tuple[np.ndarray | None, Volume | None, list[str]]:
    """
    Read a scan or a label map to its last byte.

    Args:
        path: a NIfTI file, or a folder with one DICOM series.

    Returns:
        Voxels ``(x, y, z)``, or ``(x, y, z, n)`` of a file with several volumes, their description, and no problem; or
        neither, and one sentence for everything that is wrong with the file.
    """
    if not os.path.exists(path):
        return None, None, [f"{path}: no such file."]
    if os.path.isdir(path):
        if problems := series_problems(Path(path)):
            return None, None, problems
    elif problem := nifti_problem(path):
        return None, None, [problem]
    try:
        if os.path.isdir(path):
            series = load_series(path)
            voxels, affine = series.as_tensor().numpy()[0], np.asarray(series.affine)
        else:
            voxels, affine = read_nifti(path)
    except Exception as error:  # readers raise whatever the damage happens to trigger
        return None, None, [f"{path}: truncated or damaged ({type(error).__name__}: {first_line(error)})."]
    return voxels, describe_volume(voxels, affine), []


def describe_volume(voxels: np.ndarray, affine: np.ndarray) -> Volume:
    """Description of voxels ``(x, y, z)`` or ``(x, y, z, n)`` with the affine ``(4, 4)`` of their grid."""
    low, high = (float(x) for x in (voxels.min(), voxels.max())) if voxels.size else (0.0, 0.0)
    finite = bool(np.isfinite([low, high]).all())  # NaN spreads to both
    whole = voxels.dtype.kind in "iub" or (finite and bool((voxels == np.round(voxels)).all()))
    size, low, high = list(voxels.shape), low if finite else 0.0, high if finite else 0.0
    return Volume(size, affine.tolist(), finite, whole, low, high)


def _is_three_dimensional(path: str, volume: Volume) -> Iterator[str]:
    if len(volume.size) == 4:
        yield (
            f"{path}: expected one 3-D volume, got {volume.size[3]} volumes of "
            f"{' x '.join(map(str, volume.size[:3]))} voxels (4-D)."
        )
    elif len(volume.size) != 3:
        yield f"{path}: expected one 3-D volume, got {' x '.join(map(str, volume.size))} voxels."


def image_problems(path: str, volume: Volume) -> list[str]:
    """What is wrong with an image that could be read, one sentence each."""
    problems = list(_is_three_dimensional(path, volume))
    if not volume.finite:
        problems.append(f"{path}: expected finite intensities, got NaN or infinity (np.nan_to_num replaces them).")
    elif volume.minimum == volume.maximum:
        problems.append(f"{path}: expected an image, got the value {volume.minimum:g} in every voxel.")
    return problems


def label_problems(path: str, volume: Volume, num_classes: int | None = None) -> list[str]:
    """
    What is wrong with a label map that could be read, one sentence each.

    Args:
        path: of the file.
        volume: its description.
        num_classes: classes with the background; any number if ``None``.
    """
    problems = list(_is_three_dimensional(path, volume))
    if not volume.finite:
        problems.append(f"{path}: expected integers from 0 as labels, got NaN or infinity.")
    elif not volume.whole:
        problems.append(
            f"{path}: expected integers from 0 as labels, got fractions (was it resampled without nearest neighbors?)."
        )
    elif volume.minimum < 0:
        problems.append(f"{path}: expected integers from 0 as labels, got {volume.minimum:g}.")
    if num_classes is not None and volume.maximum >= num_classes:
        problems.append(
            f"{path}: expected labels from 0 to {num_classes - 1} (--num_classes {num_classes}), got {volume.maximum:g}."
        )
    return problems


def pair_problems(image_path: str, image: Volume, label_path: str, label: Volume) -> list[str]:
    """
    One sentence if a label map is not on the grid of its image.

    Grids are compared where it matters, at their corners and in voxels: entries of an affine that differ by 0.001 mm are
    much in one scan and nothing in another.
    """
    if image.size != label.size:
        sizes = (" x ".join(map(str, volume.size)) for volume in (image, label))
        return ["{1}: expected the grid of its image {0}, {2} voxels, got {3}.".format(image_path, label_path, *sizes)]
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in image.size[:3]))], float)
    moved = np.linalg.solve(np.asarray(label.affine), np.asarray(image.affine) @ corners.T).T
    shift = float(np.abs(moved - corners).max())
    if not shift <= LARGEST_SHIFT:  # so that NaN is a shift
        return [
            f"{label_path}: expected the grid of its image {image_path}, got one that is up to {shift:.3g} voxels away "
            f"(allowed: {LARGEST_SHIFT:g})."
        ]
    return []


def scan_problems(path: str) -> list[str]:
    """
    What is wrong with one scan, a file or a folder with a DICOM series, which is read to its last byte; none if it can be
    segmented.
    """
    _, volume, problems = read_volume(path)
    return problems if volume is None else image_problems(path, volume)
