# SPDX-License-Identifier: Apache-2.0
"""Random crops in which small classes are as frequent as large ones."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, SpatialCrop

from ..keys import DatalistKeys

__all__ = ["RandClassCropd"]


class RandClassCropd(Randomizable, MapTransform):
    """
    Crop anywhere, or, in a share of the draws, around a voxel of a class that is drawn from those the label has.

    The voxel lies anywhere in the middle of the crop, not always at its center, so that its surroundings vary. Without
    a label the crop is anywhere. MONAI's ``RandCropByLabelClassesd`` demands a label and puts the voxel at the center.

    Args:
        keys: volumes ``(C, D, H, W)`` of one grid.
        roi_size: sides of the crop in voxels; a side that is longer than the volume's is cut to it.
        middle_size: sides of the middle of the crop in which the voxel lies, such as what a later transform keeps of
            it; the whole crop if ``None``.
        class_share: of the draws that go by class.
        label_key: class indices ``(1, D, H, W)``, the background 0.
        allow_missing_keys: skip keys that the item lacks.

    Raises:
        ValueError: if ``class_share`` is not within [0, 1].

    Example:
        >>> crop = RandClassCropd(["image", "label"], [8, 8, 8], class_share=1.0)
        >>> label = torch.zeros(1, 20, 20, 20)
        >>> label[0, 3, 15, 9] = 2
        >>> int(crop({"image": torch.zeros(1, 20, 20, 20), "label": label})["label"].max())
        2
    """

    def __init__(
        self,
        keys: KeysCollection,
        roi_size: Sequence[int],
        middle_size: Sequence[int] | None = None,
        class_share: float = 0.5,
        label_key: str = DatalistKeys.LABEL.value,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if not 0 <= class_share <= 1:
            raise ValueError(f"class_share must be within [0, 1], got {class_share}.")
        self.roi_size, self.middle_size = list(roi_size), list(middle_size or roi_size)
        self.class_share, self.label_key = class_share, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its volumes cropped alike."""
        item = dict(data)
        shape = item[self.first_key(item)].shape[1:]
        by_class = self.R.random() < self.class_share
        voxel = self._voxel_of_a_class(item[self.label_key]) if by_class and self.label_key in item else None
        starts, ends = [], []
        for axis, (length, side, middle) in enumerate(zip(shape, self.roi_size, self.middle_size, strict=True)):
            size = min(side, length)
            low, high = 0, length - size
            if voxel is not None:
                margin = max(size - middle, 0) // 2
                # where the crop leaves the volume, it is moved inside, and the voxel is nearer to its border
                low = min(max(voxel[axis] - size + 1 + margin, 0), high)
                high = max(min(voxel[axis] - margin, high), low)
            start = int(self.R.randint(low, high + 1))
            starts.append(start)
            ends.append(start + size)
        crop = SpatialCrop(roi_start=starts, roi_end=ends)
        for key in self.key_iterator(item):
            item[key] = crop(item[key])
        return item

    def _voxel_of_a_class(self, label: Any) -> list[int] | None:
        classes = torch.as_tensor(label).as_subclass(torch.Tensor)[0].long()
        counts = torch.bincount(classes.flatten().clamp_min(0))
        counts[0] = 0
        there = counts.nonzero().flatten().tolist()
        if not there:
            return None
        chosen = there[int(self.R.randint(len(there)))]
        number = int(self.R.randint(int(counts[chosen])))
        voxel: list[int] = (classes == chosen).nonzero()[number].tolist()
        return voxel
