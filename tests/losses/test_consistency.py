# SPDX-License-Identifier: Apache-2.0
"""Masked reconstruction and distillation: where they are smallest, and what they ignore."""

from __future__ import annotations

import pytest
import torch

from dtlp_components.losses.consistency import DistillationLoss, MaskedReconstructionLoss

pytestmark = pytest.mark.usefixtures("seed")

SHAPE = (2, 3, 4, 5, 6)


def test_reconstruction_of_equal_logits_costs_nothing() -> None:
    logits = torch.randn(SHAPE)
    assert MaskedReconstructionLoss()(logits, logits.clone()).tolist() == [0.0, 0.0]


def test_reconstruction_ignores_a_shift_of_all_classes_of_a_voxel() -> None:
    student, teacher = torch.randn(SHAPE), torch.randn(SHAPE)
    loss = MaskedReconstructionLoss()
    shifted = loss(student + 10 * torch.randn(2, 1, 4, 5, 6), teacher + 10 * torch.randn(2, 1, 4, 5, 6))
    torch.testing.assert_close(shifted, loss(student, teacher), rtol=1e-3, atol=1e-4)


def test_reconstruction_is_relative_and_has_one_value_per_volume() -> None:
    # ||s z - z||^2 / ||z||^2 = (s - 1)^2, whatever z is
    teacher = torch.randn(SHAPE) * torch.tensor([0.1, 100.0]).view(2, 1, 1, 1, 1)
    student = teacher * torch.tensor([2.0, -3.0]).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(MaskedReconstructionLoss()(student, teacher), torch.tensor([1.0, 16.0]))


def test_reconstruction_by_hand() -> None:
    # centred over the two classes: teacher (1, -1), student (2, -2); distance 1 + 1 over 1 + 1
    teacher = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1, 1)
    student = torch.tensor([9.0, 5.0]).view(1, 2, 1, 1, 1)
    assert MaskedReconstructionLoss()(student, teacher).item() == pytest.approx(1)


def test_reconstruction_of_an_undecided_teacher_is_finite() -> None:
    student = torch.randn(SHAPE, requires_grad=True)
    loss = MaskedReconstructionLoss()(student, torch.full(SHAPE, 7.0))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_reconstruction_is_float32_for_half_precision_logits() -> None:
    logits = torch.randn(SHAPE, dtype=torch.bfloat16)
    assert MaskedReconstructionLoss()(logits, logits).dtype == torch.float32


def test_distillation_is_smallest_and_flat_where_the_student_equals_its_teacher() -> None:
    logits = torch.randn(SHAPE, requires_grad=True)
    teacher = torch.softmax(logits.detach(), dim=1)
    loss = DistillationLoss()
    smallest = loss(logits, [teacher])
    smallest.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(SHAPE), rtol=0, atol=1e-6)
    assert smallest.item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for change in (0.1 * torch.randn(SHAPE), logits.detach(), -0.5 * logits.detach()):  # noised, sharper, softer
            assert loss(logits + change, [teacher]) > smallest + 1e-3


def test_distillation_pulls_the_student_towards_its_teacher() -> None:
    logits, teacher = torch.randn(SHAPE, requires_grad=True), torch.softmax(torch.randn(SHAPE), dim=1)
    loss = DistillationLoss()
    before = loss(logits, [teacher])
    before.backward()
    assert logits.grad is not None
    assert loss(logits.detach() - 10 * logits.grad, [teacher]) < before


def test_distillation_adds_its_teachers_up() -> None:
    logits = torch.randn(SHAPE)
    one, other = torch.softmax(torch.randn(SHAPE), dim=1), torch.softmax(torch.randn(SHAPE), dim=1)
    loss = DistillationLoss()
    torch.testing.assert_close(loss(logits, [one, other]), loss(logits, [one]) + loss(logits, [other]))
