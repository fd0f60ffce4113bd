# SPDX-License-Identifier: Apache-2.0
"""Norms: torch's values and gradients, faster."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtlp_components.networks.norms import make_norm, norm_relu

pytestmark = pytest.mark.usefixtures("seed")  # what is left of a difference of sums depends on the numbers


def test_instance_norm_is_torch_s() -> None:
    x = 3 + 2 * torch.randn(2, 6, 4, 5, 6)
    torch.testing.assert_close(make_norm("instance", 6)(x), nn.InstanceNorm3d(6)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_instance_norm_stays_in_half_precision(dtype: torch.dtype) -> None:
    x = 3 + 2 * torch.randn(2, 6, 4, 5, 6)
    norm = make_norm("instance", 6)
    half = norm(x.to(dtype))
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), norm(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("channels", "groups"), [(4, 4), (12, 4), (16, 8), (64, 8)])
def test_group_norm_has_at_most_eight_groups_of_equal_size(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=str)
@pytest.mark.parametrize("volumes", [0, 1, 3], ids=["plain", "one scale for all", "a scale for each"])
def test_fast_instance_norm_gives_the_values_and_gradients_of_the_plain_one(
    memory_format: torch.memory_format, volumes: int
) -> None:
    norm = make_norm("instance", 5)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    # a mean far from zero: what a formula without care would lose digits to
    x = (torch.randn(3, 5, 4, 6, 7) + 10).contiguous(memory_format=memory_format).requires_grad_()
    scale, shift = torch.randn(volumes, 5, requires_grad=True), torch.randn(volumes, 5, requires_grad=True)
    modulation = [scale, shift] if volumes else []
    inputs = [x, norm.weight, norm.bias, *modulation]
    weight = torch.randn_like(x)

    fast = norm_relu(norm, x, *modulation)
    plain = norm(x)
    if volumes:
        plain = plain * scale[:, :, None, None, None] + shift[:, :, None, None, None]
    plain = torch.relu(plain)
    assert "InstanceNormReLU" in type(fast.grad_fn).__name__
    torch.testing.assert_close(fast, plain)
    with torch.no_grad():
        torch.testing.assert_close(norm_relu(norm, x, *modulation), fast, rtol=0, atol=0)
    for one, other in zip(
        torch.autograd.grad((fast * weight).sum(), inputs),
        torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("grid", [(8, 6, 7), (1, 9, 4), (9, 1, 4), (6, 5, 1)], ids=str)
@pytest.mark.parametrize("volumes", [0, 1, 3], ids=["plain", "one scale for all", "a scale for each"])
def test_instance_norm_in_half_precision_gives_the_values_and_gradients_of_float32(
    dtype: torch.dtype, grid: tuple[int, ...], volumes: int
) -> None:
    norm = make_norm("instance", 5)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    # a mean far from zero, and numbers that half precision has, so that only the computing is compared
    x = (torch.randn(3, 5, *grid) + 10).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    modulation = [torch.randn(volumes, 5, requires_grad=True) for _ in range(2)] if volumes else []
    weight = torch.randn(x.shape)
    results = []
    for computed_in in (torch.float32, dtype):
        of_x = x.to(computed_in).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = norm_relu(norm, of_x, *modulation)
        assert (y.dtype, y.is_contiguous(memory_format=torch.channels_last_3d)) == (computed_in, True)
        with torch.no_grad():
            torch.testing.assert_close(norm_relu(norm, of_x, *modulation), y, rtol=0, atol=0)
        inputs = [of_x, norm.weight, norm.bias, *modulation]
        results.append([y, *torch.autograd.grad((y.float() * weight).sum(), inputs)])
    assert "InHalf" in type(y.grad_fn).__name__
    for plain, half in zip(*results, strict=True):
        assert (half.float() - plain).norm() < 1e-2 * plain.norm()


def test_instance_norm_in_double_precision_is_left_to_torch() -> None:
    norm = make_norm("instance", 5).double()
    x = (torch.randn(2, 5, 4, 6, 7) + 10).double().contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(norm_relu(norm, x), torch.relu(norm(x)), rtol=0, atol=0)
