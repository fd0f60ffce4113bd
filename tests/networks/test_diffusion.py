# SPDX-License-Identifier: Apache-2.0
"""Noising and sampling of label maps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dtlp_components.networks.diffusion import LabelDiffusion

pytestmark = pytest.mark.usefixtures("seed")

SHAPE = (2, 3, 4, 5, 6)  # (B, C, D, H, W)
CPU = torch.device("cpu")
# the linear schedule: beta from 1e-4 to 0.02 in 1000 steps
ALPHA_BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0).float()


def random_label() -> Tensor:
    return torch.randint(3, (2, 1, 4, 5, 6))


def at_level(clean: Tensor, noise: Tensor, step: int) -> Tensor:
    """Eq. 1."""
    return ALPHA_BAR[step].sqrt() * clean + (1 - ALPHA_BAR[step]).sqrt() * noise


def test_ten_steps_are_999_899_to_99() -> None:
    assert LabelDiffusion(num_classes=3).scheduler.timesteps.tolist() == list(range(999, 0, -100))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 1000])
def test_any_number_of_steps_starts_from_noise_and_costs_that_many_calls(steps: int) -> None:
    timesteps = LabelDiffusion(num_classes=3, ddim_steps=steps).scheduler.timesteps
    assert len(timesteps) == steps
    assert timesteps[0] == 999
    assert timesteps[-1] >= 0


@pytest.mark.parametrize("steps", [2, 3, 10])
def test_a_step_jumps_to_the_level_the_network_is_told_next(steps: int) -> None:
    scheduler = LabelDiffusion(num_classes=3, ddim_steps=steps).scheduler
    clean, noise = torch.rand(SHAPE), torch.randn(SHAPE)
    told = scheduler.timesteps.tolist()
    for here, there in pairwise(told):
        y_t, _ = scheduler.step(clean, here, at_level(clean, noise, here))
        torch.testing.assert_close(y_t, at_level(clean, noise, there), rtol=1e-4, atol=1e-3)


def test_clean_label_is_one_for_its_class_and_minus_one_elsewhere() -> None:
    label = random_label()
    clean = LabelDiffusion(num_classes=3).clean_from_label(label)
    assert clean.shape == SHAPE
    for k in range(3):
        assert torch.equal(clean[:, k], torch.where(label[:, 0] == k, 1.0, -1.0))


def test_clean_samples_sum_to_two_minus_the_number_of_classes() -> None:
    diffusion = LabelDiffusion(num_classes=3)
    expected = torch.full((2, 4, 5, 6), 2.0 - 3)
    torch.testing.assert_close(diffusion.clean_from_label(random_label()).sum(dim=1), expected)
    torch.testing.assert_close(diffusion.clean_from_logits(5 * torch.randn(SHAPE)).sum(dim=1), expected)


def test_clean_sample_of_logits_lies_between_minus_one_and_one_and_ignores_a_shift() -> None:
    logits, shift = 100 * torch.randn(SHAPE), 50 * torch.randn(2, 1, 4, 5, 6)
    diffusion = LabelDiffusion(SHAPE[1])
    clean = diffusion.clean_from_logits(logits)
    assert clean.min() >= -1
    assert clean.max() <= 1
    torch.testing.assert_close(diffusion.clean_from_logits(logits + shift), clean, rtol=1e-3, atol=1e-4)


def test_clamped_sampler_ties_classes_where_the_other_one_does_not() -> None:
    # two classes beyond 1: A&D's sampler cannot tell them apart, although one is e^3 times as likely
    logits = torch.tensor([5.0, 2.0, -4.0]).view(1, 3, 1, 1, 1)
    labels = {}
    for kind in ("softmax", "clamp"):
        diffusion = LabelDiffusion(3, ddim_steps=2, clean_sample=kind)
        sample = diffusion.sample(lambda y_t, t: logits, (1, 3, 1, 1, 1), torch.device("cpu"))
        labels[kind] = sample.flatten().tolist()
    assert labels == {"softmax": [5.0, 2.0, -4.0], "clamp": [1.0, 1.0, -1.0]}
    with pytest.raises(ValueError, match="clean_sample must be 'softmax' or 'clamp', got 'tanh'"):
        LabelDiffusion(3, clean_sample="tanh")


def test_noise_is_added_by_equation_1_with_a_level_per_volume() -> None:
    diffusion = LabelDiffusion(num_classes=3)
    clean = diffusion.clean_from_label(random_label())
    torch.manual_seed(7)
    y_t = diffusion.add_noise(clean, torch.tensor([250, 800]))
    torch.manual_seed(7)
    noise = torch.randn(SHAPE)
    expected = torch.stack([at_level(clean[0], noise[0], 250), at_level(clean[1], noise[1], 800)])
    torch.testing.assert_close(y_t, expected, rtol=1e-4, atol=1e-4)


def test_first_time_step_is_almost_clean_and_last_almost_noise() -> None:
    diffusion, label = LabelDiffusion(num_classes=3), random_label()
    clean = diffusion.clean_from_label(label)
    first, last = torch.tensor([0, 0]), torch.tensor([999, 999])
    # sqrt(1 - alpha_bar_0) = sqrt(1e-4) = 0.01, and no normal number of so few is beyond 6
    assert (diffusion.add_noise(clean, first) - clean).abs().max() < 0.06
    # the same noise on opposite maps: they differ by 2 sqrt(alpha_bar_999) = 0.013
    torch.manual_seed(7)
    one = diffusion.add_noise(clean, last)
    torch.manual_seed(7)
    other = diffusion.add_noise(-clean, last)
    assert (one - other).abs().max() < 0.02
    assert one.std() == pytest.approx(1, abs=0.15)


def test_half_precision_map_leaves_the_noise_table_in_float32() -> None:
    diffusion, step = LabelDiffusion(num_classes=3), torch.tensor([500, 500])
    assert diffusion.add_noise(torch.ones(SHAPE, dtype=torch.bfloat16), step).dtype == torch.float32
    assert diffusion.scheduler.alphas_cumprod.dtype == torch.float32


def test_random_time_steps_cover_the_whole_chain() -> None:
    t = LabelDiffusion(num_classes=3, num_train_timesteps=5, ddim_steps=5).random_timesteps(500, CPU)
    assert t.shape == (500,)
    assert t.dtype == torch.int64
    assert set(t.tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_perfect_logits_survive_ten_steps_at_any_scale_and_shift(scale: float, shift: float) -> None:
    diffusion, label = LabelDiffusion(num_classes=3), random_label()
    onehot = torch.nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1).float()
    perfect = scale * onehot + shift * torch.randn(2, 1, 4, 5, 6)
    clean = 2 * torch.softmax(perfect, dim=1) - 1
    seen: list[Tensor] = []

    def denoise(y_t: Tensor, _t: Tensor) -> Tensor:
        seen.append(y_t)
        return perfect

    logits = diffusion.sample(denoise, SHAPE, CPU)
    assert torch.equal(logits.argmax(dim=1, keepdim=True), label)
    # the way there: each map the network meets is its own prediction at that step's level, in the first map's noise
    noise = (seen[0] - ALPHA_BAR[999].sqrt() * clean) / (1 - ALPHA_BAR[999]).sqrt()
    for y_t, step in zip(seen, range(999, 0, -100), strict=True):
        torch.testing.assert_close(y_t, at_level(clean, noise, step), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_sampling_calls_the_network_once_per_step_and_returns_its_last_logits(steps: int) -> None:
    diffusion = LabelDiffusion(num_classes=3, ddim_steps=steps)
    told, given = [], []

    def denoise(y_t: Tensor, t: Tensor) -> Tensor:
        assert y_t.shape == SHAPE
        assert t.shape == (1,)
        told.append(int(t[0]))
        given.append(torch.randn(SHAPE))
        return given[-1]

    logits = diffusion.sample(denoise, SHAPE, CPU)
    assert told == diffusion.scheduler.timesteps.tolist()
    assert len(told) == steps
    assert logits is given[-1]


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_number_of_steps_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"ddim_steps must be within 1 and 1000, got {steps}"):
        LabelDiffusion(num_classes=3, ddim_steps=steps)
