# SPDX-License-Identifier: Apache-2.0
"""An image and its label: read, compared and described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from ..errors import InputError
from ..files import place_file, sha256
from ..keys import DatalistKeys

__all__ = [
    "common_affine",
    "count_labels",
    "describe_converted",
    "describe_pair",
    "label_extent",
    "load_pair",
    "place_pair",
]


# file of a label, its voxels and the affine of its grid, to a `published_box`
FindBox = Callable[[Path, np.ndarray, np.ndarray], list[list[int]]]


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a NIfTI file, read to its last byte."""
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        image = nib.load(path)
        return np.asanyarray(image.dataobj), image.affine  # type: ignore[attr-defined]
    except Exception as error:  # a broken file makes nibabel, gzip and zlib raise many kinds
        raise InputError(f"{path}: cannot be read as NIfTI ({type(error).__name__}: {error}).") from error


def _load_both(image: Path, label: Path, num_axes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Voxels and affine of an image, then of its label, which has the same shape."""
    voxels, affine = _load(image)
    label_voxels, label_affine = _load(label)
    if voxels.ndim != num_axes:
        raise InputError(f"{image}: found shape {voxels.shape}, expected {num_axes} axes.")
    if voxels.shape != label_voxels.shape:
        raise InputError(f"{label}: found shape {label_voxels.shape}, expected that of its image, {voxels.shape}.")
    return voxels, affine, label_voxels, label_affine


def common_affine(image: Path, affine: np.ndarray, label: Path, label_affine: np.ndarray) -> np.ndarray:
    """
    The affine for an image and a label of the same shape that are both to be converted: the image's.

    A label with other axes is refused. If only its origin differs, that was lost, which is reported.

    Raises:
        InputError: if the axes differ.
    """
    if not np.allclose(affine[:3, :3], label_affine[:3, :3], atol=1e-3):
        raise InputError(
            f"{label}: found the axes {np.round(label_affine[:3, :3], 3).tolist()} (mm, RAS), "
            f"expected those of {image.name}, {np.round(affine[:3, :3], 3).tolist()}."
        )
    if not np.allclose(affine, label_affine, atol=1e-3):
        tqdm.write(f"{label}: its origin differs from that of {image.name}, which is used for both.")
    return affine


def load_pair(image: Path, label: Path, num_axes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Read an image and its label that are to be converted.

    Args:
        image: NIfTI file with ``num_axes`` axes.
        label: NIfTI file of the same shape and with the same axes; see :py:func:`common_affine`.
        num_axes: 3, or 4 for frames ``(x, y, z, frame)``.

    Returns:
        Voxels of the image, those of the label, and the affine ``(4, 4)`` of both.

    Raises:
        InputError: if a file is missing or broken, or the two differ in shape or axes.
    """
    voxels, affine, label_voxels, label_affine = _load_both(image, label, num_axes)
    return voxels, label_voxels, common_affine(image, affine, label, label_affine)


def count_labels(label: Path, voxels: np.ndarray, names: Mapping[str, str]) -> dict[str, int]:
    """
    Count the voxels of every named value.

    Args:
        label: file of the label, for the error message.
        voxels: its values, any shape.
        names: label value, as text, to its name.

    Raises:
        InputError: if there are other values.
    """
    values, counts = np.unique(voxels, return_counts=True)
    expected = sorted(int(value) for value in names)
    if unknown := sorted(set(values.tolist()) - set(expected)):
        raise InputError(f"{label}: found the values {unknown[:10]}, expected only {expected}.")
    counted = {int(value): int(count) for value, count in zip(values, counts)}
    return {str(value): counted.get(value, 0) for value in expected}


def label_extent(label: Path, voxels: np.ndarray) -> list[tuple[int, int]]:
    """
    First and last index with a label along each axis, both included.

    Args:
        label: file of the label, for the error message.
        voxels: its values ``(x, y, z)``, 0 for the background.

    Raises:
        InputError: if every voxel is background.
    """
    boxes = ndimage.find_objects((voxels > 0).astype(np.uint8))
    if not boxes:
        raise InputError(f"{label}: found no voxel to put a box around, expected a label above 0.")
    return [(int(side.start), int(side.stop) - 1) for side in boxes[0]]


def describe_pair(
    image: Path, label: Path, names: Mapping[str, str], find_box: FindBox | None = None
) -> dict[str, Any]:
    """
    Check a label against its image and describe the two.

    Args:
        image: NIfTI file ``(x, y, z)``.
        label: NIfTI file on the same grid.
        names: label value, as text, to its name.
        find_box: the published crop around a label, if there is one.

    Returns:
        ``shape`` (voxels), ``spacing_mm``, ``label_counts`` (voxels of each named value), ``sha256`` of both files and,
        with ``find_box``, ``published_box``.

    Raises:
        InputError: if a file is missing or broken, or the two differ in shape or affine, or the label has other values.
    """
    voxels, affine, label_voxels, label_affine = _load_both(image, label, num_axes=3)
    if not np.allclose(affine, label_affine, atol=1e-3):
        raise InputError(
            f"{label}: found affine {np.round(label_affine, 3).tolist()}, "
            f"expected that of its image, {np.round(affine, 3).tolist()}."
        )
    counts = count_labels(label, label_voxels, names)
    box = {} if find_box is None else {DatalistKeys.PUBLISHED_BOX.value: find_box(label, label_voxels, affine)}
    return {
        "shape": list(voxels.shape),
        "spacing_mm": [round(float(size), 5) for size in nib.affines.voxel_sizes(affine)],
        "label_counts": counts,
        **box,
        "sha256": {DatalistKeys.IMAGE.value: sha256(image), DatalistKeys.LABEL.value: sha256(label)},
    }


def describe_converted(
    image: Path,
    label: Path,
    names: Mapping[str, str],
    convert: Callable[[], None],
    find_box: FindBox | None = None,
) -> dict[str, Any]:
    """:py:func:`describe_pair` of two files that ``convert`` writes, unless an earlier run did and both load."""
    try:
        return describe_pair(image, label, names, find_box)
    except InputError:  # not converted yet, or not readable
        convert()
        return describe_pair(image, label, names, find_box)


def place_pair(image: Path, label: Path, output: Path, item: Mapping[str, str], names: Mapping[str, str]) -> dict:
    """
    Check a pair that needs no conversion and put it where its datalist item says.

    Args:
        image: NIfTI file ``(x, y, z)``.
        label: NIfTI file on the same grid.
        output: folder that the item's paths are relative to.
        item: ``image`` and ``label`` of the datalist.
        names: label value, as text, to its name.

    Returns:
        The item and what :py:func:`describe_pair` says of it.

    Raises:
        InputError: as :py:func:`describe_pair` and :py:func:`place_file`.
    """
    described = describe_pair(image, label, names)
    place_file(image, output / item[DatalistKeys.IMAGE])
    place_file(label, output / item[DatalistKeys.LABEL])
    return {**item, **described}
