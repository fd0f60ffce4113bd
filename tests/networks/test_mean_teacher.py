# SPDX-License-Identifier: Apache-2.0
"""The mean teacher: its momentum by hand, its period, and that it never trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtlp_components.networks.mean_teacher import MeanTeacher


class OneNumber(nn.Module):
    """A student whose only parameter is set by hand."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor([value]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.number * x


def follow(teacher: MeanTeacher, values: list[float], first: int = 1) -> list[float]:
    """The teacher's number after each update with a student of that value."""
    followed = []
    for iteration, value in enumerate(values, start=first):
        teacher.update(OneNumber(value), iteration)
        followed.append(teacher.module.number.item())
    return followed


def test_first_update_copies_the_student() -> None:
    assert follow(MeanTeacher(OneNumber(100.0)), [3.0]) == [3.0]


def test_first_updates_are_a_plain_mean_until_the_decay_is_reached() -> None:
    # i updates so far: momentum min(1 - 1 / (i + 1), 0.75) = 0, 1/2, 2/3, 3/4, 3/4
    values = [4.0, 8.0, 9.0, 5.0, 2.0]
    expected, number = [], 100.0
    for i, value in enumerate(values):
        momentum = min(1 - 1 / (i + 1), 0.75)
        number = momentum * number + (1 - momentum) * value
        expected.append(number)
    assert expected[2] == pytest.approx(sum(values[:3]) / 3)
    assert follow(MeanTeacher(OneNumber(100.0), decay=0.75), values) == pytest.approx(expected)


def test_average_of_a_short_training_reaches_back_over_a_twentieth_of_it() -> None:
    short, long = (MeanTeacher(OneNumber(0.0), total_iterations=total) for total in (100, 10_000))
    assert short.decay == pytest.approx(0.8)
    assert long.decay == 0.99
    assert MeanTeacher(OneNumber(0.0), period=2, total_iterations=100).decay == pytest.approx(0.6)
    assert MeanTeacher(OneNumber(0.0), total_iterations=10).decay == 0.0
    values = [0.0] * 50 + [1.0] * 5
    assert follow(short, values)[-1] == pytest.approx(1 - 0.8**5)
    with pytest.raises(ValueError, match="total_iterations must be positive, got 0"):
        MeanTeacher(OneNumber(0.0), total_iterations=0)


def test_without_decay_the_teacher_is_the_student() -> None:
    assert follow(MeanTeacher(OneNumber(100.0), decay=0.0), [4.0, 8.0, 9.0]) == [4.0, 8.0, 9.0]


def test_only_iterations_of_the_period_count() -> None:
    teacher = MeanTeacher(OneNumber(100.0), decay=0.75, period=3)
    # updates at iterations 3 (copies) and 6 (momentum 1/2)
    assert follow(teacher, [1.0, 2.0, 4.0, 5.0, 6.0, 8.0, 9.0]) == [100.0, 100.0, 4.0, 4.0, 4.0, 6.0, 6.0]


def test_momentum_goes_on_after_a_checkpoint() -> None:
    values = [4.0, 8.0, 9.0, 5.0]
    whole = follow(MeanTeacher(OneNumber(100.0)), values)
    before, after = MeanTeacher(OneNumber(100.0)), MeanTeacher(OneNumber(-1.0))
    follow(before, values[:2])
    after.load_state_dict(before.state_dict())
    assert follow(after, values[2:], first=3) == whole[2:]


def test_student_is_copied_and_left_alone() -> None:
    student = OneNumber(1.0)
    teacher = MeanTeacher(student)
    teacher.update(OneNumber(5.0), 1)
    assert student.number.item() == 1.0
    assert student.number.requires_grad
    assert teacher.module is not student


def test_teacher_carries_no_gradient() -> None:
    student, x = OneNumber(2.0), torch.ones(3)
    teacher = MeanTeacher(student)
    student(x).sum().backward()
    teacher.update(student, 1)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert teacher.module.number.grad is None
    assert not teacher(x).requires_grad


def test_teacher_stays_in_eval_mode() -> None:
    teacher = MeanTeacher(nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Dropout3d(0.5)))
    assert teacher.train() is teacher
    assert not any(module.training for module in teacher.modules())


def test_buffers_are_copied_not_averaged() -> None:
    torch.manual_seed(0)
    student = nn.BatchNorm3d(2)
    teacher = MeanTeacher(student)
    for iteration in (1, 2, 3):
        student(torch.randn(2, 2, 4, 5, 6) + iteration)
        teacher.update(student, iteration)
        assert torch.equal(teacher.module.running_mean, student.running_mean)
        assert teacher.module.num_batches_tracked == iteration


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay must be within \[0, 1\), got {decay}"):
        MeanTeacher(OneNumber(0.0), decay=decay)


def test_impossible_period_is_refused() -> None:
    with pytest.raises(ValueError, match="period must be a positive number of iterations, got 0"):
        MeanTeacher(OneNumber(0.0), period=0)
