# SPDX-License-Identifier: Apache-2.0
"""Images that lack a channel, so that a network learns to do without."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

__all__ = ["RandChannelDropoutd"]


class RandChannelDropoutd(Randomizable, MapTransform):
    """
    Set one channel, drawn at random, to 0, which is the mean after a z-score: what a missing channel is read as.

    MONAI has no such transform; ``torch.nn.Dropout3d`` may take all channels and scales those that are left.

    Args:
        keys: images ``(C, x, y, z)``; those of one channel stay as they are.
        prob: that a channel is dropped.
        allow_missing_keys: skip keys that the item lacks.

    Raises:
        ValueError: if ``prob`` is not within [0, 1].

    Example:
        >>> import torch
        >>> dropped = RandChannelDropoutd("image", prob=1.0)({"image": torch.ones(3, 4, 5, 6)})["image"]
        >>> sorted(dropped.flatten(1).mean(dim=1).tolist())
        [0.0, 1.0, 1.0]
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.1, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must be within [0, 1], got {prob}.")
        self.prob = prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its images changed, each by a draw of its own."""
        item = dict(data)
        for key in self.key_iterator(item):
            count = len(item[key])
            if count > 1 and self.R.random() < self.prob:
                item[key] = item[key].clone()
                item[key][int(self.R.randint(count))] = 0
        return item
