# SPDX-License-Identifier: Apache-2.0
"""DiceCE over the voxels that have a label, where some have none or one of several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

from ..keys import NO_LABEL

__all__ = ["PartialDiceCELoss", "known_parts", "marginal_cross_entropy", "possible_classes", "table_of"]


def table_of(open_classes: Sequence[Sequence[int]]) -> Tensor:
    """
    Which classes an open voxel may be of: the table of :py:func:`dtlp_components.data.partial_labels.open_classes` as
    ``(K, C)`` float32, 1 where it may; ``(0, 0)`` without rows.
    """
    classes = 1 + max((number for row in open_classes for number in row), default=-1)
    table = torch.zeros(len(open_classes), classes)
    for row, numbers in enumerate(open_classes):
        table[row, list(numbers)] = 1
    return table


def possible_classes(label: Tensor, table: Tensor) -> Tensor:
    """
    Classes that a voxel may be of, ``(B, C, D, H, W)`` float32: 1 for its label, or for all of an open voxel's row.

    Args:
        label: class indices, or ``-1 - k`` for row ``k`` of the table, ``(B, 1, D, H, W)`` int64.
        table: ``(K, C)`` of :py:func:`table_of`.
    """
    classes = table.shape[1]
    rows = torch.cat([torch.eye(classes, device=table.device, dtype=table.dtype), table])
    index = torch.where(label < 0, classes - 1 - label, label)
    return rows[index[:, 0]].movedim(-1, 1)


def marginal_cross_entropy(logits: Tensor, possible: Tensor, weight: Tensor | None = None) -> Tensor:
    """
    Cross entropy of the sum of the probabilities of all classes that a voxel may be of (marginal loss, Shi 2021)::

        mean over voxels that are not wholly open of  -log sum_{k possible} p_k

    Args:
        logits: ``(B, C, D, H, W)``.
        possible: 1 for each such class, same shape.
        weight: of the classes ``(C,)``; an open voxel has the mean of its own.
    """
    lost = logits.logsumexp(dim=1) - (logits.masked_fill(possible == 0, -torch.inf)).logsumexp(dim=1)
    count = possible.sum(dim=1)
    counts = (count < logits.shape[1]).to(logits.dtype)
    if weight is not None:
        counts = counts * torch.einsum("bcxyz,c->bxyz", possible, weight.to(possible)) / count
    return (lost * counts).sum() / counts.sum().clamp_min(1e-6)


class PartialDiceCELoss(nn.Module):
    """
    ``½ (CE + Dice)`` over the voxels whose label is known, such as those that teachers are sure of.

    A label of ``NO_LABEL`` says nothing. With a table of open classes, a label of ``-1 - k`` says that a voxel is of
    one of those in row ``k``: its cross entropy is that of the sum of their probabilities, and it counts in the Dice of
    the other classes, of which it is not. With a label everywhere it is MONAI's ``DiceCELoss`` with softmax and both
    factors a half, whose cross entropy has no way to leave voxels out. Where no voxel has a label, the loss is 0.

    Args:
        batch: Dice over the whole batch instead of volume by volume, for which a class that misses from one patch has
            no Dice there.
        lambda_dice: factor of the Dice loss.
        lambda_ce: factor of the cross entropy.
        open_classes: by row (:py:func:`dtlp_components.data.partial_labels.open_classes`).

    Example:
        >>> logits, label = torch.zeros(1, 2, 4, 4, 4), torch.full((1, 1, 4, 4, 4), -1)  # NO_LABEL
        >>> float(PartialDiceCELoss()(logits, label))
        0.0
    """

    def __init__(
        self,
        batch: bool = True,
        lambda_dice: float = 0.5,
        lambda_ce: float = 0.5,
        open_classes: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        self.lambda_dice, self.lambda_ce = lambda_dice, lambda_ce
        self.dice = DiceLoss(softmax=True, to_onehot_y=True, batch=batch)
        self.partial_dice = DiceLoss(softmax=True, to_onehot_y=True, batch=batch, ignore_index=NO_LABEL)
        self.plain_dice = DiceLoss(batch=batch)
        self.register_buffer("table", table_of(open_classes), persistent=False)
        self.table: Tensor

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits ``(B, C, D, H, W)`` and class indices or values below 0 ``(B, 1, D, H, W)`` int64 -> scalar."""
        known = label >= 0
        # on a GPU, the processor would wait to know
        if not label.is_cuda and known.all():
            dice, cross_entropy = self.dice(logits, label), F.cross_entropy(logits, label[:, 0])
        elif len(self.table) > 1:
            possible = possible_classes(label, self.table.to(logits.device))
            dice = self.plain_dice(*known_parts(logits, possible, known))
            cross_entropy = marginal_cross_entropy(logits, possible)
        else:
            dice = self.partial_dice(logits, label)
            summed = F.cross_entropy(logits, label[:, 0], ignore_index=NO_LABEL, reduction="sum")
            cross_entropy = summed / known.sum().clamp_min(1)
        loss: Tensor = self.lambda_dice * dice + self.lambda_ce * cross_entropy
        return loss


def known_parts(logits: Tensor, possible: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """
    Probabilities and one-hot label ``(B, C, D, H, W)``, both 0 where it is open whether a voxel is of that class: there
    they add nothing to a Dice loss.
    """
    certain = torch.where(known, 1.0, 1.0 - possible)
    return torch.softmax(logits, dim=1) * certain, possible * known
