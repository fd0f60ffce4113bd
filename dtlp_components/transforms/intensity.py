# SPDX-License-Identifier: Apache-2.0
"""One intensity range for CT and MR."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import MapTransform, ScaleIntensityRange, ScaleIntensityRangePercentiles
from monai.utils import convert_to_numpy, convert_to_tensor

from .refusal import file_of, refuse

__all__ = ["AIR_HU", "LOWEST_CT", "CTOrMRIntensityd", "border_median", "looks_like_hu", "unpadded_minimum"]

LOWEST_CT = -3100  # scanners pad with down to -3024; phase images in MR go to -4096
AIR_HU = (-1100, -900)


def border_median(voxels: np.ndarray) -> float:
    """Median of the outermost voxels of a volume ``(x, y, z)``."""
    ends = [np.take(voxels, end, axis).ravel() for axis in range(voxels.ndim) for end in (0, -1)]
    return float(np.median(np.concatenate(ends)))


def unpadded_minimum(voxels: Any) -> float:
    """
    Lowest intensity; of a volume that is padded with less than any CT has (-32768), the lowest beside that number.

    Args:
        voxels: array or tensor of any shape, finite.
    """
    minimum = float(voxels.min())
    if minimum >= LOWEST_CT:
        return minimum
    others = voxels[voxels > minimum]
    return minimum if 0 in others.shape else float(others.min())


def looks_like_hu(minimum: float, border: float, whole: bool) -> bool:
    """
    Whether intensities can be HU: the minimum is that of air, lung or a scanner's padding, -3100 to -500, which no MR
    but a phase image reaches (those go to -4096); or they are whole numbers and the outermost voxels are air, -1100 to
    -900.

    Args:
        minimum: of the intensities, :py:func:`unpadded_minimum`.
        border: :py:func:`border_median`.
        whole: whether every intensity is a whole number.
    """
    return LOWEST_CT <= minimum <= -500 or (whole and AIR_HU[0] <= border <= AIR_HU[1])


class CTOrMRIntensityd(MapTransform):
    """
    Intensities to 0..1, float32, in data sets that mix CT and MR, which share no unit: a volume that looks like HU is
    scaled from a window, any other from its own percentiles; what lies outside is clipped.

    MONAI's ``ScaleIntensityRanged`` and ``ScaleIntensityRangePercentilesd`` each do one of the two to every volume.
    Here each is judged by its own voxels (:py:func:`looks_like_hu`), so that a new scan needs no domain. A crop can
    take the air away: CT whose minimum is above -500 is taken for MR. So it stands before a crop that may leave no air
    or lung; the percentiles are then those of the whole volume.

    Args:
        keys: volumes ``(1, x, y, z)``.
        window: lowest and highest HU.
        percentiles: lowest and highest, 0 to 100, of a volume that is not in HU.
        allow_missing_keys: skip keys that the item lacks.

    Raises:
        ValueError: if a pair is not ascending, or percentiles are not from 0 to 100.
        InputError: when called, if a volume's percentiles are one intensity, but not all of it is; as a
            ``RuntimeError`` like that of :py:class:`CropToBoxd`.

    Example:
        >>> ct = torch.full((1, 8, 9, 10), -1000.0)
        >>> ct[:, 2:6, 2:6, 2:6] = 90.0
        >>> scale = CTOrMRIntensityd("image", window=[-160, 340])
        >>> scale({"image": ct})["image"].as_tensor().unique()  # air, and 90 HU in the middle of the window
        tensor([0.0000, 0.5000])
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
            if looks_like_hu(unpadded_minimum(voxels), border_median(voxels), whole):
                item[key] = self.scale_ct(volume)
                continue
            scaled = self.scale_mr(volume)
            # MONAI neither scales nor clips, but only warns, if the percentiles leave no range
            if scaled.max() > 1 or scaled.min() < 0:
                refuse(
                    f"{file_of(item[key])}: expected different intensities at percentiles {self.scale_mr.lower:g} and "
                    f"{self.scale_mr.upper:g}, got equal ones, so the volume cannot be scaled."
                )
            item[key] = scaled
        return item
