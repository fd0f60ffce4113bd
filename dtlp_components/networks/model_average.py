# SPDX-License-Identifier: Apache-2.0
"""Several trained students as one."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .weights import load_weights

__all__ = ["ModelAverage", "average_models", "log_of_mean"]


def log_of_mean(probabilities: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of maps ``(B, C, …)``, which stands where logits do."""
    mean = torch.stack(list(probabilities)).mean(dim=0)
    # a probability may be 0 in float32, its logarithm may not
    return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


class ModelAverage(nn.Module):
    """
    The mean of several networks' probabilities.

    What is returned is the logarithm of the mean, so that it stands where logits do.

    Args:
        networks: map images ``(B, in_channels, D, H, W)`` to logits ``(B, C, D, H, W)``.

    Example:
        >>> two = [torch.nn.Conv3d(1, 2, 1), torch.nn.Conv3d(1, 2, 1)]
        >>> ModelAverage(two)(torch.rand(1, 1, 4, 4, 4)).exp().sum(dim=1).allclose(torch.ones(1, 4, 4, 4))
        True
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """Images ``(B, in_channels, D, H, W)`` -> log-probabilities ``(B, C, D, H, W)``."""
        return log_of_mean([torch.softmax(network(image).float(), dim=1) for network in self.networks])


def average_models(network: nn.Module, others: Sequence[str]) -> nn.Module:
    """
    A network with its weights, averaged with the same network with other weights.

    Args:
        network: has its weights, on its device.
        others: files of weights, such as ``models/model.pt`` of other folds; the network itself if there are none.

    Raises:
        InputError: if a file is none of weights, or of a network of another shape.
    """
    if not others:
        return network
    device = next(network.parameters()).device
    loaded = [load_weights(copy.deepcopy(network), file, device) for file in others]
    return ModelAverage([network, *loaded]).eval()
