# SPDX-License-Identifier: Apache-2.0
"""Dice, Jaccard, HD95, average surface distance and surface Dice of one scan, under a stated convention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.utils import convert_to_tensor

from .conventions import METRICS, NATIVE, TOLERANCE, MetricConvention

__all__ = ["CaseScores", "segmentation_scores"]


@dataclass(frozen=True)
class CaseScores:
    """
    Scores of one scan, one entry per foreground class ``1 .. num_classes - 1``; NaN where the convention has none.

    Args:
        dice: percent.
        jaccard: percent.
        hd95: 95th percentile of the surface distance, in the convention's unit.
        asd: average surface distance, in the convention's unit.
        nsd: normalized surface Dice, percent.
        absent: the class is in neither map.
        missed: the class is in exactly one of the two maps.
    """

    dice: np.ndarray
    jaccard: np.ndarray
    hd95: np.ndarray
    asd: np.ndarray
    nsd: np.ndarray
    absent: np.ndarray
    missed: np.ndarray


def segmentation_scores(
    pred: torch.Tensor,
    label: torch.Tensor,
    num_classes: int,
    spacing: Sequence[float],
    convention: MetricConvention = NATIVE,
    tolerance: float = TOLERANCE,
) -> CaseScores:
    """
    Score a label map against its reference, class by class.

    The convention says what is measured, and what a class scores that is in neither map (`absent`) or in exactly one of
    them (`missed`). In all of them the surface is the set of foreground voxels that touch the background or the border
    of the volume by a face.

    Args:
        pred: class indices, ``(D, H, W)``, any dtype.
        label: class indices of the reference, same shape.
        num_classes: number of classes, the background (0) included.
        spacing: distance of neighboring voxels along each axis, mm; only a convention in mm uses it.
        convention: one of :py:data:`dtlp_components.metrics.conventions.CONVENTIONS`.
        tolerance: of the surface Dice, mm.

    Raises:
        ValueError: if the maps are not of one 3-D shape, or hold other values than ``0 .. num_classes - 1``; or,
            for a convention in mm, if `spacing` has not three values.
    """
    if pred.shape != label.shape or pred.ndim != 3:
        raise ValueError(f"expected two maps of one 3-D shape, got {tuple(pred.shape)} and {tuple(label.shape)}.")
    # plain tensors: a MetaTensor would carry its history through every operation below
    pred, label = (convert_to_tensor(x, track_meta=False, device="cpu") for x in (pred, label))
    for name, volume in (("prediction", pred), ("label", label)):
        if volume.min() < 0 or volume.max() >= num_classes or (volume != volume.long()).any():
            raise ValueError(
                f"the {name}: expected only the classes 0 to {num_classes - 1}, "
                f"got values from {volume.min().item():g} to {volume.max().item():g}."
            )
    spacing = [float(s) for s in spacing]

    scores = np.empty((len(METRICS), num_classes - 1))
    absent, missed = np.zeros((2, num_classes - 1), dtype=bool)
    for c in range(1, num_classes):
        in_pred, in_label = pred == c, label == c
        found = bool(in_pred.any()), bool(in_label.any())
        scores[:, c - 1] = convention.score(in_pred, in_label, spacing, tolerance)
        absent[c - 1] = not any(found)
        missed[c - 1] = any(found) and not all(found)
    dice, jaccard, hd95, asd, nsd = scores
    return CaseScores(dice, jaccard, hd95, asd, nsd, absent, missed)
