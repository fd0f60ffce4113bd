# SPDX-License-Identifier: Apache-2.0
"""Crop, smoothing and resampling that MONAI lacks or has with a fault."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import Crop, Cropd, GaussianSmooth, MapTransform, Spacingd
from monai.utils import convert_to_dst_type

from ..keys import DatalistKeys
from .refusal import file_of, refuse

__all__ = ["AntiAliasd", "CropToBoxd", "ResampleToSpacingd"]

SLAB_VOXELS = 2**23  # in one go, when a volume is smoothed


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
        InputError: when called, if an item has no box or one that leaves the volume; a ``RuntimeError`` of the same
            text where a pool's thread or a worker process would not get it through, and where it would end a server.

    Example:
        >>> from monai.data import MetaTensor
        >>> item = {"image": MetaTensor(torch.rand(1, 16, 17, 18)), "published_box": [[2, 6], [0, 17], [3, 18]]}
        >>> CropToBoxd("image")(item)["image"].shape
        torch.Size([1, 4, 17, 15])
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
                refuse(
                    f"{file_of(item[key])}: has no `{self.box_key}`: variant `published` crops to the label, which a "
                    "new scan does not have; leave out the overlay published.json"
                )
            box, size = item[self.box_key], item[key].shape[1:]
            if len(box) != len(size) or not all(
                0 <= start < end <= n for (start, end), n in zip(box, size, strict=True)
            ):
                refuse(
                    f"{file_of(item[key])}: expected a `{self.box_key}` inside the volume of {list(size)} voxels, got "
                    f"{[list(pair) for pair in box]}. Use the datalist that prepare wrote for these files."
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

    Large volumes are smoothed a slab at a time, with the same result: torch's convolution takes 90 bytes per voxel, 13
    GB for 560 slices of 512 x 512 (measured).

    Args:
        keys: images ``(1, x, y, z)`` with their affine (``MetaTensor``).
        pixdim: sides of the new voxels along the image's axes, mm.
        allow_missing_keys: as in MONAI.

    Example:
        >>> from monai.data import MetaTensor
        >>> scan = MetaTensor(torch.rand(1, 16, 17, 18))  # voxels of 1 mm
        >>> smooth = AntiAliasd("image", pixdim=[4.0, 4.0, 4.0])({"image": scan})["image"]
        >>> smooth.shape == scan.shape, bool(smooth.std() < scan.std())
        (True, True)
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

    From 1.6.0 on, MONAI takes every entry named ``image_…`` for the metadata of ``image`` and calls its ``update``.
    MONAI Label puts a text there, ``image_path``, on which every inference would end. Entries that are no dictionary
    are kept from it, and are in the result as they were. Arguments and errors are MONAI's.

    Example:
        >>> from monai.data import MetaTensor
        >>> scan = MetaTensor(torch.rand(1, 17, 19, 21))  # voxels of 1 mm
        >>> ResampleToSpacingd("image", pixdim=[2.0, 2.0, 1.0])({"image": scan})["image"].shape
        torch.Size([1, 9, 10, 21])
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
