# SPDX-License-Identifier: Apache-2.0
"""Mean teacher and UA-MT against their formulas."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from dtlp_components.keys import MethodTerms as Terms
from dtlp_components.keys import TrainingStreams as Streams
from dtlp_components.methods.consistency import MeanTeacherConsistency, UncertaintyAwareConsistency
from tests.methods.methods import LOSS, Voxelwise, batch, losses_of, streams_of, terms_of


def teacher() -> Voxelwise:
    """One that differs from the student and is not trained."""
    other = Voxelwise().requires_grad_(False)
    other.bias.copy_(torch.tensor([0.5, 0.5, -1.0]))
    return other


@pytest.mark.parametrize("kind", [MeanTeacherConsistency, UncertaintyAwareConsistency])
def test_without_unlabeled_volumes_or_before_the_ramp_the_student_learns_from_labels_alone(
    kind: type[MeanTeacherConsistency],
) -> None:
    method = kind(Voxelwise(), teacher(), LOSS)
    image, label = batch(2, seed=1)
    expected = LOSS(Voxelwise()(image), label).item()
    for given in ({"ramp": 0.0}, {"unlabeled": False}):
        assert losses_of(method, **given) == [(Streams.LABELED, {"student_labeled": (1.0, pytest.approx(expected))})]


def test_consistency_is_the_mean_squared_difference_of_probabilities() -> None:
    student, mean_teacher = Voxelwise(), teacher()
    terms = terms_of(MeanTeacherConsistency(student, mean_teacher, LOSS, weight=0.3, noise=0.0), ramp=0.5)
    image, _ = batch(2, seed=2)
    difference = torch.softmax(student(image), dim=1) - torch.softmax(mean_teacher(image), dim=1)
    assert terms[Terms.CONSISTENCY] == (0.15, pytest.approx((difference**2).mean().item()))


def test_teacher_sees_noise_that_is_cut_off_at_two_standard_deviations() -> None:
    method = MeanTeacherConsistency(Voxelwise(), teacher(), LOSS, noise=0.1)
    noise = method.noised(torch.zeros(1, 1, 20, 20, 20))
    assert noise.abs().max() == pytest.approx(0.2)
    assert noise.std() == pytest.approx(0.1, rel=0.1)


def test_teacher_gets_no_gradient() -> None:
    student, mean_teacher = Voxelwise(), copy.deepcopy(Voxelwise())
    losses_of(MeanTeacherConsistency(student, mean_teacher, LOSS))
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in mean_teacher.parameters())


def test_uncertain_voxels_do_not_count() -> None:
    # without noise and dropout all passes are one, whose entropy decides
    student, mean_teacher = Voxelwise(), teacher()
    method = UncertaintyAwareConsistency(student, mean_teacher, LOSS, weight=1.0, noise=0.0, passes=2)
    terms = terms_of(method, ramp=0.2)
    image, _ = batch(2, seed=2)
    target = torch.softmax(mean_teacher(image), dim=1)
    entropy = -(target * target.log()).sum(dim=1, keepdim=True)
    mask = entropy < (0.75 + 0.25 * 0.2) * math.log(3)
    assert 0 < mask.float().mean() < 1
    squares = (torch.softmax(student(image), dim=1) - target) ** 2
    expected = squares[mask.expand_as(squares)].sum() / (3 * mask.sum())
    assert terms[Terms.CONSISTENCY] == (pytest.approx(0.2), pytest.approx(expected.item()))


class WithDropout(nn.Module):
    """A teacher that can only differ from pass to pass by its dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout3d(0.5), nn.BatchNorm3d(8)
        self.passes: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        dropped = self.dropout(torch.ones(len(image), 8, *image.shape[2:]))
        self.passes.append(dropped)
        return torch.cat([self.norm(dropped)[:, :3]], dim=1)


def test_passes_have_dropout_but_leave_statistics_alone_and_the_mode_is_put_back() -> None:
    mean_teacher = WithDropout().eval()
    UncertaintyAwareConsistency(Voxelwise(), mean_teacher, LOSS, passes=5).trusted(torch.zeros(2, 1, 4, 5, 6), 1.0)
    assert len(mean_teacher.passes) == 5
    assert not torch.equal(mean_teacher.passes[0], mean_teacher.passes[1])
    assert not mean_teacher.dropout.training
    assert mean_teacher.norm.num_batches_tracked == 0


def test_teachers_pass_is_a_stream_of_its_own() -> None:
    method = MeanTeacherConsistency(Voxelwise(), teacher(), LOSS)
    assert streams_of(method) == [Streams.LABELED, Streams.TEACHERS, Streams.UNLABELED]
