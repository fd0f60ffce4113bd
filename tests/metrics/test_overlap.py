# SPDX-License-Identifier: Apache-2.0
"""Dice of a batch."""

from __future__ import annotations

import pytest
import torch

from dtlp_components.metrics.overlap import batch_dice


def test_dice_by_hand() -> None:
    label = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]).view(2, 1, 1, 2, 2)
    predicted = torch.tensor([0, 1, 0, 1, 1, 2, 0, 0]).view(2, 1, 1, 2, 2)
    dice, present = batch_dice(predicted, label, num_classes=4)
    # overlap over sizes: background 2 of 3 and 4, class 1 2 of 2 and 3, class 2 1 of 3 and 1
    torch.testing.assert_close(dice[:3], torch.tensor([2 * 2 / 7, 2 * 2 / 5, 2 * 1 / 4]))
    assert present.tolist() == [True, True, True, False]


def test_dice_is_of_the_whole_batch_not_a_mean_over_its_volumes() -> None:
    label = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]])
    predicted = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])
    dice, _ = batch_dice(predicted, label, num_classes=2)
    assert dice[1].item() == pytest.approx(2 * 4 / (5 + 4))
