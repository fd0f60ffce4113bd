# SPDX-License-Identifier: Apache-2.0
"""The student network: shapes, norms, number formats, export."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtlp_components.networks.blocks import Conv3d, PointwiseConv3d, make_norm, norm_relu
from dtlp_components.networks.vnet import VNet

pytestmark = pytest.mark.usefixtures("seed")

PATCH = (32, 48, 16)
NORMS = ("instance", "group", "batch")


def test_logits_cover_the_patch_with_one_channel_per_class() -> None:
    net = VNet(in_channels=2, num_classes=5, features=4)
    assert net(torch.rand(3, 2, *PATCH)).shape == (3, 5, *PATCH)


def test_features_double_while_every_side_halves() -> None:
    features = VNet(features=4).image_features(torch.rand(2, 1, *PATCH))
    expected = [(2, 4 * 2**i, *(side // 2**i for side in PATCH)) for i in range(5)]
    assert [tuple(f.shape) for f in features] == expected


@pytest.mark.parametrize("patch_size", [(32, 48, 16), (16, 16, 32), (128, 128, 64)], ids=str)
def test_multiples_of_sixteen_are_accepted(patch_size: tuple[int, ...]) -> None:
    VNet.check_patch_size(patch_size)


@pytest.mark.parametrize(
    ("patch_size", "suggestion"),
    [
        ([30, 48, 16], [32, 48, 16]),
        ([32, 49, 16], [32, 48, 16]),
        ([32, 48, 8], [32, 48, 16]),
        ([0, 32, 32], [16, 32, 32]),
    ],
    ids=str,
)
def test_wrong_patch_size_is_named_with_the_multiple_and_a_size_that_fits(
    patch_size: list[int], suggestion: list[int]
) -> None:
    with pytest.raises(ValueError, match="multiple of 16") as error:
        VNet.check_patch_size(patch_size)
    assert f"patch_size {patch_size}" in str(error.value)
    assert f"e.g. {suggestion}" in str(error.value)
    VNet.check_patch_size(suggestion)


def test_patch_needs_three_sides() -> None:
    with pytest.raises(ValueError, match="three sides"):
        VNet.check_patch_size([32, 32])


def test_patch_of_one_deepest_voxel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[16, 16, 16\].*at least 32"):
        VNet.check_patch_size([16, 16, 16])


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_trains(norm: str) -> None:
    net = VNet(features=4, norm=norm)
    net(torch.rand(2, 1, 16, 32, 16)).square().mean().backward()
    weights = [p for p in net.parameters() if p.dim() > 1]  # the norm takes the convolutions' biases away again
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in weights)


def test_unknown_norm_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="instance, group, batch, got 'layer'"):
        VNet(norm="layer")


def test_instance_norm_is_torch_s() -> None:
    x = 3 + 2 * torch.randn(2, 6, 4, 5, 6)
    torch.testing.assert_close(make_norm("instance", 6)(x), nn.InstanceNorm3d(6)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(4, 4), (12, 4), (16, 8), (64, 8)])
def test_group_norm_has_at_most_eight_groups_of_equal_size(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups


@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_norm_keeps_statistics(norm: str) -> None:
    buffers = dict(VNet(features=4, norm=norm).named_buffers())
    assert bool(buffers) == (norm == "batch")


def test_dropout_acts_in_training_alone() -> None:
    net, x = VNet(features=4, dropout=0.5), torch.rand(1, 1, 16, 32, 16)
    assert not torch.equal(net(x), net(x))
    one, other = net.image_features(x), net.image_features(x)
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [True] * 4 + [False]  # at the deepest grid
    net.eval()
    torch.testing.assert_close(net(x), net(x), rtol=0, atol=0)


def test_scripted_network_gives_the_eager_one_s_logits_and_features() -> None:
    net, x = VNet(in_channels=1, num_classes=3, features=4).eval(), torch.rand(1, 1, *PATCH)
    scripted = torch.jit.script(net)
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), net(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scripted.image_features(x), net.image_features(x), rtol=1e-4, atol=1e-5)


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


def test_pointwise_convolution_is_torch_s_and_keeps_the_memory_format() -> None:
    conv, x = PointwiseConv3d(3, 4), torch.randn(2, 3, 4, 5, 6)
    x_last = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight = torch.randn(2, 4, 4, 5, 6)
    plain, fast = nn.functional.conv3d(x.requires_grad_(), conv.weight, conv.bias), conv(x_last)
    assert conv(x).is_contiguous() and fast.is_contiguous(memory_format=torch.channels_last_3d)
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


def test_gradients_under_autocast_are_finite_and_the_deepest_stage_is_float32() -> None:
    net, dtypes = VNet(features=4), set()
    deepest = [layer[0] for layer in net.encoder.stages[-1]][1:]  # the first is the 2x2x2 convolution that goes down
    for conv in deepest:
        conv.register_forward_hook(lambda _layer, _inputs, output: dtypes.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(torch.rand(2, 1, *PATCH))
    assert len(deepest) == 3 and dtypes == {torch.float32}
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_channels_last_changes_the_layout_of_all_but_the_deepest_stage_and_no_logit() -> None:
    net, x = VNet(num_classes=3, features=4), torch.rand(2, 1, *PATCH)
    other = VNet(num_classes=3, features=4, channels_last=True)
    other.load_state_dict(net.state_dict())
    for name, weight in other.named_parameters():
        if weight.dim() == 5 and name.startswith("encoder.stages.3."):
            assert weight.is_contiguous()
        elif weight.dim() == 5:
            assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    expected, logits = net(x), other(x.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(logits, expected, rtol=1e-2, atol=2e-3)  # rounding, in another order
