# SPDX-License-Identifier: Apache-2.0
"""DiceCE over the voxels that have a label."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss, MaskedDiceLoss
from monai.networks.utils import one_hot

from dtlp_components.keys import NO_LABEL
from dtlp_components.losses.difficulty import DifficultyAwareLoss
from dtlp_components.losses.partial import PartialDiceCELoss, marginal_cross_entropy, possible_classes, table_of

pytestmark = pytest.mark.usefixtures("seed")

SHAPE = (2, 3, 6, 5, 4)


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * torch.randn(SHAPE), torch.randint(3, (2, 1, *SHAPE[2:]))


@pytest.mark.parametrize("batch", [True, False])
def test_with_a_label_everywhere_it_is_monai_s(batch: bool) -> None:
    logits, label = drawn()
    monai = DiceCELoss(to_onehot_y=True, softmax=True, batch=batch, lambda_dice=0.5, lambda_ce=0.5)
    torch.testing.assert_close(PartialDiceCELoss(batch)(logits, label), monai(logits, label))


def test_voxels_without_a_label_do_not_count() -> None:
    logits, label = drawn()
    hidden = torch.rand(label.shape) < 0.4
    partial = torch.where(hidden, NO_LABEL, label)
    loss = PartialDiceCELoss()(logits, partial)
    known = ~hidden[:, 0]
    cross_entropy = torch.nn.functional.cross_entropy(logits.movedim(1, -1)[known], label[:, 0][known])
    dice = MaskedDiceLoss(softmax=True, batch=True)(logits, one_hot(label, 3), (~hidden).float())
    torch.testing.assert_close(loss, 0.5 * (cross_entropy + dice))
    torch.testing.assert_close(PartialDiceCELoss()(torch.where(hidden, 5.0 - logits, logits), partial), loss)


def test_no_gradient_reaches_voxels_without_a_label() -> None:
    logits, label = drawn()
    label[:, :, :3] = NO_LABEL
    logits.requires_grad_()
    PartialDiceCELoss()(logits, label).backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, :3].any()
    assert logits.grad[:, :, 3:].any()


def test_without_any_label_it_is_zero_and_finite() -> None:
    logits, label = drawn()
    logits.requires_grad_()
    loss = PartialDiceCELoss()(logits, torch.full_like(label, NO_LABEL))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_factors_weigh_dice_and_cross_entropy() -> None:
    logits, label = drawn()
    dice, cross_entropy = (PartialDiceCELoss(True, *factors)(logits, label) for factors in ((1.0, 0.0), (0.0, 1.0)))
    torch.testing.assert_close(PartialDiceCELoss(True, 0.3, 2.0)(logits, label), 0.3 * dice + 2.0 * cross_entropy)


TABLE = [[0, 1, 2], [0, 2]]  # anything; background or class 2


def test_open_voxel_costs_the_sum_of_the_probabilities_of_what_it_may_be() -> None:
    logits, label = drawn()
    label[0, 0, 0] = -2
    label[1, 0, :2] = NO_LABEL
    probabilities = torch.softmax(logits, dim=1)
    chosen = probabilities.gather(1, label.clamp_min(0))
    either = probabilities[:, [0, 2]].sum(dim=1, keepdim=True)
    cost = -torch.where(label == -2, either, chosen).log()[label != NO_LABEL].mean()
    torch.testing.assert_close(marginal_cross_entropy(logits, possible_classes(label, table_of(TABLE))), cost)


def test_open_voxel_counts_in_the_dice_of_the_classes_that_it_is_not() -> None:
    logits, label = drawn()
    label[0, 0, :3] = -2
    probabilities = torch.softmax(logits, dim=1)
    known = (label >= 0).float()
    dice = []
    for k in range(3):
        mask = torch.ones_like(known) if k == 1 else known  # class 1 was drawn: it is nowhere else
        p, g = (probabilities[:, k : k + 1] * mask), (label == k).float()
        dice.append(1 - (2 * (p * g).sum() + 1e-5) / (p.sum() + g.sum() + 1e-5))
    expected = 0.5 * torch.stack(dice).mean() + 0.5 * marginal_cross_entropy(
        logits, possible_classes(label, table_of(TABLE))
    )
    torch.testing.assert_close(PartialDiceCELoss(open_classes=TABLE)(logits, label), expected)


def test_open_voxels_let_go_of_drawn_classes_and_choose_none_of_the_others() -> None:
    """The gradient lowers the class that was drawn, and raises what is possible in proportion to its probability."""
    logits = torch.zeros(1, 3, 2, 2, 2, requires_grad=True)
    PartialDiceCELoss(open_classes=TABLE, lambda_dice=0.0)(logits, torch.full((1, 1, 2, 2, 2), -2)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] > 0).all()
    torch.testing.assert_close(logits.grad[:, 0], logits.grad[:, 2])
    assert (logits.grad[:, 0] < 0).all()


def test_difficulty_loss_with_all_labels_known_is_the_same_with_a_table() -> None:
    logits, label = drawn()
    weight = torch.tensor([1.0, 0.5, 2.0])
    plain, partial = DifficultyAwareLoss(3), DifficultyAwareLoss(3, open_classes=TABLE)
    torch.testing.assert_close(partial(logits, label, weight), plain(logits, label, weight))


def test_difficulty_loss_neither_counts_nor_costs_ignored_voxels() -> None:
    logits, label = drawn()
    hidden = torch.rand(label.shape) < 0.4
    partial = torch.where(hidden, NO_LABEL, label)
    weight = torch.tensor([1.0, 0.5, 2.0])
    loss = DifficultyAwareLoss(3, open_classes=TABLE)
    changed = torch.where(hidden, 5.0 - logits, logits)
    torch.testing.assert_close(loss(changed, partial, weight), loss(logits, partial, weight))
    other = DifficultyAwareLoss(3, open_classes=TABLE)
    loss.observe(logits.argmax(dim=1, keepdim=True), partial)
    other.observe(changed.argmax(dim=1, keepdim=True), partial)
    torch.testing.assert_close(loss.counts, other.counts)
