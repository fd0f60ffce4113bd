# SPDX-License-Identifier: Apache-2.0
"""Dice, Jaccard, HD95 and average surface distance of one scan, with a stated rule for missed classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_dice, compute_iou
from monai.metrics.utils import get_edge_surface_distance
from monai.transforms.utils import generate_spatial_bounding_box
from monai.utils import convert_to_tensor

__all__ = ["CaseScores", "segmentation_scores"]


@dataclass(frozen=True)
class CaseScores:
    """
    Scores of one scan, one entry per foreground class ``1 .. num_classes - 1``; NaN where the class is `absent`.

    Args:
        dice: percent.
        jaccard: percent.
        hd95: 95th percentile of the surface distance, the larger of the two directions, mm.
        asd: average symmetric surface distance, mm.
        absent: the class is in neither map and has no score.
        missed: the class is in exactly one of the two maps.
    """

    dice: np.ndarray
    jaccard: np.ndarray
    hd95: np.ndarray
    asd: np.ndarray
    absent: np.ndarray
    missed: np.ndarray


def segmentation_scores(
    pred: torch.Tensor, label: torch.Tensor, num_classes: int, spacing: Sequence[float]
) -> CaseScores:
    """
    Score a label map against its reference, class by class.

    A class in neither map is left out (`absent`). A class in exactly one of them (`missed`) has Dice and Jaccard 0, and
    for both distances the diagonal of the volume: MONAI's own metrics give NaN there, and a mean over what is not NaN
    gets better the more a model misses. The surface is the set of foreground voxels that touch the background or the
    border of the volume by a face; the average weighs all surface voxels of both maps alike.

    Args:
        pred: class indices, ``(D, H, W)``, any dtype.
        label: class indices of the reference, same shape.
        num_classes: number of classes, the background (0) included.
        spacing: distance of neighbouring voxels along each axis, mm.

    Raises:
        ValueError: if the maps are not of one 3-D shape, or hold other values than ``0 .. num_classes - 1``.
    """
    if pred.shape != label.shape or pred.ndim != 3:
        raise ValueError(f"wanted two maps of one 3-D shape, got {tuple(pred.shape)} and {tuple(label.shape)}.")
    # plain tensors: a MetaTensor would carry its history through every operation below
    pred, label = (convert_to_tensor(x, track_meta=False, device="cpu") for x in (pred, label))
    for name, volume in (("prediction", pred), ("label", label)):
        if volume.min() < 0 or volume.max() >= num_classes or (volume != volume.long()).any():
            raise ValueError(
                f"the {name} must hold the classes 0 to {num_classes - 1} only, "
                f"got values from {volume.min().item():g} to {volume.max().item():g}."
            )
    spacing = [float(s) for s in spacing]
    diagonal = math.hypot(*(n * s for n, s in zip(label.shape, spacing, strict=True)))

    scores = np.full((4, num_classes - 1), np.nan)
    absent, missed = np.zeros((2, num_classes - 1), dtype=bool)
    for c in range(1, num_classes):
        in_pred, in_label = pred == c, label == c
        found = bool(in_pred.any()), bool(in_label.any())
        if all(found):
            scores[:, c - 1] = _score_class(in_pred, in_label, spacing)
        elif any(found):
            scores[:, c - 1] = 0, 0, diagonal, diagonal
            missed[c - 1] = True
        else:
            absent[c - 1] = True
    dice, jaccard, hd95, asd = scores
    return CaseScores(dice, jaccard, hd95, asd, absent, missed)


def _score_class(pred: torch.Tensor, label: torch.Tensor, spacing: Sequence[float]) -> tuple[float, ...]:
    """Dice, Jaccard (percent), HD95 and ASD (mm) of two masks that are both not empty."""
    # an organ fills a small part of its scan: the box around both masks has the same scores
    start, end = generate_spatial_bounding_box((pred | label)[None])
    box = tuple(slice(s, e) for s, e in zip(start, end, strict=True))
    pred, label = pred[box], label[box]
    dice = compute_dice(pred[None, None].float(), label[None, None].float())
    jaccard = compute_iou(pred[None, None].float(), label[None, None].float())
    # both distances from one search: compute_hausdorff_distance and compute_average_surface_distance repeat it
    _, distances, _ = get_edge_surface_distance(pred, label, spacing=spacing, symmetric=True)
    hd95 = max(np.percentile(d.numpy(), 95) for d in distances)
    return 100 * dice.item(), 100 * jaccard.item(), float(hd95), torch.cat(distances).double().mean().item()
