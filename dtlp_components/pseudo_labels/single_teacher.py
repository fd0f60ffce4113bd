# SPDX-License-Identifier: Apache-2.0
"""The mean teacher alone, for methods that have no other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..keys import PseudoLabelSources as Sources
from .dual_teacher import PseudoLabels

__all__ = ["SingleTeacher"]


class SingleTeacher:
    """
    Pseudo-labels of the mean teacher; what is watched while another method than DTLP trains.

    Args:
        mean_teacher: maps images to its logits.

    Example:
        >>> teacher = SingleTeacher(lambda image: torch.cat([-image, image], dim=1))
        >>> teacher(torch.ones(1, 1, 4, 5, 6)).label.unique()
        tensor([1])
    """

    def __init__(self, mean_teacher: Callable[[Tensor], Tensor]) -> None:
        self.mean_teacher = mean_teacher

    @torch.no_grad()
    def __call__(self, image: Tensor) -> PseudoLabels:
        """Images ``(B, in_channels, D, H, W)`` -> :py:class:`PseudoLabels`."""
        logits = self.mean_teacher(image).float()
        probabilities = torch.softmax(logits, dim=1)
        return PseudoLabels({Sources.MEAN_TEACHER: probabilities}, logits, probabilities.argmax(dim=1, keepdim=True))
