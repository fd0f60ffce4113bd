# SPDX-License-Identifier: Apache-2.0
"""Dice of a batch of label maps."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["batch_dice", "class_counts", "dice_of_counts"]


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
    return dice_of_counts(class_counts(predicted, label, num_classes))


def class_counts(predicted: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """
    Voxels ``(3, C)`` float32 of every class: in both maps, in the label, in the prediction. Those of several batches
    may be added up.

    Args:
        predicted: class indices, any shape, int64.
        label: class indices, same shape; voxels below 0, which are open, count for nothing.
        num_classes: classes with the background.
    """
    predicted, label = predicted.flatten(), label.flatten()
    is_open = label < 0
    predicted, label = predicted.masked_fill(is_open, num_classes), label.masked_fill(is_open, num_classes)
    # a class that does not exist takes in the voxels where both differ; `bincount` lets the processor wait for a GPU
    maps = torch.stack([torch.where(predicted == label, label, num_classes), label, predicted])
    if maps.is_cuda:
        return torch.stack([(maps == k).sum(dim=1) for k in range(num_classes)], dim=1).float()
    return torch.stack([torch.bincount(values, minlength=num_classes)[:num_classes] for values in maps]).float()


def dice_of_counts(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Dice of every class and whether it occurs, as :py:func:`batch_dice` gives them, of :py:func:`class_counts`."""
    overlap, in_label, in_prediction = counts
    return 2 * overlap / (in_label + in_prediction).clamp_min(1e-6), in_label > 0
