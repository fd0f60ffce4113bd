# SPDX-License-Identifier: Apache-2.0
"""Strongly distorted views of a batch, drawn from torch's random state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor

__all__ = ["StrongView"]

LARGEST_SEED = 2**31


class StrongView:
    """
    Distort the intensities of every volume of a batch by MONAI's transforms, for consistency between two views.

    MONAI's transforms draw from a generator of numpy's that a checkpoint does not have; it is seeded from torch's here,
    so that a resumed run goes on as if it had never stopped.

    Args:
        transforms: of one image ``(in_channels, D, H, W)``; no voxel may move. None: images stay as they are.

    Example:
        >>> from monai.transforms import RandGaussianNoise
        >>> StrongView([RandGaussianNoise(prob=1.0)])(torch.zeros(2, 1, 4, 5, 6)).shape
        torch.Size([2, 1, 4, 5, 6])
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]]) -> None:
        self.transform = Compose(list(transforms))

    def __call__(self, image: Tensor) -> Tensor:
        """Images ``(B, in_channels, D, H, W)``, each distorted on its own; same shape, plain tensors."""
        if not self.transform.transforms:
            return image
        views = []
        for volume in image:
            self.transform.set_random_state(seed=int(torch.randint(LARGEST_SEED, ())))
            view = torch.as_tensor(self.transform(volume)).as_subclass(Tensor)
            views.append(view.to(device=image.device, dtype=image.dtype))
        stacked = torch.stack(views)
        channels_last = image.is_contiguous(memory_format=torch.channels_last_3d)
        return stacked.contiguous(memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format)
