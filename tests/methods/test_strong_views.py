# SPDX-License-Identifier: Apache-2.0
"""FixMatch and UniMatch against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dtlp_components.keys import MethodTerms as Terms
from dtlp_components.keys import TrainingStreams as Streams
from dtlp_components.methods.strong_views import FixMatch, UniMatch
from tests.methods.methods import CLASSES, LOSS, Voxelwise, batch, losses_of, terms_of


def darker(image: Tensor) -> Tensor:
    return image - 0.3


@pytest.mark.parametrize("kind", [FixMatch, UniMatch])
def test_half_of_the_labeled_loss_is_all_without_unlabeled_volumes(kind: type[FixMatch]) -> None:
    image, label = batch(2, seed=1)
    expected = LOSS(Voxelwise()(image), label).item()
    for given in ({"ramp": 0.0}, {"unlabeled": False}):
        found = losses_of(kind(Voxelwise(), LOSS, darker), **given)
        assert found == [(Streams.LABELED, {"student_labeled": (0.5, pytest.approx(expected))})]


def test_strong_view_learns_the_class_of_the_plain_one_where_that_is_certain() -> None:
    student = Voxelwise()
    # boxes of no size, so that nothing is pasted but one voxel at most
    method = FixMatch(student, LOSS, darker, threshold=0.9)
    method.mixed = lambda *view: view  # type: ignore[method-assign]
    terms = terms_of(method, ramp=0.5)
    image, _ = batch(2, seed=2)
    confidence, label = torch.softmax(student(image), dim=1).max(dim=1)
    certain = confidence >= 0.9
    assert 0 < certain.float().mean() < 1
    loss = F.cross_entropy(student(darker(image)), label, reduction="none")
    # the mean is over all voxels, so that few certain ones weigh little
    assert terms[Terms.STRONG] == (0.25, pytest.approx((loss * certain).mean().item()))


def test_box_brings_image_class_and_confidence_of_the_next_volume() -> None:
    method = FixMatch(Voxelwise(), LOSS, darker, box_share=(0.2, 0.3))
    image = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 1, 8, 9, 10)
    torch.manual_seed(1)
    pasted = 0
    for _ in range(10):
        mixed, label, confidence = method.mixed(image, image.long(), 0.1 * image)
        torch.testing.assert_close(mixed, label.float())
        torch.testing.assert_close(confidence, 0.1 * mixed)
        for i in range(3):
            assert set(mixed[i].unique().tolist()) <= {float(i), float((i + 1) % 3)}
            pasted += bool((mixed[i] != i).any())
    assert 5 < pasted < 25  # half of thirty


def test_single_volume_has_no_partner() -> None:
    method = FixMatch(Voxelwise(), LOSS, darker)
    image, label = batch(1)
    for _ in range(5):
        assert torch.equal(method.mixed(image, label, image)[0], image)


def test_unimatch_has_two_strong_views_and_one_with_dropped_features() -> None:
    found = losses_of(UniMatch(Voxelwise(), LOSS, darker), ramp=1.0)
    assert [stream for stream, _ in found] == [
        Streams.LABELED, Streams.TEACHERS, Streams.MIXED, Streams.MIXED, Streams.UNLABELED
    ]  # fmt: skip
    weights = [weight for _, losses in found for weight, _ in losses.values()]
    assert weights == [0.5, 0.125, 0.125, 0.25]  # half of 1, 1/4, 1/4, 1/2


def test_dice_counts_certain_voxels_with_squared_denominators() -> None:
    image, _ = batch(2, seed=2)
    logits = Voxelwise()(image)
    confidence, label = torch.softmax(logits, dim=1).max(dim=1, keepdim=True)
    method = UniMatch(Voxelwise(), LOSS, darker, threshold=0.9)
    certain = (confidence >= 0.9)[:, 0]
    p = torch.softmax(logits, dim=1).movedim(1, -1)[certain]  # (voxels, C)
    t = F.one_hot(label[:, 0], CLASSES).float()[certain]
    dice = (2 * (p * t).sum(dim=0) + 1e-5) / ((p**2).sum(dim=0) + (t**2).sum(dim=0) + 1e-5)
    assert method.certain_dice(logits, label, confidence).item() == pytest.approx(1 - dice.mean().item(), rel=1e-5)
