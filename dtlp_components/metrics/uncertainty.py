# SPDX-License-Identifier: Apache-2.0
"""Entropy, disagreement, and numbers that say how good a segmentation may be without a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..keys import ScanKeys

__all__ = ["DISPUTED", "Quality", "entropy_bits", "jensen_shannon_bits"]

# the score that says how much the networks of a training disagree on what is foreground
DISPUTED = f"foreground_{ScanKeys.DISAGREEMENT}"


def jensen_shannon_bits(opinions: Sequence[Tensor]) -> Tensor:
    """
    How much probability maps disagree: the entropy of their mean minus the mean of their entropies, in bits.

    0 where all are the same, however uncertain; at most log2 of their number, where each is certain of another class.

    Args:
        opinions: probabilities ``(B, C, …)``, one map each.

    Returns:
        ``(B, 1, …)``.
    """
    stacked = torch.stack(list(opinions))
    single = torch.stack([entropy_bits(opinion) for opinion in opinions]).mean(dim=0)
    return (entropy_bits(stacked.mean(dim=0)) - single).clamp_min(0)


@dataclass
class Quality:
    """
    Sums over a scan's voxels for numbers that say how good a segmentation may be, without a reference.

    They are of the labels before any postprocessing, and comparable between scans of one network alone.
    """

    sums: dict[str, Any] = field(default_factory=dict)

    def add(self, probabilities: Tensor, highest: Tensor, label: Tensor, maps: Sequence[Tensor]) -> None:
        """
        Take in a slab: ``(C, x, y, z)``, the maximum and its index ``(x, y, z)``, maps of entropy and disagreement.
        """
        num_classes, flat = len(probabilities), label.flatten()
        new = {
            "predicted": torch.bincount(flat, minlength=num_classes).double(),
            "certain": torch.bincount(flat, weights=highest.flatten().double(), minlength=num_classes),
            "mass": probabilities.flatten(1).sum(dim=1, dtype=torch.float64),
        }
        for name, values in zip((ScanKeys.ENTROPY, ScanKeys.DISAGREEMENT), maps, strict=False):
            new[str(name)] = torch.bincount(flat, weights=values.flatten().double(), minlength=num_classes)
        for entry, value in new.items():
            self.sums[entry] = self.sums.get(entry, 0) + value.cpu()

    def scores(self) -> dict[str, float]:
        """
        Numbers by name; none if no foreground was predicted.
        """
        predicted = self.sums["predicted"]
        there = predicted[1:] > 0
        if not there.any():
            return {}
        dice = 2 * self.sums["certain"] / (self.sums["mass"] + predicted)
        scores = {"expected_dice": float(dice[1:][there].mean())}
        scores["confidence"] = float(self.sums["certain"][1:].sum() / predicted[1:].sum())
        for key in (str(ScanKeys.ENTROPY), str(ScanKeys.DISAGREEMENT)):
            if key in self.sums:
                scores[f"foreground_{key}"] = float(self.sums[key][1:].sum() / predicted[1:].sum())
        return scores

    def by_class(self) -> dict[int, float]:
        """
        Mean disagreement over the voxels of each predicted class but the background, bits; mean entropy if nobody could
        disagree.
        """
        key = str(ScanKeys.DISAGREEMENT if str(ScanKeys.DISAGREEMENT) in self.sums else ScanKeys.ENTROPY)
        predicted = self.sums["predicted"]
        there = [i for i in range(1, len(predicted)) if predicted[i] > 0 and key in self.sums]
        return {i: float(self.sums[key][i] / predicted[i]) for i in there}


def entropy_bits(probabilities: Tensor) -> Tensor:
    """Entropy over classes in bits (Eq. 8, 9): ``(B, C, …) -> (B, 1, …)``."""
    return torch.special.entr(probabilities).sum(dim=1, keepdim=True) / math.log(2)
