# SPDX-License-Identifier: Apache-2.0
"""What is in a file or a DICOM series, and whether it can be used: the one judge of an image, a label and a pair."""

# Every command asks here: `new`, `prepare`, the checks before training and evaluation, `segment` and `export`. A
# command that knows a way out (`--frame`, `--num_classes`) appends it to the sentence; the verdict is the same.

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..errors import first_line
from .channel_files import channel_files
from .grids import MAX_DISTANCE, grid_distance
from .nifti import NIFTI_SUFFIXES, is_nifti, nifti_problems, nifti_warnings
from .readers import load_volume
from .series import is_series
from .series_problems import series_problems

__all__ = [
    "PROGRESS_FROM",
    "Volume",
    "channel_problem",
    "describe_volume",
    "image_problems",
    "label_problems",
    "pair_problems",
    "read_frames",
    "read_image",
    "read_volume",
    "scan_problems",
    "shape_problems",
    "value_problems",
]

MOST_VALUES = 256  # distinct values of a label that are kept; a bundle has fewer classes
NAMED_VALUES = 10
_RESAMPLE = "If its position is correct, resample it to its image with nearest neighbor (MONAI's ResampleToMatch)."
_RESAMPLE_CHANNEL = "Resample it to the first channel (MONAI's ResampleToMatch)."
FEW_VALUES = 16  # distinct whole numbers: fewer than any image has, as many as a label map of structures may have
SAMPLE = 1_000_000  # voxels
LOGGER = logging.getLogger("dtlp")
PROGRESS_FROM = 20  # files; fewer are read before a bar is worth it


@dataclass(frozen=True)
class Volume:
    """
    What the judge needs to know of a volume, in float32, as MONAI has it.

    Attributes:
        shape: voxels along the stored axes x, y, z.
        affine: ``(4, 4)``, voxel index to mm in RAS.
        finite: whether no voxel is NaN or infinite.
        integer: whether every voxel is a whole number.
        minimum: 0 if it is not finite.
        maximum: 0 if it is not finite.
        values: distinct values of a label, if there are some that no label may have (below 0, fractions) these alone,
            and the lowest 256 at most; of an image, if they are few whole numbers, else ``None``; ``None`` if it is not
            finite.
        checksum: of the voxels.
        channels: of the image.
    """

    shape: list[int]
    affine: list[list[float]]
    finite: bool
    integer: bool
    minimum: float
    maximum: float
    values: list[float] | None
    checksum: str
    channels: int = 1


def scan_problems(
    path: str, in_channels: int = 1, channels: Sequence[str] = (), fill_missing: bool = False
) -> list[str]:
    """
    What is wrong with one scan, a file or a folder with a DICOM series, which is read to its last byte; none if it can
    be segmented.

    Args:
        path: of the scan.
        in_channels: that it has to have.
        channels: endings of their files, see :py:func:`read_image`.
        fill_missing: see there.
    """
    found, problems = read_image(path, in_channels, channels, fill_missing)
    return problems if found is None else list(image_problems(path, found[1]))


def read_volume(path: str, is_label: bool = False) -> tuple[tuple[np.ndarray, Volume] | None, list[str]]:
    """
    Read a file or a series to its last byte.

    Args:
        path: a NIfTI file, or a folder with one DICOM series.
        is_label: whether to describe the distinct values too.

    Returns:
        Voxels ``(x, y, z)`` of the type they are stored in and their description, or ``None``, and why it is none, one
        sentence each.

    Raises:
        InputError: if pydicom is needed and missing.
    """
    stored, problems = read_frames(path)
    if stored is None:
        return None, problems
    voxels, affine = stored
    problems = list(shape_problems(path, voxels.shape))
    return (None, problems) if problems else ((voxels, describe_volume(voxels, affine, is_label)), [])


def read_image(
    path: str, in_channels: int = 1, channels: Sequence[str] = (), fill_missing: bool = False
) -> tuple[tuple[np.ndarray, Volume] | None, list[str]]:
    """
    As :py:func:`read_volume`, of an image that may have several channels.

    Args:
        path: of the scan.
        in_channels: that it has to have; with several, voxels are ``(x, y, z, in_channels)``, and every channel is
            judged by itself (:py:func:`image_problems`).
        channels: endings of the files of the channels (:py:class:`dtlp_components.ScanReader`); without, a file of 4
            axes holds them all.
        fill_missing: take zeros for a channel whose file is not there, if another one is.
    """
    if in_channels == 1:
        return read_volume(path)
    files = channel_files(path, channels)
    there = [file for file in files if os.path.exists(file)]
    if len(there) < len(files) and (not there or not fill_missing):
        return None, [_missing_channels([file for file in files if file not in there], files)]
    stored = []
    for file in there:
        found, problems = read_frames(file)
        if found is None:
            return None, problems
        if len(files) > 1 and (problems := list(shape_problems(file, found[0].shape))):
            return None, problems
        stored.append(found)
    voxels, affine = stored[0]
    for file, (other, other_affine) in zip(there, stored, strict=True):
        problem = _other_grid(file, other.shape, other_affine, there[0], voxels.shape, affine)
        if problem:
            return None, [problem]
    if len(files) > 1:
        found_by_file = {file: found for file, (found, _) in zip(there, stored, strict=True)}
        voxels = np.stack([found_by_file.get(file, np.zeros_like(voxels)) for file in files], axis=-1)
    if voxels.ndim != 4 or voxels.shape[3] != in_channels:
        return None, [channel_problem(path, voxels.shape, in_channels, channels)]
    described = [describe_volume(np.ascontiguousarray(voxels[..., i]), affine) for i in range(in_channels)]
    names = files if len(files) > 1 else [f"{path}, channel {i}" for i in range(in_channels)]
    empty = set(files) - set(there)
    problems = [
        problem
        for name, channel in zip(names, described, strict=True)
        for problem in image_problems(name, channel)
        if name not in empty
    ]
    return (None, problems) if problems else ((voxels, _together(described)), [])


def _missing_channels(missing: Sequence[str], files: Sequence[str]) -> str:
    others = ", ".join(os.path.basename(file) for file in files if file not in missing) or "none of them"
    return f"{missing[0]}: no such file; expected {len(files)} channels of this scan, got {others}."


def channel_problem(path: str, shape: Sequence[int], in_channels: int, channels: Sequence[str]) -> str:
    """The sentence on an image whose channels are not as many as they have to be."""
    found = "1 channel" if len(shape) == 3 else f"a shape of {list(shape)}"
    where = f" in files ending in {', '.join(channels)}" if channels else " along the fourth axis of the file"
    return f"{path}: expected {in_channels} channels{where}, got {found}."


def _other_grid(
    path: str, shape: Sequence[int], affine: np.ndarray, first: str, of_first: Sequence[int], first_affine: np.ndarray
) -> str:
    """A sentence if a channel is not on the grid of the first one."""
    if tuple(shape) != tuple(of_first):
        return (
            f"{path}: expected all channels on one grid, got shape {list(shape)}, but {list(of_first)} in the first "
            f"channel, {first}. {_RESAMPLE_CHANNEL}"
        )
    distance = grid_distance(shape[:3], first_affine, affine)
    if not distance <= MAX_DISTANCE:
        return (
            f"{path}: its affine differs from that of the first channel, {first}: their corners are up to "
            f"{distance:.3g} voxels apart (allowed: {MAX_DISTANCE:g}). {_RESAMPLE_CHANNEL}"
        )
    return ""


def _together(channels: Sequence[Volume]) -> Volume:
    """What is known of an image from its channels."""
    digest = hashlib.sha256("".join(channel.checksum for channel in channels).encode())
    return replace(
        channels[0],
        integer=all(channel.integer for channel in channels),
        minimum=min(channel.minimum for channel in channels),
        maximum=max(channel.maximum for channel in channels),
        values=None,
        checksum=digest.hexdigest(),
        channels=len(channels),
    )


def read_frames(path: str) -> tuple[tuple[np.ndarray, np.ndarray] | None, list[str]]:
    """As :py:func:`read_volume`, of any number of axes; voxels and affine ``(4, 4)``, and nothing is described."""
    if not os.path.exists(path):
        return None, [f"{path}: no such file."]
    try:
        if os.path.isfile(path) and is_nifti(path):
            problems = list(nifti_problems(path))
            for warning in () if problems else nifti_warnings(path):
                LOGGER.warning(warning)
        elif is_series(path):
            problems = series_problems(path)
        else:
            problems = [f"{path}: expected a NIfTI file ({', '.join(NIFTI_SUFFIXES)}) or a DICOM series."]
        return (None, problems) if problems else (load_volume(path), [])
    except Exception as error:  # readers raise whatever the damage happens to trigger
        return None, [f"{path}: truncated, damaged or not an image ({type(error).__name__}: {first_line(error)})."]


def describe_volume(voxels: np.ndarray, affine: np.ndarray, is_label: bool = False) -> Volume:
    """Describe voxels ``(x, y, z)`` and their affine ``(4, 4)``."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite for a training too
        # z first, as NIfTI files lie in memory: everything below is several times faster then
        data = torch.from_numpy(np.asarray(voxels, np.float32).T)
    finite = bool(torch.isfinite(data).all())
    low, high = (x.item() for x in data.aminmax()) if finite else (0.0, 0.0)
    whole = bool((data == data.round()).all())
    values = None
    if is_label and finite:
        distinct = np.unique(voxels).astype(float)
        strange = distinct[(distinct < 0) | (distinct != distinct.round())]
        values = (strange if len(strange) else distinct)[:MOST_VALUES].tolist()
    elif finite and whole and len(np.unique(voxels.ravel(order="K")[:: 1 + voxels.size // SAMPLE])) <= FEW_VALUES:
        distinct = np.unique(voxels).astype(float)
        values = distinct.tolist() if len(distinct) <= FEW_VALUES else None
    digest = hashlib.sha256(f"{voxels.shape}".encode())
    for plane in data.numpy():  # a copy of the whole would be as large as the scan
        digest.update(np.ascontiguousarray(plane).data)
    return Volume(
        list(voxels.shape), np.asarray(affine, float).tolist(), finite, whole, low, high, values, digest.hexdigest()
    )


def shape_problems(path: str, shape: Sequence[int]) -> Iterator[str]:
    """One sentence if a shape, without trailing axes of length 1, is not that of one 3-D volume."""
    if len(shape) != 3:
        yield f"{path}: expected a single 3-D volume, got a shape of {list(shape)}."


def image_problems(path: str, image: Volume) -> Iterator[str]:
    """What is wrong with the voxels of an image, one sentence at most."""
    if not image.finite:
        yield f"{path}: expected finite numbers, got NaN or infinity; if they lie outside the body, use np.nan_to_num."
    elif image.minimum == image.maximum:
        yield f"{path}: expected an image, got the value {image.minimum:g} in every voxel."
    elif image.values is not None:
        yield f"{path}: expected an image, got only the values {_listed(image.values)}, as in a label map."


def label_problems(path: str, label: Volume, classes: Iterable[int] | None = None, way_out: str = "") -> Iterator[str]:
    """
    What is wrong with the voxels of a label, one sentence at most.

    Args:
        path: of the label.
        label: described with ``is_label``.
        classes: values that it may have; any whole numbers from 0 on if not given.
        way_out: what to append if it has others.
    """
    values = label.values or []
    if not label.finite:
        yield f"{path}: expected integers of at least 0, got NaN or infinity."
    elif not label.integer or label.minimum < 0:
        yield f"{path}: expected integers of at least 0, got the values {_listed(values)}."
    elif classes is not None:
        yield from value_problems(path, values, classes, way_out)


def value_problems(path: str, values: Iterable[float], classes: Iterable[int], way_out: str = "") -> Iterator[str]:
    """One sentence if a label has other values than those of its classes."""
    expected = sorted(classes)
    if unknown := sorted(set(values) - set(expected)):
        yield f"{path}: expected only the values {expected}, got {_listed(unknown)}.{way_out}"


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values[:NAMED_VALUES])}]"


def pair_problems(image_path: str, image: Volume, label_path: str, label: Volume) -> Iterator[str]:
    """One sentence if a label is not on the grid of its image."""
    if image.shape != label.shape:
        yield (
            f"{label_path}: expected the label on the grid of its image, got shape {label.shape}, but {image.shape} in "
            f"{image_path}. {_RESAMPLE}"
        )
        return
    distance = grid_distance(image.shape, np.asarray(image.affine), np.asarray(label.affine))
    if not distance <= MAX_DISTANCE:  # so that NaN is a difference
        yield (
            f"{label_path}: its affine differs from that of its image {image_path}: their corners are up to "
            f"{distance:.3g} voxels apart (allowed: {MAX_DISTANCE:g}), so they are not on the same grid. "
            f"{_RESAMPLE}"
        )
