# SPDX-License-Identifier: Apache-2.0
"""The estimate of how long a training takes."""

from __future__ import annotations

import pytest
import torch

from dtlp_components.own_data.duration import duration_sentence, seconds_of_a_step


def test_larger_patches_take_longer_and_nothing_is_drawn_from_the_random_state(seed: int) -> None:
    before = torch.get_rng_state()
    small, large = (seconds_of_a_step(patch, 4, 1, 2) for patch in ((16, 32, 32), (48, 64, 64)))
    assert 0 < small < large
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("iterations", "step", "has_unlabeled", "expected"),
    [
        (6000, 1.0, True, "6000 iterations will take about 7 h 30 min on this machine: 4.5 s each (4.5 times a step"),
        (
            1000,
            0.1,
            False,
            "1000 iterations will take about 1 min 40 s on this machine: 0.1 s each (a step of the student just took",
        ),
    ],
)
def test_sentence(iterations: int, step: float, has_unlabeled: bool, expected: str) -> None:
    assert duration_sentence(iterations, step, has_unlabeled).startswith(expected)
