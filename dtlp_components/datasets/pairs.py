# SPDX-License-Identifier: Apache-2.0
"""An image and its label: read, compared and described."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from ..data.grids import MAX_DISTANCE, grid_distance
from ..data.volumes import (
    Volume,
    describe_volume,
    image_problems,
    label_problems,
    pair_problems,
    read_frames,
    read_volume,
    value_problems,
)
from ..errors import InputError
from ..files import place_file, sha256
from ..keys import DatalistKeys

__all__ = [
    "common_affine",
    "count_labels",
    "describe_converted",
    "describe_pair",
    "judge_pair",
    "label_extent",
    "load_pair",
    "place_pair",
]


# file of a label, its voxels and the affine of its grid, to a `published_box`
FindBox = Callable[[Path, np.ndarray, np.ndarray], list[list[int]]]


def _refuse(problems: Iterable[str]) -> None:
    """Raise :py:class:`InputError` with what is wrong with one case, if anything is."""
    if sentences := list(problems):
        raise InputError(" ".join(sentences))


def judge_pair(
    image: str,
    voxels: np.ndarray,
    label: str,
    label_voxels: np.ndarray,
    affine: np.ndarray,
    classes: Iterable[int] | None,
) -> None:
    """
    Refuse an image and a label on one grid by the rules of :py:mod:`dtlp_components.data.volumes`.

    Args:
        image: its name in the message.
        voxels: of the image, ``(x, y, z)``.
        label: its name in the message.
        label_voxels: of the label, same shape.
        affine: of both.
        classes: values that the label may have; any whole numbers from 0 on if ``None``.

    Raises:
        InputError: if one of them cannot be used.
    """
    _judge(image, describe_volume(voxels, affine), label, describe_volume(label_voxels, affine, True), classes)


def _judge(image: str, described: Volume, label: str, label_described: Volume, classes: Iterable[int] | None) -> None:
    _refuse(
        [
            *image_problems(image, described),
            *label_problems(label, label_described, classes),
            *pair_problems(image, described, label, label_described),
        ]
    )


def common_affine(
    shape: Sequence[int], image: Path, affine: np.ndarray, label: Path, label_affine: np.ndarray
) -> np.ndarray:
    """
    The affine for an image and a label of the same shape ``(x, y, z)`` that are both to be converted: the image's.

    A label with other axes is refused. If only its origin differs, that was lost, which is reported.

    Raises:
        InputError: if the axes differ.
    """
    moved = label_affine.copy()
    moved[:3, 3] = affine[:3, 3]
    if not grid_distance(shape, affine, moved) <= MAX_DISTANCE:
        raise InputError(
            f"{label}: expected the axes of {image.name}, {np.round(affine[:3, :3], 3).tolist()} (mm, RAS), "
            f"got {np.round(label_affine[:3, :3], 3).tolist()}."
        )
    if not grid_distance(shape, affine, label_affine) <= MAX_DISTANCE:
        tqdm.write(f"{label}: its origin differs from that of {image.name}, which is used for both.")
    return affine


def load_pair(image: Path, label: Path, num_axes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Read an image and its label that are to be converted.

    Args:
        image: NIfTI file with ``num_axes`` axes.
        label: NIfTI file of the same shape and with the same axes; see :py:func:`common_affine`.
        num_axes: 3, or 4 for frames ``(x, y, z, frame)``, which :py:func:`judge_pair` has yet to judge one by one.

    Returns:
        Voxels of the image, those of the label, and the affine ``(4, 4)`` of both.

    Raises:
        InputError: if a file is missing or broken, or the two differ in shape or axes.
    """
    (stored, found), (label_stored, label_found) = (read_frames(str(path)) for path in (image, label))
    _refuse([*found, *label_found])
    assert stored is not None
    assert label_stored is not None
    (voxels, affine), (label_voxels, label_affine) = stored, label_stored
    if voxels.ndim != num_axes:
        raise InputError(f"{image}: expected {num_axes} axes, got shape {list(voxels.shape)}.")
    if voxels.shape != label_voxels.shape:
        raise InputError(
            f"{label}: expected shape {list(voxels.shape)} as its image {image} has, got {list(label_voxels.shape)}."
        )
    affine = common_affine(voxels.shape[:3], image, affine, label, label_affine)
    if num_axes == 3:
        judge_pair(str(image), voxels, str(label), label_voxels, affine, None)
    return voxels, label_voxels, affine


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
    classes = sorted(int(value) for value in names)
    _refuse(value_problems(str(label), values.tolist(), classes))
    counted = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    return {str(value): counted.get(value, 0) for value in classes}


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
        raise InputError(f"{label}: expected at least one label value above 0 to crop to, got none.")
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
        InputError: if a file cannot be used (:py:mod:`dtlp_components.data.volumes`), or the two differ in shape or
            affine, or the label has other values.
    """
    (stored, found), (label_stored, label_found) = read_volume(str(image)), read_volume(str(label), is_label=True)
    _refuse([*found, *label_found])
    assert stored is not None
    assert label_stored is not None
    (voxels, described), (label_voxels, label_described) = stored, label_stored
    _judge(str(image), described, str(label), label_described, [int(value) for value in names])
    affine = np.asarray(described.affine)
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


def place_pair(
    image: Path, label: Path, output: Path, item: Mapping[str, str], names: Mapping[str, str]
) -> dict[str, Any]:
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
