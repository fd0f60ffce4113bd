# SPDX-License-Identifier: Apache-2.0
"""Conventions of scoring: which distances, in which unit, and what a class scores that one or both maps lack."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_dice, compute_iou
from monai.metrics.utils import get_edge_surface_distance
from monai.transforms.utils import generate_spatial_bounding_box

__all__ = [
    "CONVENTIONS",
    "METRICS",
    "NATIVE",
    "MetricConvention",
    "genericssl_scores",
    "native_scores",
    "uamt_scores",
]

# MONAI passes the deprecated argument to itself, within `get_edge_surface_distance`
warnings.filterwarnings("ignore", message=".*get_mask_edges:always_return_as_numpy", category=FutureWarning)

METRICS = ("dice", "jaccard", "hd95", "asd", "nsd")
Scores = tuple[float, float, float, float, float]  # in the order of METRICS

MISSED_DISTANCE = 128.0  # voxels, a constant of GenericSSL's code
VOXEL = (1.0, 1.0, 1.0)
TOLERANCE = 1.0  # mm


@dataclass(frozen=True)
class MetricConvention:
    """
    How one class of one scan is scored, and the sentence that goes with every such score.

    Args:
        name: as chosen in a configuration.
        rule: what is done, in words.
        distance_unit: unit of HD95 and ASD.
        score: two masks ``(D, H, W)`` (bool, on the CPU), prediction and label, either of which may be empty, and the
            spacing and the tolerance of NSD (mm) -> the values of ``METRICS``, NaN for none.
    """

    name: str
    rule: str
    distance_unit: str
    score: Callable[[torch.Tensor, torch.Tensor, Sequence[float], float], Scores]

    def __str__(self) -> str:
        """Name and rule, as printed and written."""
        return f"{self.name}: {self.rule}"

    @property
    def units(self) -> dict[str, str]:
        """Unit of each of ``METRICS``."""
        return dict(zip(METRICS, ("%", "%", self.distance_unit, self.distance_unit, "%"), strict=True))


def native_scores(
    pred: torch.Tensor, label: torch.Tensor, spacing: Sequence[float], tolerance: float = TOLERANCE
) -> Scores:
    """
    Dice and Jaccard (percent), HD95 and ASD (mm) and surface Dice (percent) of one class.

    HD95 is the larger of the two directions' 95th percentiles; ASD is symmetric and weighs all surface voxels of both
    maps alike. NSD, the normalized surface Dice, is the share of both surfaces' voxels that lie within `tolerance` of
    the other surface (Nikolov et al. 2018). A class in neither map has no score (NaN). In exactly one of them it has
    Dice, Jaccard and NSD 0, and for both distances the diagonal of the volume: MONAI's own metrics give NaN there, and
    a mean over what is not NaN gets better the more a model misses.

    Args:
        pred: mask, ``(D, H, W)``, bool.
        label: mask of the reference, same shape.
        spacing: distance of neighboring voxels along each axis, mm.
        tolerance: of NSD, mm.

    Raises:
        ValueError: if `spacing` has not one value per axis.
    """
    diagonal = _diagonal(label.shape, spacing)
    found = bool(pred.any()), bool(label.any())
    if not any(found):
        return math.nan, math.nan, math.nan, math.nan, math.nan
    if not all(found):
        return 0, 0, diagonal, diagonal, 0
    dice, jaccard, distances = _overlap_and_distances(pred, label, spacing)
    hd95 = max(np.percentile(d.numpy(), 95) for d in distances)
    both = torch.cat(distances).double()
    return dice, jaccard, float(hd95), both.mean().item(), 100 * (both <= tolerance).double().mean().item()


def genericssl_scores(
    pred: torch.Tensor, label: torch.Tensor, spacing: Sequence[float], tolerance: float = TOLERANCE
) -> Scores:
    """
    Scores of one class as A&D's code has them: Dice and Jaccard (percent), HD95 and ASD (voxels).

    Source: ``xmed-lab/GenericSSL``, ``code/evaluate.py`` (Dice, ASD) and ``code/evaluate_la.py`` (all four), which call
    MedPy without a spacing. A class in exactly one map has Dice and Jaccard 0 and both distances 128. One in neither
    has Dice and Jaccard 1 on the scale to 100, a slip of that code that is kept on purpose, and both distances 0.

    Args:
        pred: mask, ``(D, H, W)``, bool.
        label: mask of the reference, same shape.
        spacing: ignored.
        tolerance: ignored; the published code has no NSD.
    """
    found = bool(pred.any()), bool(label.any())
    if not any(found):
        return 1, 1, 0, 0, math.nan
    if not all(found):
        return 0, 0, MISSED_DISTANCE, MISSED_DISTANCE, math.nan
    return _medpy_scores(pred, label)


def uamt_scores(
    pred: torch.Tensor, label: torch.Tensor, spacing: Sequence[float], tolerance: float = TOLERANCE
) -> Scores:
    """
    Scores of one class as the left atrium is scored since UA-MT: Dice and Jaccard (percent), HD95 and ASD (voxels).

    Source: ``yulequan/UA-MT``, ``code/test_util.py``, used again by BCP, which calls MedPy without a spacing. Nothing
    predicted has 0 in all four, so that a complete miss has perfect distances; kept on purpose. A prediction without a
    label stops that code; here it has Dice and Jaccard 0, and for both distances the diagonal of the volume.

    Without BCP's default of keeping the largest component only: the paper states that it does no post-processing.

    Args:
        pred: mask, ``(D, H, W)``, bool.
        label: mask of the reference, same shape.
        spacing: ignored.
        tolerance: ignored; the published code has no NSD.
    """
    if not pred.any():
        return 0, 0, 0, 0, math.nan
    if not label.any():
        diagonal = _diagonal(label.shape, VOXEL)
        return 0, 0, diagonal, diagonal, math.nan
    return _medpy_scores(pred, label)


def _medpy_scores(pred: torch.Tensor, label: torch.Tensor) -> Scores:
    """
    Scores of two masks that are both not empty, the distances in voxels as ``medpy.metric.binary`` defines them: HD95
    is the 95th percentile of both directions' distances in one list, ASD the mean from the prediction to the label.
    """
    dice, jaccard, distances = _overlap_and_distances(pred, label, VOXEL)
    hd95 = np.percentile(torch.cat(distances).double().numpy(), 95)
    return dice, jaccard, float(hd95), distances[0].double().mean().item(), math.nan


def _overlap_and_distances(
    pred: torch.Tensor, label: torch.Tensor, spacing: Sequence[float]
) -> tuple[float, float, list[torch.Tensor]]:
    """
    Dice and Jaccard (percent) of two masks that are both not empty, and the distances of the prediction's surface
    voxels to the label's surface and of the label's to the prediction's, in the unit of `spacing`.
    """
    # an organ fills a small part of its scan: the box around both masks has the same scores
    start, end = generate_spatial_bounding_box((pred | label)[None])
    box = tuple(slice(s, e) for s, e in zip(start, end, strict=True))
    pred, label = pred[box], label[box]
    dice = compute_dice(pred[None, None].float(), label[None, None].float())
    jaccard = compute_iou(pred[None, None].float(), label[None, None].float())
    # both distances from one search: compute_hausdorff_distance and compute_average_surface_distance repeat it
    _, distances, _ = get_edge_surface_distance(pred, label, spacing=spacing, symmetric=True)
    return 100 * dice.item(), 100 * jaccard.item(), list(distances)


def _diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    return math.hypot(*(n * s for n, s in zip(shape, spacing, strict=True)))


_MEAN = "The mean is that over classes of each class's mean over cases; std is over cases (divided by n)."
_MEDPY = (
    "voxels of the grid that is scored, its spacing ignored. ASD goes from the prediction to the label only; HD95 is "
    "the 95th percentile of both directions' distances in one list."
)

NATIVE = MetricConvention(
    name="native",
    rule=(
        "mm, scan grid. A class absent from prediction and label is left out; absent from one of them it is missed: "
        "Dice, Jaccard and NSD 0, HD95 and ASD the diagonal of the volume. ASD is symmetric. " + _MEAN
    ),
    distance_unit="mm",
    score=native_scores,
)
CONVENTIONS = {
    convention.name: convention
    for convention in (
        NATIVE,
        MetricConvention(
            name="genericssl",
            rule=(
                f"{_MEDPY} A class absent from one of prediction and label: Dice and Jaccard 0, HD95 and ASD 128. "
                "Absent from both: Dice and Jaccard 1 % (a slip of the published code, kept), HD95 and ASD 0, and it "
                f"counts in the mean. {_MEAN} The published code's ± is over runs."
            ),
            distance_unit="voxels",
            score=genericssl_scores,
        ),
        MetricConvention(
            name="uamt",
            rule=(
                f"{_MEDPY} A class that is not predicted: 0 in all four, so a complete miss has perfect distances (as "
                "published, kept). Predicted but absent from the label: Dice and Jaccard 0, HD95 and ASD the diagonal "
                f"of the volume (ours; the published code stops there). No largest-component step. {_MEAN}"
            ),
            distance_unit="voxels",
            score=uamt_scores,
        ),
    )
}
