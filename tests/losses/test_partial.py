# SPDX-License-Identifier: Apache-2.0
"""DiceCE over the voxels that have a label."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss, MaskedDiceLoss
from monai.networks.utils import one_hot

from dtlp_components.keys import NO_LABEL
from dtlp_components.losses.partial import PartialDiceCELoss

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
