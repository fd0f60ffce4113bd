# SPDX-License-Identifier: Apache-2.0
"""Difficulty-aware weights: which Dice moves them, where they stay, and the loss they enter."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss
from torch import Tensor

from dtlp_components.losses.difficulty import DifficultyAwareLoss
from dtlp_components.metrics.overlap import class_counts, dice_of_counts

pytestmark = pytest.mark.usefixtures("seed")

CLASSES = 4
VOXELS = 10  # of each class, so that a Dice is a number of tenths


def maps(*dice: float) -> tuple[Tensor, Tensor]:
    """
    A prediction and a label ``(1, 1, 1, 1, N)`` in which the foreground classes 1, 2, … have the given Dice, a tenth of
    which is one voxel hit; a negative one leaves the class out. A miss swaps a voxel with the background, so that
    prediction and label have equally many voxels of each class: then Dice is the share of hits.
    """
    predicted, label = [], []
    for k, value in enumerate(dice, start=1):
        if value < 0:
            continue
        hits = round(value * VOXELS)
        label += [k] * VOXELS + [0] * (VOXELS - hits)
        predicted += [k] * hits + [0] * (VOXELS - hits) + [k] * (VOXELS - hits)
    label, predicted = [*label, 0], [*predicted, 0]
    return torch.tensor(predicted).view(1, 1, 1, 1, -1), torch.tensor(label).view(1, 1, 1, 1, -1)


def take_in(loss: DifficultyAwareLoss, predicted: Tensor, label: Tensor) -> Tensor:
    """An iteration with one batch; returns the weights that follow, for classes as in that batch."""
    loss.observe(predicted, label)
    loss.update()
    return loss.class_weights(dice_of_counts(class_counts(predicted, label, loss.num_classes))[1])


def statistics(loss: DifficultyAwareLoss, k: int) -> list[float]:
    return [buffer[k].item() for buffer in loss.state_dict().values()]


def test_statistics_by_hand() -> None:
    loss = DifficultyAwareLoss(num_classes=3, window=4)
    learned, unlearned, one_minus_dice = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    series = [(0.5, 0.8), (0.7, 0.6), (0.9, 0.7)]
    for e, row in enumerate(series):
        take_in(loss, *maps(*row))
        for k, dice in enumerate(row):
            if e == 0:
                one_minus_dice[k] = 1 - dice
                continue
            last = series[e - 1][k]
            gain = (dice - last) * math.log(dice / last)
            learned[k] = 0.75 * learned[k] + 0.25 * (gain if dice > last else 0)
            unlearned[k] = 0.75 * unlearned[k] + 0.25 * (gain if dice < last else 0)
            one_minus_dice[k] = 0.75 * one_minus_dice[k] + 0.25 * (1 - dice)
    torch.testing.assert_close(loss.learned[1:], torch.tensor(learned))
    torch.testing.assert_close(loss.unlearned[1:], torch.tensor(unlearned))
    torch.testing.assert_close(loss.one_minus_dice[1:], torch.tensor(one_minus_dice))
    difficulty = [((u + loss.slack) / (d + loss.slack)) ** 0.2 for u, d in zip(unlearned, learned, strict=True)]
    raw = [w * d for w, d in zip(one_minus_dice, difficulty, strict=True)]
    expected = torch.tensor([1.0, *(w / (sum(raw) / 2) for w in raw)])
    weights = loss.class_weights(torch.tensor([True, True, True]))
    assert expected.min() > 0.2
    assert expected.max() < 5
    torch.testing.assert_close(weights, expected)


def test_absent_class_moves_none_of_its_statistics() -> None:
    loss = DifficultyAwareLoss(CLASSES)
    take_in(loss, *maps(0.5, 0.6, 0.2))
    take_in(loss, *maps(0.7, 0.4, 0.3))
    before, others = statistics(loss, 2), statistics(loss, 1)
    for _ in range(5):
        take_in(loss, *maps(0.9, -1, 0.8))
    assert statistics(loss, 2) == before
    assert statistics(loss, 1) != others


def test_class_that_comes_back_is_compared_with_when_it_was_last_there() -> None:
    gap, no_gap = DifficultyAwareLoss(CLASSES), DifficultyAwareLoss(CLASSES)
    for row in ((0.5, 0.6, 0.2), (0.5, -1, 0.2), (0.5, -1, 0.2), (0.5, 0.3, 0.2)):
        take_in(gap, *maps(*row))
    for row in ((0.5, 0.6, 0.2), (0.5, 0.3, 0.2)):
        take_in(no_gap, *maps(*row))
    assert statistics(gap, 2) == statistics(no_gap, 2)
    assert gap.unlearned[2] > 0


def test_class_that_is_predicted_but_not_there_moves_nothing() -> None:
    loss = DifficultyAwareLoss(num_classes=3)
    before = statistics(loss, 2)
    take_in(loss, torch.tensor([2, 2, 1, 0]), torch.tensor([1, 1, 1, 0]))
    assert statistics(loss, 2) == before


@pytest.mark.parametrize("kind", ["random", "all or nothing", "never", "always"])
def test_weights_stay_finite_and_within_their_bounds(kind: str) -> None:
    loss = DifficultyAwareLoss(CLASSES)
    generator = torch.Generator().manual_seed(0)
    for iteration in range(200):
        tenths = torch.randint(-1, VOXELS + 1, (3,), generator=generator)  # -1 is absent
        dice = {
            "random": (tenths / VOXELS).tolist(),
            "all or nothing": [float(iteration % 2), float((iteration + 1) % 2), float(iteration % 3 == 0)],
            "never": [0.0, 0.0, -1.0],
            "always": [1.0, 1.0, 1.0],
        }[kind]
        weights = take_in(loss, *maps(*dice))
        assert weights.shape == (CLASSES,)
        assert torch.isfinite(weights).all()
        assert weights[0] == 1
        assert weights.min() >= 0.2
        assert weights.max() <= 5
    assert all(torch.isfinite(buffer).all() for buffer in loss.buffers())


def test_present_foreground_classes_weigh_one_in_the_mean_before_they_are_clamped() -> None:
    loss = DifficultyAwareLoss(CLASSES, min_weight=0.0, max_weight=1e9)
    take_in(loss, *maps(0.2, 0.5, 0.8))
    weights = take_in(loss, *maps(0.4, -1, 0.3))
    assert weights[[1, 3]].mean().item() == pytest.approx(1)
    assert weights[2].item() != pytest.approx(1)


def test_batch_of_background_alone_gives_finite_weights() -> None:
    weights = take_in(DifficultyAwareLoss(CLASSES), *maps(-1, -1, -1))
    assert weights[0] == 1
    assert torch.isfinite(weights).all()


def test_class_with_lower_dice_weighs_more() -> None:
    weights = take_in(DifficultyAwareLoss(CLASSES), *maps(0.9, 0.5, 0.1))
    assert weights[1] < weights[2] < weights[3]


def test_class_that_unlearns_weighs_more_than_one_that_learns() -> None:
    loss = DifficultyAwareLoss(num_classes=3)
    for rising in (0.2, 0.4, 0.6, 0.8):
        take_in(loss, *maps(rising, 1 - rising))
    loss.one_minus_dice.fill_(0.5)  # take the present Dice out of the comparison
    weights = loss.class_weights(torch.tensor([True, True, True]))
    assert weights[2] > weights[1]


def test_statistics_go_on_after_a_checkpoint() -> None:
    rows = [(0.2, 0.5, 0.8), (0.4, -1, 0.3), (0.1, 0.6, 0.9)]
    one, other = DifficultyAwareLoss(CLASSES), DifficultyAwareLoss(CLASSES)
    for row in rows[:2]:
        take_in(one, *maps(*row))
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(take_in(other, *maps(*rows[2])), take_in(one, *maps(*rows[2])), rtol=0, atol=0)


def test_equal_weights_give_half_cross_entropy_plus_half_dice() -> None:
    logits, label = torch.randn(2, CLASSES, 4, 5, 6), torch.randint(CLASSES, (2, 1, 4, 5, 6))
    plain = DiceCELoss(softmax=True, to_onehot_y=True, batch=True, lambda_dice=0.5, lambda_ce=0.5)
    loss = DifficultyAwareLoss(CLASSES)(logits, label, torch.ones(CLASSES))
    torch.testing.assert_close(loss, plain(logits, label))


@pytest.mark.parametrize("k", [1, 3])
def test_weight_of_a_class_raises_the_cost_of_its_errors(k: int) -> None:
    label = torch.arange(CLASSES).repeat(30).view(1, 1, 4, 5, 6)
    onehot = torch.nn.functional.one_hot(label[:, 0], CLASSES).movedim(-1, 1).float()
    logits = 8 * onehot
    logits[:, k] = -8  # class k is never found
    loss, weight = DifficultyAwareLoss(CLASSES), torch.ones(CLASSES)
    weight[k] = 2
    assert loss(logits, label, weight) > loss(logits, label, torch.ones(CLASSES))


def test_gradient_reaches_the_logits_and_nothing_flows_through_the_weights() -> None:
    loss = DifficultyAwareLoss(CLASSES)
    logits, label = torch.randn(1, CLASSES, 4, 5, 6, requires_grad=True), torch.randint(CLASSES, (1, 1, 4, 5, 6))
    weight = take_in(loss, logits.argmax(dim=1, keepdim=True), label)
    assert not weight.requires_grad
    assert not any(b.requires_grad for b in loss.buffers())
    loss(logits, label, weight).backward()
    assert logits.grad is not None
    assert logits.grad.any()
    assert torch.isfinite(logits.grad).all()


def test_weights_of_an_iteration_follow_from_those_before() -> None:
    loss = DifficultyAwareLoss(CLASSES)
    batch, other = maps(0.2, 0.5, 0.8), maps(0.9, 0.1, -1)
    assert loss.observe(*batch).tolist() == [1.0] * CLASSES  # nothing is known yet
    before = loss.state_dict()
    assert torch.equal(loss.observe(*batch), torch.ones(CLASSES))
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    loss.update()
    assert loss.observe(*other).tolist() != [1.0] * CLASSES


def test_batches_of_an_iteration_count_as_one_large_batch() -> None:
    one, two = DifficultyAwareLoss(CLASSES), DifficultyAwareLoss(CLASSES)
    for rows in (((0.2, 0.5, 0.8), (0.4, -1, 0.3)), ((0.1, 0.6, 0.9), (0.7, 0.2, -1))):
        several = [maps(*row) for row in rows]
        for batch in several:
            one.observe(*batch)
        two.observe(*(torch.cat(kind, dim=-1) for kind in zip(*several, strict=True)))
        one.update()
        two.update()
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert not one.counts.any()


def test_mean_of_counts_serves_as_well_as_their_sum() -> None:
    one, other = DifficultyAwareLoss(CLASSES), DifficultyAwareLoss(CLASSES)
    for row in ((0.2, 0.5, 0.8), (0.4, 0.1, 0.3)):
        one.observe(*maps(*row))
        other.observe(*maps(*row))
        other.counts /= 4
        one.update()
        other.update()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
