# SPDX-License-Identifier: Apache-2.0
"""The training network: what it shares, what time changes, who gets gradients and whose statistics move."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor

from dtlp_components.errors import InputError
from dtlp_components.networks.blocks import TimeConditionedStage
from dtlp_components.networks.diffusion import LabelDiffusion
from dtlp_components.networks.dtlp_net import DTLPNet
from dtlp_components.networks.vnet import VNet
from dtlp_components.pseudo_labels.propagation import PropagationLoss

pytestmark = pytest.mark.usefixtures("seed")

PATCH = (32, 16, 48)
CLASSES = 3


def make_net(norm: str = "instance", features: int = 4, correlation_stage: int = 2, dropout: float = 0.0) -> DTLPNet:
    student = VNet(in_channels=1, num_classes=CLASSES, features=features, norm=norm, dropout=dropout)
    return DTLPNet(student, LabelDiffusion(CLASSES, ddim_steps=2), correlation_stage)


def inputs() -> tuple[Tensor, Tensor]:
    """Image (2, 1, …) and noisy label (2, C, …)."""
    return torch.rand(2, 1, *PATCH), torch.randn(2, CLASSES, *PATCH)


def steps(t: int) -> Tensor:
    return torch.full((2,), t)


def let_time_act(net: DTLPNet) -> None:
    """Time starts without effect; give it some."""
    for name, weight in net.named_parameters():
        if "scale_shift" in name:
            torch.nn.init.normal_(weight, std=0.5)


def test_network_of_another_kind_is_refused_by_name() -> None:
    message = (
        "network_def: expected .*like dtlp_components.VNet.*; got UNet, which lacks num_classes, features, stem, enc"
    )
    with pytest.raises(InputError, match=message):
        DTLPNet(UNet(3, 1, 3, (4, 8), (2,)), LabelDiffusion(num_classes=3))  # type: ignore[arg-type]


def test_student_is_shared_not_copied() -> None:
    student = VNet(num_classes=CLASSES, features=2)
    net = DTLPNet(student, LabelDiffusion(CLASSES))
    shared = {id(p) for p in net.parameters()}
    assert net.student is student
    assert all(id(p) in shared for p in student.parameters())
    image = torch.rand(1, 1, *PATCH)
    torch.testing.assert_close(net(image), student(image), rtol=0, atol=0)


def test_noisy_pass_goes_through_the_student_s_encoder_and_not_its_decoder() -> None:
    net, (image, noisy) = make_net(), inputs()
    net.denoise(image, noisy, steps(500))[0].square().mean().backward()
    used = {
        name.split(".")[1] for name, p in net.named_parameters() if name.startswith("student.") and p.grad is not None
    }
    assert used == {"encoder", "stem"}  # the stem by the image shortcut


def test_student_s_weights_hold_no_trace_of_time_or_diffusion() -> None:
    net = make_net()
    parts = {name.split(".")[0] for name in net.student.state_dict()}
    assert parts == {"stem", "encoder", "decoder"}
    assert list(net.student.state_dict()) == list(VNet(num_classes=CLASSES, features=4).state_dict())


def test_shapes_of_all_passes() -> None:
    net, (image, noisy) = make_net(), inputs()
    logits, features = net.denoise(image, noisy, steps(3))
    assert logits.shape == net.difficulty_logits(image).shape == net(image).shape == (2, CLASSES, *PATCH)
    assert [f.shape for f in features] == [f.shape for f in net.image_features(image)]
    with torch.no_grad():
        assert net.sample_labels(image).shape == (2, CLASSES, *PATCH)


@pytest.mark.parametrize("stage", range(5))
def test_correlation_features_have_the_chosen_stage_s_resolution(stage: int) -> None:
    net, (image, _) = make_net(correlation_stage=stage), inputs()
    expected = (2, 4 * 2**stage, *(side // 2**stage for side in PATCH))
    query, key = net.correlation_features(net.image_features(image))
    assert query.shape == key.shape == expected
    assert not torch.equal(query, key)


@pytest.mark.parametrize("stage", [-1, 5])
def test_unknown_correlation_stage_is_refused(stage: int) -> None:
    with pytest.raises(ValueError, match=f"within 0 and 4, got {stage}"):
        make_net(correlation_stage=stage)


def test_class_counts_must_agree() -> None:
    with pytest.raises(ValueError, match="diffusion has 4 classes, the student 3"):
        DTLPNet(VNet(num_classes=3, features=2), LabelDiffusion(num_classes=4))


def test_time_changes_the_features_of_every_resolution() -> None:
    net, (image, noisy) = make_net(), inputs()
    let_time_act(net)
    with torch.no_grad():
        early, early_features = net.denoise(image, noisy, steps(10))
        late, late_features = net.denoise(image, noisy, steps(900))
    assert not torch.allclose(early, late)
    assert len(early_features) == 5
    for one, other in zip(early_features, late_features, strict=True):
        assert not torch.allclose(one, other)


def test_time_reaches_every_convolution_of_a_noisy_pass() -> None:
    net, (image, noisy) = make_net(features=2), inputs()
    stages = [m for m in net.modules() if isinstance(m, TimeConditionedStage)]
    assert len(stages) == 2 + 4 + 4 + 4  # both stems, encoder, four times up, decoder
    layers = [layer for stage in stages for layer in stage.scale_shift]
    assert len(layers) == 2 + (3 + 4 + 4 + 4) + 4 + (3 + 3 + 2 + 1)  # each stage of the encoder begins with a down
    with torch.no_grad():
        plain = net.denoise(image, noisy, steps(900))[0]
        torch.testing.assert_close(net.denoise(image, noisy, steps(10))[0], plain)  # starts without effect
        for layer in layers:
            torch.nn.init.normal_(layer.weight)
            moved = [net.denoise(image, noisy, steps(t))[0] for t in (10, 900)]
            assert not torch.allclose(*moved, rtol=1e-4)
            torch.nn.init.zeros_(layer.weight)


def test_image_shortcut_adds_the_image_stem_to_the_diffusion_stem() -> None:
    image, noisy = inputs()
    torch.manual_seed(0)
    student, diffusion = VNet(num_classes=CLASSES, features=4), LabelDiffusion(CLASSES)
    net = DTLPNet(student, diffusion, image_shortcut=True)
    plain = DTLPNet(student, diffusion, image_shortcut=False)
    plain.load_state_dict(net.state_dict(), strict=False)
    with torch.no_grad():
        with_image = net.denoise(image, noisy, steps(500))[1][0]
        without = plain.denoise(image, noisy, steps(500))[1][0]
        torch.testing.assert_close(with_image, without + student.stem(image))


def test_image_passes_know_no_time() -> None:
    net, (image, _) = make_net(), inputs()
    with torch.no_grad():
        before = net(image), net.difficulty_logits(image)
        let_time_act(net)
        torch.testing.assert_close((net(image), net.difficulty_logits(image)), before, rtol=0, atol=0)


def test_both_volumes_of_a_batch_get_their_own_time() -> None:
    net, (image, noisy) = make_net(), inputs()
    let_time_act(net)
    with torch.no_grad():
        both = net.denoise(image, noisy, torch.tensor([10, 900]))[0]
        alone = [net.denoise(image[i : i + 1], noisy[i : i + 1], torch.tensor([t]))[0] for i, t in enumerate((10, 900))]
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-3, atol=1e-4)


def test_one_time_step_for_all_volumes_is_that_step_for_each() -> None:
    net, (image, noisy) = make_net(), inputs()
    let_time_act(net)
    with torch.no_grad():
        for_all, for_each = (net.denoise(image, noisy, torch.full((n,), 500))[0] for n in (1, 2))
    torch.testing.assert_close(for_all, for_each, rtol=1e-3, atol=1e-4)


def test_every_parameter_gets_a_gradient_from_the_four_losses() -> None:
    net, (image, noisy) = make_net(), inputs()
    let_time_act(net)
    label = torch.randint(CLASSES, (2, 1, *PATCH))
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    logits, features = net.denoise(image, noisy, torch.tensor([3, 700]))
    terms = [loss(z, label) for z in (logits, net.difficulty_logits(image), net(image))]
    terms.append(PropagationLoss(loss)(*net.correlation_features(features), logits, label))
    torch.stack(terms).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # biases before a norm and the keys' bias (a constant in each row of a softmax) have a gradient of zero
        assert parameter.dim() == 1 or parameter.grad.any(), name


@pytest.mark.parametrize("sampled", [False, True], ids=["noisy pass", "sampling"])
def test_noise_moves_no_statistic_that_image_passes_use(sampled: bool) -> None:
    net, (image, noisy) = make_net(norm="batch"), inputs()
    net.train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    with torch.no_grad():
        if sampled:
            net.sample_labels(image)
        else:
            net.denoise(image, noisy, steps(500))
    moved = {name for name, value in net.named_buffers() if not torch.equal(value, before[name])}
    assert moved
    assert all("own_norms" in name for name in moved)


def test_image_passes_move_no_statistic_that_noisy_passes_use() -> None:
    net, (image, _) = make_net(norm="batch"), inputs()
    net.train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    with torch.no_grad():
        net(image)
        net.difficulty_logits(image)
    moved = {name for name, value in net.named_buffers() if not torch.equal(value, before[name])}
    assert moved
    assert not any("own_norms" in name for name in moved)


def test_no_pass_in_eval_mode_moves_a_statistic() -> None:
    net, (image, noisy) = make_net(norm="batch"), inputs()
    net.eval()
    before = copy.deepcopy(dict(net.named_buffers()))
    with torch.no_grad():
        net(image)
        net.difficulty_logits(image)
        net.denoise(image, noisy, steps(5))
        net.sample_labels(image)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_aggregation_moves_the_student_s_decoder_a_share_of_the_way_to_the_mean_of_the_others() -> None:
    net, share = make_net(), 0.25
    theta = copy.deepcopy(dict(net.student.decoder.named_parameters()))
    others = copy.deepcopy([dict(d.named_parameters()) for d in (net.diffusion_decoder, net.difficulty_decoder)])
    encoder = copy.deepcopy(net.student.encoder.state_dict())
    net.aggregate_decoders(share)
    for name, parameter in net.student.decoder.named_parameters():
        mean = (others[0][name] + others[1][name]) / 2
        torch.testing.assert_close(parameter, (1 - share) * theta[name] + share * mean)
        assert torch.equal(net.diffusion_decoder.get_parameter(name), others[0][name])
        assert torch.equal(net.difficulty_decoder.get_parameter(name), others[1][name])
    torch.testing.assert_close(net.student.encoder.state_dict(), encoder, rtol=0, atol=0)


def test_channels_last_changes_no_logit() -> None:
    net, (image, noisy) = make_net(), inputs()
    let_time_act(net)
    other = copy.deepcopy(net)
    other.use_channels_last()
    assert other.diffusion_stem[0][0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    image_last = image.contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        expected = net.denoise(image, noisy, steps(500))[0], net.difficulty_logits(image)
        logits = other.denoise(image_last, noisy, steps(500))[0], other.difficulty_logits(image_last)
    torch.testing.assert_close(logits, expected, rtol=1e-2, atol=2e-3)  # rounding, in another order


def bytes_kept(net: DTLPNet) -> tuple[int, dict[str, Tensor]]:
    """Of all tensors kept for the way back of the three passes, each once; and the gradients."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(0)  # of inputs and dropout
    image, noisy = inputs()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        results = [net(image), net.difficulty_logits(image), net.denoise(image, noisy, torch.tensor([3, 700]))[0]]
    torch.stack([z.square().mean() for z in results]).sum().backward()
    return sum(kept.values()), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients() -> None:
    net = make_net(dropout=0.5)
    let_time_act(net)
    other = copy.deepcopy(net)
    other.use_gradient_checkpointing()
    (plain, expected), (less, gradients) = bytes_kept(net), bytes_kept(other)
    assert less < 0.6 * plain
    assert gradients.keys() == expected.keys()
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_refuses_batch_norm() -> None:
    with pytest.raises(ValueError, match="batch norm"):
        make_net(norm="batch").use_gradient_checkpointing()
