# SPDX-License-Identifier: Apache-2.0
"""Difficulty-aware class weights (Eq. 3-6) and the loss that uses them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

from ..metrics.overlap import class_counts, dice_of_counts
from .partial import known_parts, marginal_cross_entropy, possible_classes, table_of

__all__ = ["DifficultyAwareLoss"]


class DifficultyAwareLoss(nn.Module):
    """
    DiceCE whose classes weigh the more, the worse and the slower they are learned (Eq. 3-6)::

        w_k = w_lambda_k * d_k^alpha,    d_k = du_k / dl_k,    w_lambda_k = 1 - lambda_k
        du_k = sum of min(Delta, 0) ln(lambda_e / lambda_{e-1}),    dl_k with max(Delta, 0),
        Delta = lambda_e - lambda_{e-1}

    Sums over the last ``window`` iterations are running means with momentum ``1 - 1 / window``; their ratio is the
    same. ``w_lambda`` is smoothed in the same way. A class that is absent from the batch moves none of its statistics.
    Weights of the foreground classes present are scaled to mean 1 and clamped; the background weighs 1. The statistics
    are buffers, so they are part of a checkpoint. MONAI's ``DiceCELoss`` is given its class weights once and for all.

    Batches are counted with :py:meth:`observe` and taken in together by :py:meth:`update` at the end of an iteration,
    which may have several, on one process or on many; an iteration's weights follow from the iterations before.

    Args:
        num_classes: classes with the background.
        window: ``tau``, iterations to accumulate over.
        exponent: ``alpha`` of Eq. 4, which tames outliers.
        min_weight: smallest weight of a class.
        max_weight: largest weight of a class.
        open_classes: see :py:class:`dtlp_components.PartialDiceCELoss`; without, every voxel must have a label.

    Example:
        >>> loss = DifficultyAwareLoss(num_classes=3)
        >>> label = torch.arange(3).repeat(40).view(1, 1, 4, 5, 6)
        >>> found = torch.where(label == 2, 0, label)  # class 2 is never found
        >>> for _ in range(3):
        ...     weight = loss.observe(found, label)
        ...     loss.update()
        >>> bool(weight[2] > weight[1])
        True
        >>> loss(torch.zeros(1, 3, 4, 5, 6), label, weight).shape
        torch.Size([])
    """

    floor = 1e-2  # of a Dice in a logarithm: a class may start at 0
    slack = 1e-4  # added to learned and unlearned amounts: their ratio starts at 1 and stays finite

    def __init__(
        self,
        num_classes: int,
        window: int = 50,
        exponent: float = 0.2,
        min_weight: float = 0.2,
        max_weight: float = 5.0,
        open_classes: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        self.num_classes, self.window, self.exponent = num_classes, window, exponent
        self.min_weight, self.max_weight = min_weight, max_weight
        self.dice_loss = DiceLoss(softmax=True, to_onehot_y=True, batch=True, reduction="none")
        self.plain_dice = DiceLoss(batch=True, reduction="none")
        self.register_buffer("table", table_of(open_classes), persistent=False)
        self.table: Tensor
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("last_dice", torch.zeros(num_classes))
        self.register_buffer("learned", torch.zeros(num_classes))
        self.register_buffer("unlearned", torch.zeros(num_classes))
        self.register_buffer("one_minus_dice", torch.ones(num_classes))
        # nothing is left in them between two iterations
        self.register_buffer("counts", torch.zeros(3, num_classes), persistent=False)
        self.seen: Tensor
        self.last_dice: Tensor
        self.learned: Tensor
        self.unlearned: Tensor
        self.one_minus_dice: Tensor
        self.counts: Tensor

    @torch.no_grad()
    def observe(self, predicted: Tensor, label: Tensor) -> Tensor:
        """
        Count a batch for the next :py:meth:`update` and return its class weights, which follow from the updates before.

        Args:
            predicted: class indices ``(B, 1, D, H, W)`` of the decoder whose Dice counts.
            label: true class indices, same shape.

        Returns:
            Weights ``(C,)``, finite, within ``[min_weight, max_weight]``.
        """
        counts = class_counts(predicted, label, self.num_classes)
        self.counts += counts
        return self.class_weights(dice_of_counts(counts)[1])

    @torch.no_grad()
    def update(self) -> None:
        """Take in the Dice over all that was counted in ``counts`` ``(3, C)`` since the last update."""
        dice, present = dice_of_counts(self.counts)
        self.counts.zero_()
        known = present & self.seen
        delta = dice - self.last_dice
        log_ratio = torch.log(dice.clamp_min(self.floor) / self.last_dice.clamp_min(self.floor))
        momentum = 1 - 1 / self.window
        self.learned = torch.where(
            known, momentum * self.learned + (1 - momentum) * delta.clamp_min(0) * log_ratio, self.learned
        )
        self.unlearned = torch.where(
            known, momentum * self.unlearned + (1 - momentum) * delta.clamp_max(0) * log_ratio, self.unlearned
        )
        smoothed = torch.where(self.seen, momentum * self.one_minus_dice + (1 - momentum) * (1 - dice), 1 - dice)
        self.one_minus_dice = torch.where(present, smoothed, self.one_minus_dice)
        self.last_dice = torch.where(present, dice, self.last_dice)
        self.seen = self.seen | present

    def class_weights(self, present: Tensor) -> Tensor:
        """
        Weights ``(C,)`` from the statistics, scaled to mean 1 over the foreground classes of ``present`` ``(C,)``.
        """
        difficulty = (self.unlearned + self.slack) / (self.learned + self.slack)  # Eq. 5
        weight = self.one_minus_dice * difficulty**self.exponent  # Eq. 4
        foreground = present[1:].float()
        count = foreground.sum()
        mean = torch.where(count > 0, (weight[1:] * foreground).sum() / count.clamp_min(1), 1.0)
        scaled = (weight[1:] / mean.clamp_min(1e-6)).clamp(self.min_weight, self.max_weight)
        return torch.cat([torch.ones_like(weight[:1]), scaled])

    def forward(self, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        """
        Weighted ``½ (CE + Dice)`` (Eq. 3).

        Args:
            logits: ``(B, C, D, H, W)``.
            label: class indices, or values below 0 of open voxels, ``(B, 1, D, H, W)``.
            weight: class weights ``(C,)`` of :py:meth:`observe`.
        """
        if len(self.table):
            possible = possible_classes(label, self.table)
            probabilities, target = known_parts(logits, possible, label >= 0)
            dice = (self.plain_dice(probabilities, target).flatten() * weight).mean()
            return 0.5 * (marginal_cross_entropy(logits, possible, weight) + dice)
        dice = (self.dice_loss(logits, label).flatten() * weight).mean()
        cross_entropy = F.cross_entropy(logits, label[:, 0].long(), weight=weight)
        return 0.5 * (cross_entropy + dice)
