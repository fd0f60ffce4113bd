# SPDX-License-Identifier: Apache-2.0
"""Bidirectional copy-paste: what is pasted where, and what each voxel weighs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dtlp_components.errors import InputError
from dtlp_components.keys import MethodTerms as Terms
from dtlp_components.keys import TrainingStreams as Streams
from dtlp_components.methods.copy_paste import BidirectionalCopyPaste
from tests.methods.methods import CLASSES, LOSS, Voxelwise, batch, losses_of


class Seen(Voxelwise):
    """A student that keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.images.append(image)
        return super().forward(image)


def make(student: Any = None, teacher: Any = None, sizes: tuple[int, int] = (2, 2)) -> BidirectionalCopyPaste:
    return BidirectionalCopyPaste(student or Voxelwise(), teacher or Voxelwise(), sizes, LOSS)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (2, 4), (4, 2), (2, 1)])
def test_batches_that_are_not_two_equal_halves_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"expected the same even number, .*got {sizes[0]} and {sizes[1]}"):
        make(sizes=sizes)


def test_box_has_two_thirds_of_each_side() -> None:
    inside = make().box(torch.zeros(2, 1, 12, 15, 18))
    assert inside.shape == (1, 1, 12, 15, 18)
    assert [len(inside[0, 0].nonzero()[:, axis].unique()) for axis in range(3)] == [8, 10, 12]
    assert inside.sum() == 8 * 10 * 12


def test_before_the_ramp_labeled_volumes_are_pasted_into_each_other() -> None:
    student = Seen()
    (image, label) = batch(2, seed=1)
    for given in ({"ramp": 0.0}, {"unlabeled": False}):
        ((stream, losses),) = losses_of(make(student), **given)
        assert (stream, list(losses), losses[Terms.MIXED_LABELED][0]) == (Streams.LABELED, ["mixed_labeled"], 1.0)
        shown = student.images[-1]
        assert len(shown) == 1
        from_b = shown[0] == image[1]
        assert torch.equal(torch.where(from_b, image[1], image[0]), shown[0])
        expected = LOSS(student(shown), torch.where(from_b, label[1], label[0])[None])
        assert losses[Terms.MIXED_LABELED][1] == pytest.approx(expected.item())


def test_unlabeled_boxes_go_into_labeled_volumes_and_the_other_way() -> None:
    student = Seen()
    losses_of(make(student))
    (image_a, image_b), (unlabeled_a, unlabeled_b) = batch(2, seed=1)[0], batch(2, seed=2)[0]
    first, second = student.images
    inside = first[0] == unlabeled_a
    assert torch.equal(first[0], torch.where(inside, unlabeled_a, image_a))
    assert torch.equal(second[0], torch.where(inside, image_b, unlabeled_b))
    assert inside.sum() == 3 * 3 * 4  # two thirds of 4, 5, 6


def test_voxels_that_the_teacher_named_weigh_half_and_both_kinds_are_averaged_apart() -> None:
    method, (image, label) = make(), batch(1)
    logits = Voxelwise()(image)
    part = torch.zeros(1, 1, 4, 5, 6, dtype=torch.bool)
    part[..., :2] = True
    mask = part[0, 0]
    p = torch.softmax(logits, dim=1)[0][:, mask]  # (C, voxels)
    t = F.one_hot(label[0, 0][mask], CLASSES).T.float()
    dice = (2 * (p * t).sum(dim=1) + 1e-5) / (p.sum(dim=1) + t.sum(dim=1) + 1e-5)
    cross_entropy = -(t * p.log()).sum(dim=0).mean()
    expected = (cross_entropy + 1 - dice.mean()) / 2
    assert method.part_loss(logits, label, part).item() == pytest.approx(expected.item(), rel=1e-4)
    weights = [losses for stream, losses in losses_of(make()) if stream == Streams.MIXED]
    assert [[weight for weight, _ in losses.values()] for losses in weights] == [[1.0, 0.5], [1.0, 0.5]]


def test_teachers_classes_keep_their_largest_part() -> None:
    named = torch.zeros(2, 1, 4, 5, 6)
    named[:, 0, 0, 0, :3] = 1  # three voxels of class 1
    named[:, 0, 3, 4, 5] = 1  # and one far away
    seen = []

    class Teacher(Voxelwise):
        def forward(self, image: Tensor) -> Tensor:
            return F.one_hot(named[:, 0].long(), CLASSES).movedim(-1, 1).float()

    method = make(teacher=Teacher())
    part_loss = method.part_loss
    method.part_loss = lambda logits, classes, part: (seen.append((classes, part)), part_loss(logits, classes, part))[1]  # type: ignore[method-assign, func-returns-value]
    losses_of(method)
    (classes, known), *_ = seen  # the first is the labeled volume with an unlabeled box
    assert classes[~known.expand_as(classes)].sum() <= 3
    assert torch.as_tensor(method.largest(named[0])).sum() == 3
