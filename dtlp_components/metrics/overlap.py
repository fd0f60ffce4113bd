# SPDX-License-Identifier: Apache-2.0
"""Dice of a batch of label maps."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["batch_dice"]


def batch_dice(predicted: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """
    Dice of every class over a whole batch of hard label maps.

    MONAI's ``compute_dice`` gives it volume by volume, of maps in one channel per class.

    Args:
        predicted: class indices, any shape, int64.
        label: class indices, same shape.
        num_classes: classes with the background.

    Returns:
        Dice ``(C,)`` float32 and whether the class occurs in ``label`` ``(C,)`` bool; Dice of absent classes means
        nothing.
    """
    predicted, label = predicted.flatten(), label.flatten()
    overlap = torch.bincount(label[predicted == label], minlength=num_classes).float()
    in_label = torch.bincount(label, minlength=num_classes).float()
    total = in_label + torch.bincount(predicted, minlength=num_classes).float()
    return 2 * overlap / total.clamp_min(1), in_label > 0
