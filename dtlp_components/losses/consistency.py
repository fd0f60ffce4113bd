# SPDX-License-Identifier: Apache-2.0
"""Consistency of the student with soft predictions: masked reconstruction and distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn

__all__ = ["DistillationLoss", "MaskedReconstructionLoss"]


class MaskedReconstructionLoss(nn.Module):
    """
    Relative squared distance of the logits of a masked image to the mean teacher's of the whole one (Eq. 16)::

        L_rec = mean over volumes of  ||z_mask - z_T||^2 / ||z_T||^2

    Logits are defined up to a constant per voxel, so both are centred over classes first: else the term could shrink
    without the two agreeing.

    Example:
        >>> logits = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1, 1)
        >>> MaskedReconstructionLoss()(3 * logits, logits)  # twice the teacher's logits away, squared
        tensor([4.])
    """

    epsilon = 1e-6

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Logits ``(B, C, D, H, W)`` of the masked and of the whole image -> one value per volume ``(B,)``."""
        student = student_logits.float() - student_logits.float().mean(dim=1, keepdim=True)
        teacher = teacher_logits.float() - teacher_logits.float().mean(dim=1, keepdim=True)
        distance = (student - teacher).square().flatten(1).sum(dim=1)
        return distance / teacher.square().flatten(1).sum(dim=1).clamp_min(self.epsilon)


class DistillationLoss(nn.Module):
    """
    Soft Dice of the student's probabilities to soft teacher maps, summed over teachers (Eq. 17).

    It is MONAI's soft-label Dice, which is smallest where both maps are equal; the usual one is smallest at a sharper
    map.

    Example:
        >>> logits = torch.randn(1, 2, 4, 5, 6)
        >>> maps = [torch.softmax(logits, dim=1), torch.softmax(-logits, dim=1)]
        >>> loss = DistillationLoss()
        >>> bool(loss(logits, maps[:1]) < 1e-4), bool(loss(logits, maps) > 0.1)
        (True, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss(softmax=True, soft_label=True, batch=True)

    def forward(self, student_logits: Tensor, teacher_probabilities: Sequence[Tensor]) -> Tensor:
        """Logits ``(B, C, D, H, W)`` and maps of the same shape -> scalar."""
        losses = [self.dice(student_logits.float(), target) for target in teacher_probabilities]
        return torch.stack(losses).sum()
