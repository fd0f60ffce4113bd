# SPDX-License-Identifier: Apache-2.0
"""The student network: shapes, norms, number formats, export."""

from __future__ import annotations

import pytest
import torch

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


@pytest.mark.slow
def test_scripted_network_gives_the_eager_one_s_logits_and_features() -> None:
    net, x = VNet(in_channels=1, num_classes=3, features=4).eval(), torch.rand(1, 1, *PATCH)
    scripted = torch.jit.script(net)
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), net(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scripted.image_features(x), net.image_features(x), rtol=1e-4, atol=1e-5)


def test_gradients_under_autocast_are_finite_and_the_deepest_stage_is_float32() -> None:
    net, dtypes = VNet(features=4), set()
    deepest = [layer[0] for layer in net.encoder.stages[-1]][1:]  # the first is the 2x2x2 convolution that goes down
    for conv in deepest:
        conv.register_forward_hook(lambda _layer, _inputs, output: dtypes.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(torch.rand(2, 1, *PATCH))
    assert len(deepest) == 3
    assert dtypes == {torch.float32}
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
