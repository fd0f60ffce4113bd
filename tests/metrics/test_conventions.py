# SPDX-License-Identifier: Apache-2.0
"""Scores of the conventions on maps whose distances are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from scipy.ndimage import binary_dilation

from dtlp_components.metrics.conventions import CONVENTIONS, native_scores
from dtlp_components.metrics.segmentation_scores import CaseScores, segmentation_scores

SHAPE = (9, 10, 11)
SPACING = (0.5, 2.0, 3.0)  # mm
DIAGONAL_MM = math.sqrt((9 * 0.5) ** 2 + (10 * 2) ** 2 + (11 * 3) ** 2)
DIAGONAL_VOXELS = math.sqrt(9**2 + 10**2 + 11**2)

NEITHER = torch.zeros(SHAPE, dtype=torch.long)
ONE = NEITHER.clone()
ONE[2, 3, 4] = 1
TWO = ONE.clone()
TWO[8, 3, 4] = 1  # 6 voxels of 0.5 mm from the first


def score(pred: torch.Tensor, label: torch.Tensor, convention: str, spacing: tuple[float, ...] = SPACING) -> CaseScores:
    return segmentation_scores(pred, label, int(max(pred.max(), label.max(), 1)) + 1, spacing, CONVENTIONS[convention])


def values(scores: CaseScores) -> list[float]:
    """Dice, Jaccard, HD95, ASD of class 1."""
    return [scores.dice[0], scores.jaccard[0], scores.hd95[0], scores.asd[0]]


def test_there_are_three_conventions_each_of_which_states_its_name_and_unit():
    assert list(CONVENTIONS) == ["native", "genericssl", "uamt"]
    for name, convention in CONVENTIONS.items():
        assert str(convention).startswith(f"{name}: {convention.distance_unit}")
        assert convention.units["dice"] == "%"
        assert convention.units["asd"] == convention.distance_unit


# Distances of TWO's surface voxels to ONE's are 0 and 6 voxels, the one way back is 0. In one list (0, 0, 6) the 95th
# percentile lies at position 0.95 * 2 = 1.9, i.e. 0.9 * 6; in (0, 6) at 0.95, i.e. 0.95 * 6.
BOTH_FOUND = {
    "native": ((0.95 * 6 * 0.5, (0 + 6 + 0) * 0.5 / 3), (0.95 * 6 * 0.5, (0 + 6 + 0) * 0.5 / 3)),
    "genericssl": ((0.9 * 6, (0 + 6) / 2), (0.9 * 6, 0)),
    "uamt": ((0.9 * 6, (0 + 6) / 2), (0.9 * 6, 0)),
}


@pytest.mark.parametrize("convention", BOTH_FOUND)
def test_class_in_both_maps(convention):
    too_much, too_little = BOTH_FOUND[convention]
    overlap = (100 * 2 * 1 / (2 + 1), 100 * 1 / 2)
    assert values(score(TWO, ONE, convention)) == pytest.approx([*overlap, *too_much])
    assert values(score(ONE, TWO, convention)) == pytest.approx([*overlap, *too_little])


@pytest.mark.parametrize(
    ("convention", "expected"),
    [("native", [0, 0, DIAGONAL_MM, DIAGONAL_MM]), ("genericssl", [0, 0, 128, 128]), ("uamt", [0, 0, 0, 0])],
)
def test_class_in_the_label_only(convention, expected):
    scores = score(NEITHER, ONE, convention)
    assert values(scores) == pytest.approx(expected)
    assert (scores.missed[0], scores.absent[0]) == (True, False)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("native", [0, 0, DIAGONAL_MM, DIAGONAL_MM]),
        ("genericssl", [0, 0, 128, 128]),
        ("uamt", [0, 0, DIAGONAL_VOXELS, DIAGONAL_VOXELS]),
    ],
)
def test_class_in_the_prediction_only(convention, expected):
    scores = score(ONE, NEITHER, convention)
    assert values(scores) == pytest.approx(expected)
    assert (scores.missed[0], scores.absent[0]) == (True, False)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [("native", [math.nan] * 4), ("genericssl", [1, 1, 0, 0]), ("uamt", [0, 0, 0, 0])],
)
def test_class_in_neither_map(convention, expected):
    scores = score(NEITHER, NEITHER, convention)
    np.testing.assert_array_equal(values(scores), expected)
    assert (scores.missed[0], scores.absent[0]) == (False, True)


@pytest.mark.parametrize("convention", ["genericssl", "uamt"])
@pytest.mark.parametrize(("pred", "label"), [(TWO, ONE), (ONE, NEITHER), (NEITHER, ONE)])
def test_published_conventions_ignore_the_spacing(convention, pred, label):
    assert values(score(pred, label, convention)) == values(score(pred, label, convention, (7.0, 1.0, 0.1)))


def test_native_wants_one_spacing_per_axis():
    with pytest.raises(ValueError, match="zip"):
        score(ONE, ONE, "native", (1.0,))


def surface(mask: np.ndarray) -> np.ndarray:
    """
    Coordinates ``(N, 3)`` of the voxels with a face towards a voxel that is not in the mask, or out of the volume.
    """
    return np.argwhere(mask & binary_dilation(np.pad(~mask, 1, constant_values=True))[1:-1, 1:-1, 1:-1])


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest other one, voxels."""
    return np.sqrt(((points[:, None] - others[None]) ** 2).sum(-1)).min(1)


@pytest.mark.parametrize("convention", ["genericssl", "uamt"])
@pytest.mark.parametrize("seed", range(4))
def test_distances_are_those_of_a_search_over_all_pairs_of_face_surface_voxels(convention, seed):
    # blobs with inner voxels and holes that also touch the border of the volume
    rng = np.random.default_rng(seed)
    pred, label = (binary_dilation(rng.random(SHAPE) > 0.97, iterations=2) for _ in range(2))
    of_pred, of_label = surface(pred), surface(label)
    assert 0 < len(of_pred) < pred.sum()
    there, back = nearest(of_pred, of_label), nearest(of_label, of_pred)

    scores = score(torch.as_tensor(pred), torch.as_tensor(label), convention)
    assert scores.dice[0] == pytest.approx(100 * 2 * (pred & label).sum() / (pred.sum() + label.sum()))
    assert scores.jaccard[0] == pytest.approx(100 * (pred & label).sum() / (pred | label).sum())
    assert scores.asd[0] == pytest.approx(there.mean())
    assert scores.hd95[0] == pytest.approx(np.percentile(np.hstack([there, back]), 95))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_classes_are_scored_each_for_itself(convention):
    pred, label = TWO.clone(), ONE.clone()
    pred[5, 5, 5] = label[5, 5, 6] = 2
    assert values(score(pred, label, convention)) == values(score(TWO, ONE, convention))
    assert score(pred, label, convention).asd[1] == (3 if convention == "native" else 1)


def test_surface_dice_is_monais():
    generator = torch.Generator().manual_seed(0)
    pred, label = (binary_dilation(torch.rand(SHAPE, generator=generator).numpy() > 0.98) for _ in range(2))
    pred, label = torch.from_numpy(pred), torch.from_numpy(label)
    seen = set()
    for tolerance in (0.1, 0.6, 2.0, 4.0):
        ours = native_scores(pred, label, SPACING, tolerance)[-1]
        monais = compute_surface_dice(
            pred[None, None], label[None, None], [tolerance], spacing=SPACING, include_background=True
        )
        assert ours == pytest.approx(100 * monais.item())
        seen.add(round(ours, 3))
    assert len(seen) == 4


@pytest.mark.parametrize(("pred", "label", "nsd"), [(ONE, ONE, 100), (TWO, ONE, 100 * 2 / 3), (ONE, NEITHER, 0)])
def test_surface_dice_by_hand(pred, label, nsd):
    # the second voxel of TWO is 3 mm from the first: two of three surface voxels have the other surface within 1 mm
    assert score(pred, label, "native").nsd[0] == pytest.approx(nsd)


def test_class_in_neither_map_has_no_surface_dice_and_published_code_has_none_at_all():
    assert math.isnan(score(NEITHER, NEITHER, "native").nsd[0])
    for convention in ("genericssl", "uamt"):
        for pred, label in ((ONE, ONE), (ONE, NEITHER), (NEITHER, ONE), (NEITHER, NEITHER)):
            assert math.isnan(score(pred, label, convention).nsd[0])
