# SPDX-License-Identifier: Apache-2.0
"""Convolutions: torch's values and gradients, faster."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtlp_components.networks.blocks import Conv3d, PointwiseConv3d


def test_pointwise_convolution_is_torch_s_and_keeps_the_memory_format() -> None:
    conv, x = PointwiseConv3d(3, 4), torch.randn(2, 3, 4, 5, 6)
    x_last = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight = torch.randn(2, 4, 4, 5, 6)
    plain, fast = nn.functional.conv3d(x.requires_grad_(), conv.weight, conv.bias), conv(x_last)
    assert conv(x).is_contiguous()
    assert fast.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(conv(x), plain)
    torch.testing.assert_close(fast, plain)
    for one, other in zip(
        torch.autograd.grad((fast * weight).sum(), [x_last, conv.weight, conv.bias]),
        torch.autograd.grad((plain * weight).sum(), [x, conv.weight, conv.bias]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("grid", [(1, 2, 3), (2, 3, 2)], ids=str)
def test_convolution_as_a_matrix_product_is_the_convolution(grid: tuple[int, ...]) -> None:
    conv, x = Conv3d(3, 4), torch.randn(2, 3, *grid, requires_grad=True)
    weight = torch.randn(2, 4, *grid)
    plain = nn.functional.conv3d(x, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), plain)
    inputs = [x, conv.weight, conv.bias]
    for one, other in zip(
        torch.autograd.grad((conv(x) * weight).sum(), inputs),
        torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("grid", [(1, 2, 3), (2, 3, 2), (3, 2, 2), (4, 5, 6)], ids=str)
def test_convolution_leaves_autocast_on_grids_whose_first_side_is_two_or_less(grid: tuple[int, ...]) -> None:
    conv, x = Conv3d(8, 8), torch.randn(2, 8, *grid)
    exact = torch.autograd.grad(conv(x).square().sum(), conv.weight)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert y.dtype == (torch.float32 if grid[0] <= 2 else torch.bfloat16)
    gradient = torch.autograd.grad(y.float().square().sum(), conv.weight)[0]
    # bfloat16 has 8 bits: 1 % of the largest entry is what rounding may cost
    torch.testing.assert_close(gradient, exact, rtol=0, atol=0.01 * exact.abs().max().item())
