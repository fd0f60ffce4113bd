# SPDX-License-Identifier: Apache-2.0
"""Scores of maps whose distances are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from dtlp_components.metrics.segmentation_scores import segmentation_scores

SPACING = (0.5, 2.0, 3.0)  # mm
SHAPE = (12, 13, 14)


def block(start: tuple[int, int, int], size: tuple[int, int, int], value: int = 1) -> torch.Tensor:
    """A map of ``SHAPE`` with one block of `value`."""
    volume = torch.zeros(SHAPE, dtype=torch.long)
    volume[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = value
    return volume


def test_equal_maps_score_100_and_0_mm():
    scores = segmentation_scores(block((1, 2, 3), (4, 5, 6)), block((1, 2, 3), (4, 5, 6)), 2, SPACING)
    assert (scores.dice[0], scores.jaccard[0], scores.hd95[0], scores.asd[0]) == (100, 100, 0, 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_voxels_are_their_distance_apart(axis):
    n = 3
    start = [2, 2, 2]
    start[axis] += n
    scores = segmentation_scores(block((2, 2, 2), (1, 1, 1)), block(tuple(start), (1, 1, 1)), 2, SPACING)
    assert scores.dice[0] == scores.jaccard[0] == 0
    assert scores.hd95[0] == scores.asd[0] == pytest.approx(n * SPACING[axis])


def test_shifted_plate_has_overlap_and_distances_of_its_voxels():
    # a plate one voxel thick, 4 x 5, is all surface; shifted by 2 along y (2 mm each), 3 of 5 columns overlap
    scores = segmentation_scores(block((2, 2, 6), (4, 5, 1)), block((2, 4, 6), (4, 5, 1)), 2, SPACING)
    assert scores.dice[0] == pytest.approx(100 * 2 * 12 / (20 + 20))
    assert scores.jaccard[0] == pytest.approx(100 * 12 / 28)
    # each way: 3 columns at 0 mm, one at 2 mm, one at 4 mm; 5 % of the voxels (1 of 20) lie above the 95th percentile
    assert scores.asd[0] == pytest.approx((0 + 0 + 0 + 2 + 4) / 5)
    assert scores.hd95[0] == pytest.approx(np.percentile(np.repeat([0, 0, 0, 2, 4], 4), 95))


def test_hd95_is_the_larger_direction_and_asd_weighs_voxels():
    # label: one voxel; prediction: the same one and a second, 6 voxels of 0.5 mm away
    label = block((2, 3, 4), (1, 1, 1))
    pred = label + block((8, 3, 4), (1, 1, 1))
    there = [0.0, 6 * 0.5]
    scores = segmentation_scores(pred, label, 2, SPACING)
    assert scores.hd95[0] == pytest.approx(np.percentile(there, 95))  # back it is 0
    assert scores.asd[0] == pytest.approx((sum(there) + 0) / 3)
    swapped = segmentation_scores(label, pred, 2, SPACING)
    assert (swapped.hd95[0], swapped.asd[0]) == (scores.hd95[0], scores.asd[0])


def test_only_the_surface_counts():
    # a 5 x 5 x 5 cube without its center: the 6 neighbors of the cavity become surface, 1 mm below the outer one
    solid = block((3, 3, 3), (5, 5, 5))
    hollow = solid - block((5, 5, 5), (1, 1, 1))
    outside = 5**3 - 3**3
    scores = segmentation_scores(hollow, solid, 2, (1, 1, 1))
    assert scores.asd[0] == pytest.approx(6 * 1 / (outside + 6 + outside))


def test_class_missed_on_either_side_gets_the_worst_score_of_the_volume():
    diagonal = np.sqrt(sum((n * s) ** 2 for n, s in zip(SHAPE, SPACING, strict=True)))
    scores = segmentation_scores(block((1, 1, 1), (2, 2, 2), 1), block((1, 1, 1), (2, 2, 2), 2), 4, SPACING)
    np.testing.assert_array_equal(scores.missed, [True, True, False])
    np.testing.assert_array_equal(scores.dice[:2], [0, 0])
    np.testing.assert_array_equal(scores.jaccard[:2], [0, 0])
    np.testing.assert_allclose(scores.hd95[:2], diagonal)
    np.testing.assert_allclose(scores.asd[:2], diagonal)


def test_class_in_neither_map_has_no_score():
    scores = segmentation_scores(block((1, 1, 1), (2, 2, 2), 2), block((1, 1, 1), (2, 2, 2), 2), 3, SPACING)
    np.testing.assert_array_equal(scores.absent, [True, False])
    assert not scores.missed.any()
    for values in (scores.dice, scores.jaccard, scores.hd95, scores.asd):
        np.testing.assert_array_equal(np.isnan(values), [True, False])


def test_classes_do_not_influence_each_other():
    label = block((1, 1, 1), (4, 5, 6), 1) + block((7, 7, 7), (4, 5, 6), 2)
    pred = block((2, 1, 1), (4, 5, 6), 1) + block((7, 7, 7), (4, 5, 6), 2)
    together = segmentation_scores(pred, label, 3, SPACING)
    alone = segmentation_scores(pred == 1, label == 1, 2, SPACING)
    assert together.dice[0] == alone.dice[0] < 100
    assert together.asd[0] == alone.asd[0] > 0
    assert together.dice[1] == 100


def test_box_around_a_class_does_not_change_its_scores():
    rng = np.random.default_rng(0)
    small = torch.as_tensor(rng.integers(0, 3, (2, 4, 5, 6)))
    padded = torch.nn.functional.pad(small, (1, 2, 3, 1, 2, 1))
    for metric in ("dice", "jaccard", "hd95", "asd"):
        np.testing.assert_allclose(
            getattr(segmentation_scores(*small, 3, SPACING), metric),
            getattr(segmentation_scores(*padded, 3, SPACING), metric),
        )


def test_metatensor_of_floats_scores_as_plain_integers_do():
    pred, label = block((1, 2, 3), (4, 5, 6)), block((2, 2, 3), (4, 5, 6))
    as_meta = segmentation_scores(MetaTensor(pred.float()), MetaTensor(label.float()), 2, SPACING)
    assert as_meta.dice[0] == segmentation_scores(pred, label, 2, SPACING).dice[0] == pytest.approx(75)


@pytest.mark.parametrize("value", [-1, 2, 0.5])
def test_value_that_is_no_class_is_an_error(value):
    label = torch.zeros(4, 5, 6)
    pred = label.clone()
    pred[1, 2, 3] = value
    with pytest.raises(ValueError, match="the prediction: expected only the classes 0 to 1"):
        segmentation_scores(pred, label, 2, SPACING)


def test_shape_mismatch_names_both_shapes():
    with pytest.raises(ValueError, match=r"\(4, 5, 6\) and \(4, 6, 5\)"):
        segmentation_scores(torch.zeros(4, 5, 6), torch.zeros(4, 6, 5), 2, SPACING)
