# SPDX-License-Identifier: Apache-2.0
"""Test-time flips."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from ..networks.model_average import log_of_mean

__all__ = ["FlipAverage"]


class FlipAverage(nn.Module):
    """
    Average a network's probabilities over mirrored copies of its input.

    Every combination of the axes is mirrored, which costs two to the power of their number passes; softmax of each
    prediction is mirrored back and averaged. What is returned is the logarithm of that average, so that it stands where
    logits do, before the average over windows and a softmax. Without axes it is the network, unchanged.

    MONAI's ``TestTimeAugmentation`` runs random transforms on a whole scan, again and again, and returns labels or
    means of the whole: it neither goes through windows nor promises the same result twice.

    Only for axes along which the anatomy, or the network's training, knows no sides: it must not tell a left kidney
    from a right one by where it is.

    Args:
        network: maps images ``(B, in_channels, D, H, W)`` to logits ``(B, C, D, H, W)``.
        axes: spatial axes to mirror, 0 to 2.

    Raises:
        ValueError: if an axis is none of these, or there twice.

    Example:
        >>> network = FlipAverage(torch.nn.Conv3d(1, 2, 3, padding=1), axes=[0])
        >>> image = torch.rand(1, 1, 4, 5, 6)
        >>> network(image).allclose(network(image.flip(2)).flip(2), atol=1e-5)
        True
    """

    def __init__(self, network: nn.Module, axes: Sequence[int] = ()) -> None:
        super().__init__()
        if len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}:
            raise ValueError(f"axes: expected distinct values among 0, 1 and 2, got {list(axes)}.")
        self.network = network
        self.flips = [
            tuple(axis + 2 for axis in chosen) for n in range(len(axes) + 1) for chosen in combinations(axes, n)
        ]

    def forward(self, image: Tensor) -> Tensor:
        """
        Images ``(B, in_channels, D, H, W)`` -> logits, or log-probabilities if there are axes ``(B, C, D, H, W)``.
        """
        if len(self.flips) == 1:
            logits: Tensor = self.network(image)
            return logits
        return log_of_mean(
            [torch.softmax(self.network(image.flip(axes)).float(), dim=1).flip(axes) for axes in self.flips]
        )
