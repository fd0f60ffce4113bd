# SPDX-License-Identifier: Apache-2.0
"""Transforms that MONAI lacks or has with a fault: crop, smoothing, resampling, one intensity range for CT and MR."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import (
    Crop,
    Cropd,
    GaussianSmooth,
    MapTransform,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
    Spacingd,
)
from monai.utils import ImageMetaKey, convert_to_dst_type, convert_to_numpy, convert_to_tensor
from torch.utils.data import get_worker_info

from ..errors import InputError
from ..keys import DatalistKeys

__all__ = [
    "AIR_HU",
    "LOWEST_CT",
    "AntiAliasd",
    "CTOrMRIntensityd",
    "CropToBoxd",
    "ResampleToSpacingd",
    "border_median",
    "looks_like_hu",
]

LOWEST_CT = -3100  # scanners pad with down to -3024; phase images in MR go to -4096
AIR_HU = (-1100, -900)
SLAB_VOXELS = 2**23  # in one go, when a volume is smoothed


def border_median(voxels: np.ndarray) -> float:
    """Median of the outermost voxels of a volume ``(x, y, z)``."""
    ends = [np.take(voxels, end, axis).ravel() for axis in range(voxels.ndim) for end in (0, -1)]
    return float(np.median(np.concatenate(ends)))


def looks_like_hu(minimum: float, border: float, whole: bool) -> bool:
    """
    Whether intensities can be HU: the minimum is that of air, lung or a scanner's padding, -3100 to -500, which no MR but
    a phase image reaches (those go to -4096); or they are whole numbers and the outermost voxels are air, -1100 to -900.

    Args:
        minimum: of the intensities.
        border: :py:func:`border_median`.
        whole: whether every intensity is a whole number.
    """
    return LOWEST_CT <= minimum <= -500 or (whole and AIR_HU[0] <= border <= AIR_HU[1])


class CropToBoxd(Cropd):
    """
    Crop volumes to the box that the datalist gives for each of them, which compared papers put around the label.

    It stands right after the volume was loaded, before any transform that reorients, resamples or pads: the box is in
    voxels of the file, which later grids do not have. Inverted by ``Invertd``, which needs no box and fills with 0.

    Args:
        keys: volumes ``(C, x, y, z)``, all on the grid of the image file.
        box_key: key of ``[[x0, x1], [y0, y1], [z0, z1]]`` in the item, voxels, end excluded.
        allow_missing_keys: skip keys that the item lacks.

    Raises:
        InputError: when called, if an item has no box or one that leaves the volume; a ``RuntimeError`` of the same text
            where a pool's thread or a worker process would not get it through, and where it would end a server.
    """

    def __init__(
        self, keys: KeysCollection, box_key: str = DatalistKeys.PUBLISHED_BOX.value, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, Crop(), allow_missing_keys)
        self.box_key = box_key

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            if self.box_key not in item:
                _refuse(
                    f"{_file(item[key])}: has no `{self.box_key}`: variant `published` crops to where the label is, "
                    "which a new scan cannot know; use --preprocessing_variant native"
                )
            box, size = item[self.box_key], item[key].shape[1:]
            if len(box) != len(size) or not all(0 <= start < end <= n for (start, end), n in zip(box, size)):
                _refuse(
                    f"{_file(item[key])}: `{self.box_key}` {[list(pair) for pair in box]} leaves the volume of "
                    f"{list(size)} voxels; wanted the list that prepare wrote for these files."
                )
            slices = tuple(slice(start, end) for start, end in box)
            item[key] = self.cropper(item[key], slices, lazy=self.lazy if lazy is None else lazy)
        return item


class AntiAliasd(MapTransform):
    """
    Smooth an image before it is resampled to a coarser grid, which interpolation alone would alias.

    Along every axis on which the new voxels are ``f > 1`` times as long as the old ones, a Gaussian with a standard
    deviation of ``(f - 1) / 2`` old voxels, the rule of ``skimage.transform.resize``; along the others nothing. MONAI's
    ``Spacingd``, which should follow directly, only interpolates.

    Large volumes are smoothed a slab at a time, with the same result: torch's convolution takes 90 bytes per voxel, 13 GB
    for 560 slices of 512 x 512 (measured).

    Args:
        keys: images ``(1, x, y, z)`` with their affine (``MetaTensor``).
        pixdim: sides of the new voxels along the image's axes, mm.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.pixdim = tuple(float(side) for side in pixdim)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            old = d[key].pixdim.tolist()
            sigma = [max(0.0, (new / was - 1) / 2) for new, was in zip(self.pixdim, old, strict=True)]
            # a Gaussian this narrow changes nothing, and spacings that are meant to be equal differ in the last digits
            if max(sigma) > 0.01:
                d[key] = _smooth(d[key], sigma)
        return d


def _smooth(image: Any, sigma: Sequence[float]) -> Any:
    """``GaussianSmooth``, in slabs along the first axis that are as thick as :py:data:`SLAB_VOXELS` allows."""
    smooth = GaussianSmooth(sigma)
    length = image.shape[1]
    thickness = max(1, SLAB_VOXELS // math.prod(image.shape[2:]))
    if thickness >= length:
        return smooth(image)
    reach = math.ceil(4 * sigma[0]) + 1  # MONAI cuts the Gaussian off at four standard deviations
    voxels = torch.as_tensor(image).as_subclass(torch.Tensor)
    result = torch.empty_like(voxels, dtype=torch.float32)
    for start in range(0, length, thickness):
        stop, first = min(length, start + thickness), max(0, start - reach)
        slab = smooth(voxels[:, first : stop + reach])
        result[:, start:stop] = slab[:, start - first : stop - first]
    return convert_to_dst_type(result, image)[0]


class ResampleToSpacingd(Spacingd):
    """
    MONAI's ``Spacingd``, in items that hold anything at all.

    From 1.6.0 on, MONAI takes every entry named ``image_…`` for the metadata of ``image`` and calls its ``update``. MONAI
    Label puts a text there, ``image_path``, on which every inference would end. Entries that are no dictionary are kept
    from it, and are in the result as they were. Arguments and errors are MONAI's.
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        prefixes = tuple(f"{key}_" for key in self.keys)
        hidden = {
            name: value
            for name, value in data.items()
            if str(name).startswith(prefixes) and name not in self.keys and not isinstance(value, MutableMapping)
        }
        shown = {name: value for name, value in data.items() if name not in hidden}
        return {**super().__call__(shown, lazy), **hidden}


class CTOrMRIntensityd(MapTransform):
    """
    Intensities to 0..1, float32, in data sets that mix CT and MR, which share no unit: a volume that looks like HU is
    scaled from a window, any other from its own percentiles; what lies outside is clipped.

    Each volume is judged by its own voxels (:py:func:`looks_like_hu`), so that a new scan needs no domain. A crop can take
    the air away: CT whose minimum is above -500 is taken for MR. So it stands before a crop that may leave no air or
    lung; the percentiles are then those of the whole volume.

    Args:
        keys: volumes ``(1, x, y, z)``.
        window: lowest and highest HU.
        percentiles: lowest and highest, 0 to 100, of a volume that is not in HU.
        allow_missing_keys: skip keys that the item lacks.

    Raises:
        ValueError: if a pair is not ascending, or percentiles are not from 0 to 100.
        InputError: when called, if a volume's percentiles are one intensity, but not all of it is; as a ``RuntimeError``
            like that of :py:class:`CropToBoxd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        window: Sequence[float],
        percentiles: Sequence[float] = (0.5, 99.5),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        low, high = window
        if not low < high:
            raise ValueError(f"window must be (low, high) HU with low < high, got {tuple(window)}.")
        lower, upper = percentiles
        if not 0 <= lower < upper <= 100:
            raise ValueError(
                f"percentiles must be (lower, upper) with 0 <= lower < upper <= 100, got {(lower, upper)}."
            )
        self.scale_ct = ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)
        self.scale_mr = ScaleIntensityRangePercentiles(lower, upper, 0.0, 1.0, clip=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            # MONAI's percentiles of whole numbers fail or are cut off
            volume = convert_to_tensor(item[key], dtype=torch.float32, track_meta=get_track_meta())
            voxels = convert_to_numpy(volume)[0]
            whole = bool((voxels == np.round(voxels)).all())
            if looks_like_hu(float(voxels.min()), border_median(voxels), whole):
                item[key] = self.scale_ct(volume)
                continue
            scaled = self.scale_mr(volume)
            # MONAI neither scales nor clips, but only warns, if the percentiles leave no range
            if scaled.max() > 1 or scaled.min() < 0:
                _refuse(
                    f"{_file(item[key])}: found the same intensity at {self.scale_mr.lower:g} and "
                    f"{self.scale_mr.upper:g} %, wanted a volume with a range to scale."
                )
            item[key] = scaled
        return item


def _file(volume: Any) -> str:
    """Where a loaded volume is from, or the path of one that is not loaded."""
    if isinstance(volume, str):
        return volume
    return str(getattr(volume, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ, "a volume without a file name"))


def _refuse(message: str) -> NoReturn:
    """Raise :py:class:`InputError`, which passes MONAI's wrapping, where it reaches the user."""
    # SystemExit ends a thread of CacheDataset's pool, which then waits for ever, and a DataLoader's worker without its text
    in_main_process = threading.current_thread() is threading.main_thread() and get_worker_info() is None
    if in_main_process and not _is_in_event_loop():
        raise InputError(message)
    raise RuntimeError(message)


def _is_in_event_loop() -> bool:
    """Whether a server is running in this thread, such as MONAI Label's: a SystemExit would end it for everybody."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
