# SPDX-License-Identifier: Apache-2.0
"""DiceCE over the voxels that have a label, where some have none."""

from __future__ import annotations

import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

from ..keys import NO_LABEL

__all__ = ["PartialDiceCELoss"]


class PartialDiceCELoss(nn.Module):
    """
    ``½ (CE + Dice)`` over the voxels whose label is not ``NO_LABEL``, such as those no teacher is sure of.

    With a label everywhere it is MONAI's ``DiceCELoss`` with softmax and both factors a half, whose cross entropy has
    no way to leave voxels out. Where no voxel has a label, the loss is 0.

    Args:
        batch: Dice over the whole batch instead of volume by volume, for which a class that misses from one patch has
            no Dice there.
        lambda_dice: factor of the Dice loss.
        lambda_ce: factor of the cross entropy.

    Example:
        >>> logits, label = torch.zeros(1, 2, 4, 4, 4), torch.full((1, 1, 4, 4, 4), -1)  # NO_LABEL
        >>> float(PartialDiceCELoss()(logits, label))
        0.0
    """

    def __init__(self, batch: bool = True, lambda_dice: float = 0.5, lambda_ce: float = 0.5) -> None:
        super().__init__()
        self.lambda_dice, self.lambda_ce = lambda_dice, lambda_ce
        self.dice = DiceLoss(softmax=True, to_onehot_y=True, batch=batch)
        self.partial_dice = DiceLoss(softmax=True, to_onehot_y=True, batch=batch, ignore_index=NO_LABEL)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits ``(B, C, D, H, W)`` and class indices or ``NO_LABEL`` ``(B, 1, D, H, W)`` int64 -> scalar."""
        known = label != NO_LABEL
        # on a GPU, the processor would wait to know
        if not label.is_cuda and known.all():
            dice, cross_entropy = self.dice(logits, label), F.cross_entropy(logits, label[:, 0])
        else:
            dice = self.partial_dice(logits, label)
            summed = F.cross_entropy(logits, label[:, 0], ignore_index=NO_LABEL, reduction="sum")
            cross_entropy = summed / known.sum().clamp_min(1)
        loss: Tensor = self.lambda_dice * dice + self.lambda_ce * cross_entropy
        return loss
