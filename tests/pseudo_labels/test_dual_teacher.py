# SPDX-License-Identifier: Apache-2.0
"""Pseudo-labels of two teachers: entropy, fusion, noise, smoothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dtlp_components.keys import NO_LABEL
from dtlp_components.keys import PseudoLabelSources as Sources
from dtlp_components.metrics.uncertainty import entropy_bits
from dtlp_components.pseudo_labels.dual_teacher import DualTeacher, PseudoLabels, fuse_teachers, gumbel_softmax

pytestmark = pytest.mark.usefixtures("seed")

SHAPE = (2, 3, 4, 5, 6)
IMAGE = torch.zeros(2, 1, 4, 5, 6)


def voxel(*probs: float) -> Tensor:
    """Probabilities of a single voxel, (1, C, 1, 1, 1)."""
    return torch.tensor(probs).view(1, -1, 1, 1, 1)


def random_map(sharpness: float = 2.0) -> Tensor:
    return torch.softmax(sharpness * torch.randn(SHAPE), dim=1)


def make_teacher(diffusion: Tensor, difficulty: Tensor, mean_teacher: Tensor, **kwargs: Any) -> DualTeacher:
    """Teachers that give the same logits for any image."""
    return DualTeacher(lambda _: diffusion, lambda _: difficulty, lambda _: mean_teacher, **kwargs)


def random_teacher(**kwargs: Any) -> DualTeacher:
    return make_teacher(*(2 * torch.randn(SHAPE) for _ in range(3)), **kwargs)


def test_certain_teacher_outvotes_uncertain_one() -> None:
    # H(0.9, 0.1) = 0.469 bits, H(0.5, 0.5) = 1 bit: the first share is e^-0.469 / (e^-0.469 + e^-1)
    h = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    w = math.exp(-h) / (math.exp(-h) + math.exp(-1))
    first, second = voxel(0.9, 0.1), voxel(0.5, 0.5)
    fused = fuse_teachers(first, second, entropy_bits(first), entropy_bits(second))
    assert w > 0.5
    assert fused.flatten().tolist() == pytest.approx([w * 0.9 + (1 - w) * 0.5, w * 0.1 + (1 - w) * 0.5])


def test_equally_certain_teachers_are_averaged() -> None:
    first, second = voxel(0.9, 0.1), voxel(0.1, 0.9)
    fused = fuse_teachers(first, second, entropy_bits(first), entropy_bits(second))
    assert fused.flatten().tolist() == pytest.approx([0.5, 0.5])


def test_order_of_the_teachers_does_not_matter() -> None:
    a, b = random_map(), random_map()
    h_a, h_b = entropy_bits(a), entropy_bits(b)
    torch.testing.assert_close(fuse_teachers(a, b, h_a, h_b), fuse_teachers(b, a, h_b, h_a))


def test_fused_map_sums_to_one_and_lies_between_its_teachers() -> None:
    a, b = random_map(), random_map()
    fused = fuse_teachers(a, b, entropy_bits(a), entropy_bits(b))
    torch.testing.assert_close(fused.sum(dim=1), torch.ones(2, 4, 5, 6))
    assert (fused >= torch.minimum(a, b) - 1e-6).all()
    assert (fused <= torch.maximum(a, b) + 1e-6).all()


def test_shape_mismatch_names_both_shapes() -> None:
    entropy = torch.zeros(1, 1, 2, 2, 2)
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 2, 2\) and \(1, 3, 2, 2, 2\)"):
        fuse_teachers(torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 3, 2, 2, 2), entropy, entropy)


def test_noise_keeps_a_certain_voxel() -> None:
    certain = torch.zeros(1, 14, 8, 9, 10)
    certain[:, 5] = 1
    noised = gumbel_softmax(certain, temperature=1.0)
    assert (noised.argmax(dim=1) == 5).all()
    assert noised[:, 5].mean() > 0.999


def test_noised_class_is_drawn_as_often_as_its_probability_says() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1, 1).expand(1, 3, 20, 25, 40)
    drawn = gumbel_softmax(probabilities, temperature=0.5).argmax(dim=1)
    share = torch.bincount(drawn.flatten(), minlength=3) / drawn.numel()
    # 20 000 draws: a standard deviation of at most 0.0035
    assert share.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.015)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_noise_is_finite_float32_where_a_probability_is_zero_or_in_half_precision(temperature: float) -> None:
    probabilities = torch.zeros(1, 3, 30, 40, 50)
    probabilities[:, 0], probabilities[:, 1] = 0.75, 0.25
    noised = gumbel_softmax(probabilities.to(torch.bfloat16), temperature)
    assert noised.dtype == torch.float32
    assert torch.isfinite(noised).all()
    torch.testing.assert_close(noised.sum(dim=1), torch.ones(1, 30, 40, 50))


def test_lower_temperature_gives_sharper_maps() -> None:
    probabilities = random_map(0.5)
    torch.manual_seed(1)
    soft = gumbel_softmax(probabilities, temperature=2.0)
    torch.manual_seed(1)
    sharp = gumbel_softmax(probabilities, temperature=0.5)
    assert entropy_bits(sharp).mean() < entropy_bits(soft).mean()


def test_smoothing_keeps_a_constant_map_also_at_its_borders() -> None:
    constant = voxel(0.2, 0.5, 0.3).expand(1, 3, 4, 5, 6).contiguous()
    torch.testing.assert_close(random_teacher().smooth(constant), constant)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_smoothing_is_a_gaussian_of_three_voxels_per_axis(sigma: float) -> None:
    impulse = torch.zeros(1, 1, 5, 6, 7)
    impulse[0, 0, 2, 3, 3] = 1
    taps = torch.tensor([math.exp(-0.5 / sigma**2), 1.0, math.exp(-0.5 / sigma**2)])
    taps = taps / taps.sum()
    expected = torch.zeros(1, 1, 5, 6, 7)
    expected[0, 0, 1:4, 2:5, 2:5] = taps[:, None, None] * taps[:, None] * taps
    torch.testing.assert_close(random_teacher(blur_sigma=sigma).smooth(impulse), expected)


def test_smoothed_map_sums_to_one() -> None:
    smoothed = random_teacher().smooth(random_map())
    torch.testing.assert_close(smoothed.sum(dim=1), torch.ones(2, 4, 5, 6))


def test_no_smoothing_at_sigma_zero() -> None:
    probabilities = random_map()
    assert torch.equal(random_teacher(blur_sigma=0).smooth(probabilities), probabilities)


def check_is_well_formed(pseudo: PseudoLabels) -> None:
    assert set(pseudo.probabilities) == set(Sources) - {Sources.STUDENT}
    for name, probabilities in pseudo.probabilities.items():
        assert probabilities.shape == SHAPE, name
        assert probabilities.dtype == torch.float32, name
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 4, 5, 6), msg=name)
    assert pseudo.mean_teacher_logits.shape == SHAPE
    assert pseudo.mean_teacher_logits.dtype == torch.float32
    assert pseudo.label.shape == (2, 1, 4, 5, 6)
    assert pseudo.label.dtype == torch.int64


@pytest.mark.parametrize("gumbel", [False, True])
def test_every_map_is_float32_and_sums_to_one_also_under_autocast(gumbel: bool) -> None:
    teacher = random_teacher(gumbel=gumbel)
    check_is_well_formed(teacher(IMAGE))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_is_well_formed(teacher(IMAGE))
    half = make_teacher(*(torch.randn(SHAPE).to(torch.bfloat16) for _ in range(3)), gumbel=gumbel)
    check_is_well_formed(half(IMAGE))


def test_sources_are_the_softmax_of_their_own_logits() -> None:
    diffusion, difficulty, mean_teacher = (2 * torch.randn(SHAPE) for _ in range(3))
    pseudo = make_teacher(diffusion, difficulty, mean_teacher)(IMAGE)
    for name, logits in ((Sources.DIFFUSION, diffusion), (Sources.DIFFICULTY, difficulty)):
        torch.testing.assert_close(pseudo.probabilities[name], torch.softmax(logits, dim=1))
    torch.testing.assert_close(pseudo.probabilities[Sources.MEAN_TEACHER], torch.softmax(mean_teacher, dim=1))
    torch.testing.assert_close(pseudo.mean_teacher_logits, mean_teacher)


def test_first_teacher_is_the_mean_of_the_smoothed_diffusion_map_and_the_difficulty_map() -> None:
    teacher = random_teacher()
    maps = teacher(IMAGE).probabilities
    expected = (teacher.smooth(maps[Sources.DIFFUSION]) + maps[Sources.DIFFICULTY]) / 2
    torch.testing.assert_close(maps[Sources.FIRST_TEACHER], expected)


@pytest.mark.parametrize("gumbel", [False, True])
def test_pseudo_label_is_the_ensemble_s_most_probable_class(gumbel: bool) -> None:
    pseudo = random_teacher(gumbel=gumbel)(IMAGE)
    ensemble = pseudo.probabilities[Sources.ENSEMBLE]
    assert torch.equal(pseudo.label, ensemble.argmax(dim=1, keepdim=True))
    assert len(pseudo.label.unique()) == 3


def test_noise_enters_the_ensemble_alone_and_not_the_entropies_that_weigh_it() -> None:
    logits = [2 * torch.randn(SHAPE) for _ in range(3)]
    plain = make_teacher(*logits)(IMAGE).probabilities
    teacher = make_teacher(*logits, gumbel=True, gumbel_temperature=0.7)
    torch.manual_seed(3)
    noised = teacher(IMAGE).probabilities
    for name in set(plain) - {Sources.ENSEMBLE}:
        assert torch.equal(noised[name], plain[name])
    torch.manual_seed(3)
    drawn = teacher.smooth(gumbel_softmax(plain[Sources.DIFFUSION], 0.7))
    first, second = plain[Sources.FIRST_TEACHER], plain[Sources.MEAN_TEACHER]
    w_1, w_2 = torch.exp(-entropy_bits(first)), torch.exp(-entropy_bits(second))
    expected = (w_1 * (drawn + plain[Sources.DIFFICULTY]) / 2 + w_2 * second) / (w_1 + w_2)
    torch.testing.assert_close(noised[Sources.ENSEMBLE], expected)
    assert not torch.allclose(noised[Sources.ENSEMBLE], plain[Sources.ENSEMBLE])


def test_nothing_carries_gradient() -> None:
    weight = torch.ones((), requires_grad=True)  # of a network
    logits = torch.randn(SHAPE)
    pseudo = DualTeacher(*(lambda _, i=i: (i + weight) * logits for i in range(3)))(IMAGE)
    assert not any(p.requires_grad for p in pseudo.probabilities.values())
    assert not pseudo.mean_teacher_logits.requires_grad
    assert not pseudo.label.requires_grad
    # made under no_grad, not inference_mode, whose tensors could not serve as targets in a backward pass
    assert not pseudo.probabilities[Sources.DIFFUSION].is_inference()


def test_label_is_that_of_the_teachers_who_are_asked() -> None:
    diffusion, difficulty, mean = (4 * torch.randn(SHAPE) for _ in range(3))
    labels = {
        teachers: make_teacher(diffusion, difficulty, mean, teachers=teachers)(IMAGE).label
        for teachers in ("both", "first", "mean")
    }
    maps = make_teacher(diffusion, difficulty, mean)(IMAGE).probabilities
    assert torch.equal(labels["mean"], mean.argmax(dim=1, keepdim=True))
    assert torch.equal(labels["first"], maps[Sources.FIRST_TEACHER].argmax(dim=1, keepdim=True))
    assert torch.equal(labels["both"], maps[Sources.ENSEMBLE].argmax(dim=1, keepdim=True))
    assert not torch.equal(labels["first"], labels["mean"])
    with pytest.raises(ValueError, match="teachers must be 'both', 'first' or 'mean', got 'second'"):
        random_teacher(teachers="second")


def test_label_of_the_first_teacher_is_drawn_with_its_noise() -> None:
    teacher = random_teacher(teachers="first", gumbel=True)
    assert not torch.equal(teacher(IMAGE).label, teacher(IMAGE).label)


def test_decoders_that_nobody_needs_are_not_asked() -> None:
    def never(image: Tensor) -> Tensor:
        raise AssertionError("asked")

    mean = torch.randn(SHAPE)
    pseudo = DualTeacher(never, never, lambda _: mean, teachers="mean", decoders=False)(IMAGE)
    assert list(pseudo.probabilities) == [Sources.MEAN_TEACHER]
    assert torch.equal(pseudo.label, mean.argmax(dim=1, keepdim=True))
    assert torch.equal(pseudo.mean_teacher_logits, mean)
    with pytest.raises(AssertionError, match="asked"):
        DualTeacher(never, never, lambda _: mean, teachers="mean")(IMAGE)  # distillation needs their maps


def test_teachers_may_be_averaged_as_equals() -> None:
    logits = [2 * torch.randn(SHAPE) for _ in range(3)]
    maps = make_teacher(*logits, ensemble="mean")(IMAGE).probabilities
    expected = (maps[Sources.FIRST_TEACHER] + maps[Sources.MEAN_TEACHER]) / 2
    torch.testing.assert_close(maps[Sources.ENSEMBLE], expected)
    assert not torch.allclose(expected, make_teacher(*logits)(IMAGE).probabilities[Sources.ENSEMBLE])
    with pytest.raises(ValueError, match="ensemble must be 'certainty' or 'mean', got 'median'"):
        random_teacher(ensemble="median")


@pytest.mark.parametrize("teachers", ["both", "first", "mean"])
def test_voxel_whose_class_is_not_probable_enough_has_no_label(teachers: str) -> None:
    logits = [2 * torch.randn(SHAPE) for _ in range(3)]
    pseudo = make_teacher(*logits, teachers=teachers, confidence=0.7)(IMAGE)
    source = {"both": Sources.ENSEMBLE, "first": Sources.FIRST_TEACHER, "mean": Sources.MEAN_TEACHER}[teachers]
    probability, label = pseudo.probabilities[source].max(dim=1, keepdim=True)
    assert torch.equal(pseudo.label == NO_LABEL, probability < 0.7)
    assert torch.equal(pseudo.label[probability >= 0.7], label[probability >= 0.7])
    assert 0 < int((pseudo.label == NO_LABEL).sum()) < pseudo.label.numel()
    alone = make_teacher(*logits, teachers="mean", decoders=False, confidence=0.7)(IMAGE)
    if teachers == "mean":
        assert torch.equal(alone.label, pseudo.label)


@pytest.mark.parametrize("confidence", [-0.1, 1.0])
def test_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"confidence must be within \[0, 1\), got"):
        random_teacher(confidence=confidence)
