# SPDX-License-Identifier: Apache-2.0
"""The trainer with a tiny network on random volumes: its terms, switches, gradients and stops."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.transforms import Compose, RandGaussianNoised
from torch import Tensor, nn

from dtlp_components.data.loaders import EndlessDataLoader
from dtlp_components.engines.student_trainer import loss_terms
from dtlp_components.engines.trainer import WEIGHTED_TERMS, DTLPTrainer
from dtlp_components.errors import NonFiniteError
from dtlp_components.handlers.checkpoints import TrainingCheckpoint
from dtlp_components.keys import LossTerms as Terms
from dtlp_components.keys import TrainingEvents, TrainingStreams
from dtlp_components.losses.consistency import DistillationLoss, MaskedReconstructionLoss
from dtlp_components.losses.difficulty import DifficultyAwareLoss
from dtlp_components.losses.partial import PartialDiceCELoss
from dtlp_components.networks.diffusion import LabelDiffusion
from dtlp_components.networks.dtlp_net import DTLPNet
from dtlp_components.networks.mean_teacher import MeanTeacher
from dtlp_components.networks.vnet import VNet
from dtlp_components.pseudo_labels.dual_teacher import DualTeacher
from dtlp_components.pseudo_labels.propagation import PropagationLoss
from dtlp_components.transforms.mixing import BlockMask, CrossSetCutMix
from dtlp_components.transforms.strong_view import StrongView

pytestmark = pytest.mark.usefixtures("seed")

CLASSES, PATCH = 3, (16, 32, 16)
LOSS = PartialDiceCELoss()
NO_UNLABELED_TERM = dict.fromkeys((Terms.CUTMIX, Terms.MASKED, Terms.DISTILLATION, Terms.RECONSTRUCTION), 0.0)
UNLABELED_TERMS = {Terms.CUTMIX, Terms.MASKED, Terms.DISTILLATION, Terms.RECONSTRUCTION, Terms.UNLABELED}


def labeled_case(seed: int) -> dict[str, Tensor]:
    """A volume (1, 16, 32, 16) whose intensities show its classes."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(1, *PATCH, dtype=torch.int64)
    label[:, 2 + seed % 3 : 9, 4:20, 3:12] = 1
    label[:, 9:14, 16:28, 5 : 13 + seed % 3] = 2
    return {"image": label + 0.3 * torch.randn(1, *PATCH, generator=generator), "label": label}


def batches(count: int, first: int, labels: bool = True) -> list[dict[str, Tensor]]:
    """Five batches of ``count`` volumes."""
    keys = ("image", "label") if labels else ("image",)
    found = []
    for i in range(5):
        items = [labeled_case(first + i * count + j) for j in range(count)]
        found.append({key: torch.stack([item[key] for item in items]) for key in keys})
    return found


def make_trainer(
    weights: dict[str, float] | None = None,
    norm: str = "instance",
    labeled: Any = None,
    unlabeled: Any = "as usual",
    kind: type[DTLPTrainer] = DTLPTrainer,
    net: DTLPNet | None = None,
    **kwargs: Any,
) -> DTLPTrainer:
    """A trainer of two labeled and three unlabeled volumes with all weights 1 but those given."""
    torch.manual_seed(0)
    student = VNet(num_classes=CLASSES, features=4, norm=norm)
    net = net or DTLPNet(student, LabelDiffusion(CLASSES, ddim_steps=2), correlation_stage=2)
    teacher = MeanTeacher(net.student)
    settings: dict[str, Any] = {
        "device": "cpu",
        "max_epochs": 1,
        "epoch_length": 1,
        "train_data_loader": batches(2, first=0) if labeled is None else labeled,
        "unlabeled_data_loader": cycle(batches(3, first=50, labels=False)) if unlabeled == "as usual" else unlabeled,
        "network": net,
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True),
        "loss_function": LOSS,
        "mean_teacher": teacher,
        "pseudo_labeler": DualTeacher(net.sample_labels, net.difficulty_logits, teacher),
        "difficulty_loss": DifficultyAwareLoss(CLASSES),
        "reconstruction_loss": MaskedReconstructionLoss(),
        "distillation_loss": DistillationLoss(),
        "propagation_loss": PropagationLoss(LOSS),
        "strong_view": StrongView([]),
        "cutmix": CrossSetCutMix(),
        "block_mask": BlockMask(),
        "weights": {**dict.fromkeys(WEIGHTED_TERMS, 1.0), **(weights or {})},
        "ramp_up": lambda iteration: 1.0,
        **kwargs,
    }
    return kind(**settings)


def train(trainer: DTLPTrainer) -> list[dict[str, float]]:
    """Run, and return the scalars of every iteration."""
    scalars: list[dict[str, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: scalars.append(loss_terms(engine.state.output))
    )
    torch.manual_seed(1)
    trainer.run()
    return scalars


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_every_term_is_there_and_finite_and_their_weighted_sum_is_the_loss() -> None:
    weights = {name: 0.1 * (i + 1) for i, name in enumerate(WEIGHTED_TERMS)}
    (output,) = train(make_trainer(weights))
    assert set(output) == {"loss", "ramp_up", "grad_norm", "learning_rate", "difficulty_weight", *Terms}
    assert all(torch.isfinite(torch.tensor(list(output.values()))))
    assert all(output[name] > 0 for name in Terms)
    assert output["loss"] == pytest.approx(sum(weights[name] * output[name] for name in Terms), rel=1e-5)


@pytest.mark.slow
def test_training_learns_from_both_sets() -> None:
    outputs = train(make_trainer(norm="group", epoch_length=5, max_epochs=3))
    start, end = outputs[:5], outputs[-5:]
    for name in (Terms.DENOISING, Terms.DIFFICULTY, Terms.STUDENT_LABELED, Terms.CUTMIX, Terms.MASKED):
        assert sum(o[name] for o in end) < 0.9 * sum(o[name] for o in start), name


def test_state_holds_the_labeled_batch_and_scalars_and_model_completed_is_fired() -> None:
    trainer, fired = make_trainer(), []
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda engine: fired.append(engine.state.iteration))
    train(trainer)
    output = trainer.state.output
    assert fired == [1]
    assert {name for name, value in output.items() if not isinstance(value, float)} == {"image", "label"}
    assert output["image"].shape == output["label"].shape == (2, 1, *PATCH)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        Terms.CUTMIX,
        Terms.MASKED,
        Terms.RECONSTRUCTION,
        Terms.DISTILLATION,
        Terms.CORRELATION,
        Terms.UNLABELED,
        Terms.STUDENT_LABELED,
    ],
)
def test_weight_of_zero_switches_its_stream_off(name: Terms) -> None:
    (output,) = train(make_trainer({name: 0.0}))
    assert name not in output
    assert set(Terms) - {name} <= set(output)


def test_masked_images_are_not_predicted_where_both_their_weights_are_zero() -> None:
    (output,) = train(make_trainer({Terms.MASKED: 0.0, Terms.RECONSTRUCTION: 0.0}))
    assert not {Terms.MASKED, Terms.RECONSTRUCTION} & set(output)


def test_terms_of_weight_zero_are_left_out_of_flows_that_others_share() -> None:
    weights = {Terms.DENOISING: 0.0, Terms.DIFFICULTY: 0.0}
    (output,) = train(make_trainer(weights, student_difficulty_weights=False))
    assert set(output) & set(Terms) == set(Terms) - set(weights)
    assert output["loss"] == pytest.approx(sum(output[name] for name in set(Terms) - set(weights)), rel=1e-5)


def test_flows_whose_weights_are_all_zero_are_not_run() -> None:
    def streams_of(*terms: Terms) -> list[TrainingStreams]:
        weights = {**dict.fromkeys(Terms, 0.0), **dict.fromkeys(terms, 1.0)}
        trainer, streams = make_trainer(weights, student_difficulty_weights=False), []
        trainer.pseudo_labeler = watched = Counted(trainer.pseudo_labeler)
        trainer.add_event_handler(TrainingEvents.STREAM_COMPLETED, lambda engine: streams.append(engine.state.stream))
        train(trainer)
        assert watched.calls == (TrainingStreams.TEACHERS in streams)
        return [stream for stream in streams if stream not in (TrainingStreams.BATCH, TrainingStreams.STEP)]

    assert streams_of(Terms.STUDENT_LABELED) == [TrainingStreams.DIFFICULTY]
    assert streams_of(Terms.DENOISING) == [TrainingStreams.DIFFUSION]
    assert streams_of(Terms.CUTMIX) == [TrainingStreams.TEACHERS, TrainingStreams.MIXED]


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Any) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.function(*args)


@pytest.mark.parametrize(("source", "term"), [("diffusion", Terms.DENOISING), ("difficulty", Terms.DIFFICULTY)])
def test_class_weights_need_the_flow_that_they_come_from(source: str, term: Terms) -> None:
    with pytest.raises(ValueError, match=rf"weights::{term} must be above 0, since difficulty_source '{source}'"):
        make_trainer({term: 0.0}, difficulty_source=source)


def test_teachers_in_train_mode_move_the_statistics_of_batch_norm() -> None:
    weights = {**dict.fromkeys(Terms, 0.0), Terms.DENOISING: 1.0, Terms.UNLABELED: 1.0}
    moved = {}
    for mode in ("eval", "train"):
        trainer = make_trainer(weights, norm="batch", student_difficulty_weights=False, teacher_mode=mode)
        decoder = trainer.network.difficulty_decoder  # which no term trains, and the teachers' pass alone runs
        before = state_of(decoder)
        train(trainer)
        moved[mode] = changed(decoder, before)
    assert not moved["eval"]
    assert any(name.endswith("running_mean") for name in moved["train"])


def test_without_unlabeled_data_the_student_alone_trains_on_true_labels_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = make_trainer(unlabeled=None, epoch_length=2, max_epochs=2)
    before = state_of(trainer.network)
    outputs = train(trainer)
    assert all(set(output) == {"loss", "grad_norm", "learning_rate", Terms.STUDENT_LABELED} for output in outputs)
    assert all(output["loss"] == output[Terms.STUDENT_LABELED] for output in outputs)
    moved = changed(trainer.network, before)
    assert moved
    assert all(name.startswith("student.") for name in moved)
    assert caplog.text.count("labeled-only baseline") == 1


@pytest.mark.slow
def test_labeled_only_training_ignores_the_weights() -> None:
    plain, other = (
        train(make_trainer({Terms.STUDENT_LABELED: w, Terms.CUTMIX: 0.0}, unlabeled=None)) for w in (1.0, 0.3)
    )
    assert plain == other


@pytest.mark.parametrize("count", [1, 4])
def test_number_of_unlabeled_volumes_may_differ_from_that_of_labeled_ones(count: int) -> None:
    (output,) = train(make_trainer(unlabeled=batches(count, first=50, labels=False)))
    assert set(Terms) <= set(output)


@pytest.mark.slow
def test_loaders_run_on_independently() -> None:
    drawn: list[int] = []

    def endless() -> Iterator[dict[str, Tensor]]:
        for i, batch in enumerate(batches(3, first=50, labels=False)):
            drawn.append(i)
            yield batch

    train(make_trainer(unlabeled=endless(), epoch_length=2, max_epochs=2, weights={**NO_UNLABELED_TERM}))
    assert drawn == [0, 1, 2, 3]  # goes on where the labeled loader's epoch ends


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_teacher_passes_leave_buffers_modes_and_gradients_alone(norm: str) -> None:
    trainer = make_trainer(norm=norm)
    labeler, net, teacher = trainer.pseudo_labeler, trainer.network, trainer.mean_teacher
    net.student.decoder.dropout.p = net.diffusion_decoder.dropout.p = 0.5
    seen = []

    def watched(image: Tensor) -> Any:
        assert not net.training
        assert not teacher.training
        before = state_of(net), state_of(teacher)
        gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
        pseudo = labeler(image)
        assert not changed(net, before[0])
        assert not changed(teacher, before[1])
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            assert (parameter.grad is None) == (gradient is None)
            assert gradient is None or torch.equal(parameter.grad, gradient)
        assert not any(p.requires_grad for p in pseudo.probabilities.values())
        seen.append(len(image))
        return pseudo

    trainer.pseudo_labeler = watched
    train(trainer)
    assert seen == [3]
    assert net.training
    assert not any(p.grad is not None for p in teacher.parameters())


@pytest.mark.slow
def test_statistics_of_the_student_do_not_depend_on_how_often_the_diffusion_teacher_samples() -> None:
    def statistics(ddim_steps: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        student = VNet(num_classes=CLASSES, features=4, norm="batch")
        net = DTLPNet(student, LabelDiffusion(CLASSES, ddim_steps=ddim_steps))
        train(make_trainer(net=net, weights={**NO_UNLABELED_TERM, Terms.CORRELATION: 0.0, Terms.UNLABELED: 0.0}))
        return {name: value.clone() for name, value in net.student.named_buffers()}

    few, many = statistics(1), statistics(4)
    assert few
    assert all(torch.equal(few[name], many[name]) for name in few)


def test_term_that_is_not_a_number_stops_training_by_name_and_changes_no_parameter() -> None:
    trainer = make_trainer(distillation_loss=lambda logits, targets: logits.sum() * float("nan"))
    before = state_of(trainer.network), state_of(trainer.mean_teacher)
    with pytest.raises(NonFiniteError, match=r"iteration 1: not finite: .*kd = nan") as error:
        train(trainer)
    assert "deno" not in str(error.value)
    assert not changed(trainer.network, before[0])
    assert not changed(trainer.mean_teacher, before[1])


@pytest.mark.slow
def test_weight_that_is_not_a_number_stops_training() -> None:
    trainer = make_trainer({Terms.CUTMIX: float("nan")})
    before = state_of(trainer.network)
    with pytest.raises(NonFiniteError, match="loss = nan"):
        train(trainer)
    assert not changed(trainer.network, before)


def test_broken_image_stops_training() -> None:
    labeled = batches(2, first=0)
    labeled[0]["image"][1, 0, 3, 4, 5] = float("nan")
    trainer = make_trainer(labeled=labeled, unlabeled=None)
    before = state_of(trainer.network)
    with pytest.raises(NonFiniteError, match="student_labeled = nan"):
        train(trainer)
    assert not changed(trainer.network, before)


def test_gradient_that_is_not_finite_stops_training_although_the_loss_is() -> None:
    trainer = make_trainer(unlabeled=None)
    weight = trainer.network.student.stem[0][0].weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = state_of(trainer.network)
    with pytest.raises(NonFiniteError, match=r"not finite: grad_norm = (nan|inf)"):
        train(trainer)
    assert not changed(trainer.network, before)


def test_gradients_are_clipped_to_the_norm() -> None:
    trainer = make_trainer(max_grad_norm=1e-3)
    (output,) = train(trainer)
    norm = torch.stack([p.grad.norm() for p in trainer.network.parameters() if p.grad is not None]).norm()
    assert output["grad_norm"] > 1e-2  # what is reported is the norm before
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_weights_must_name_every_term_and_no_other(change: str) -> None:
    weights = dict.fromkeys(WEIGHTED_TERMS, 1.0)
    if change == "missing":
        del weights[Terms.CUTMIX]
        with pytest.raises(ValueError, match=r"weights must name .*mix.*, got"):
            make_trainer_with(weights)
    else:
        with pytest.raises(ValueError, match=r"got .*alpha"):
            make_trainer_with({**weights, "alpha": 1.0})


def make_trainer_with(weights: dict[str, float]) -> DTLPTrainer:
    trainer = make_trainer()
    arguments = (
        "optimizer", "mean_teacher", "pseudo_labeler", "difficulty_loss", "reconstruction_loss", "propagation_loss",
        "distillation_loss", "cutmix", "block_mask", "strong_view", "ramp_up",
    )  # fmt: skip
    parts = {name: getattr(trainer, name) for name in arguments}
    return DTLPTrainer(
        "cpu", 1, [], trainer.network, loss_function=None, unlabeled_data_loader=None, weights=weights, **parts
    )


def test_what_the_iteration_does_not_do_is_refused() -> None:
    with pytest.raises(ValueError, match="does not support compile"):
        make_trainer(compile=True)


def test_unknown_source_of_difficulty_is_refused() -> None:
    with pytest.raises(ValueError, match="'diffusion' or 'difficulty', got 'student'"):
        make_trainer(difficulty_source="student")


def test_nothing_is_done_with_unlabeled_images_during_burn_in() -> None:
    (output,) = train(make_trainer(ramp_up=lambda iteration: 0.0, pseudo_labeler=None))
    assert set(output) & set(Terms) == {Terms.DENOISING, Terms.CORRELATION, Terms.DIFFICULTY, Terms.STUDENT_LABELED}


@pytest.mark.slow
def test_student_weighs_classes_by_difficulty_only_if_asked_to() -> None:
    outputs = {
        weighted: train(make_trainer(student_difficulty_weights=weighted, epoch_length=2))[-1]
        for weighted in (True, False)
    }
    assert outputs[True][Terms.STUDENT_LABELED] != outputs[False][Terms.STUDENT_LABELED]


@pytest.mark.slow
def test_ramp_up_scales_the_unlabeled_terms_alone() -> None:
    (whole,) = train(make_trainer({Terms.CORRELATION: 0.0}))
    (part,) = train(make_trainer({Terms.CORRELATION: 0.0}, ramp_up=lambda iteration: 0.25))
    terms = set(Terms) - {Terms.CORRELATION}
    for name in terms:  # what is logged is the term before weight and ramp-up
        assert part[name] == pytest.approx(whole[name], rel=1e-5)
    expected = sum((0.25 if name in UNLABELED_TERMS else 1) * whole[name] for name in terms)
    assert part["loss"] == pytest.approx(expected, rel=1e-5)
    assert (part["ramp_up"], whole["ramp_up"]) == (0.25, 1.0)


def test_ramp_up_scales_the_unlabeled_share_of_the_propagation_alone() -> None:
    def total(ramp: float) -> float:
        weights = dict.fromkeys(WEIGHTED_TERMS, 0.0)
        return train(make_trainer({**weights, Terms.CORRELATION: 1.0}, ramp_up=lambda _: ramp))[0]["loss"]

    none, half, whole = total(0.0), total(0.5), total(1.0)
    assert 0 < none < whole
    assert half == pytest.approx((none + whole) / 2, rel=1e-4)


@pytest.mark.slow
def test_ramp_up_is_told_iterations_from_zero() -> None:
    told = []
    train(
        make_trainer(ramp_up=lambda i: told.append(i) or 1.0, epoch_length=2, max_epochs=2, weights=NO_UNLABELED_TERM)
    )
    assert told == [0, 1, 2, 3]


@pytest.mark.slow
def test_reconstruction_is_the_mean_over_all_volumes_towards_the_teacher_on_whole_images() -> None:
    targets = []

    def number_of_volumes(logits: Tensor, teacher_logits: Tensor) -> Tensor:
        targets.append(teacher_logits)
        return 0 * logits.flatten(1).sum(dim=1) + len(logits)

    trainer = make_trainer(reconstruction_loss=number_of_volumes)
    teacher = copy.deepcopy(trainer.mean_teacher)
    (output,) = train(trainer)
    # three unlabeled volumes of value 3 and two labeled of value 2
    assert output[Terms.RECONSTRUCTION] == pytest.approx((3 * 3 + 2 * 2) / (3 + 2))
    images = batches(3, first=50)[0]["image"], batches(2, first=0)[0]["image"]
    for target, image in zip(targets, images, strict=True):
        torch.testing.assert_close(target, teacher(image), rtol=1e-2, atol=2e-3)


@pytest.mark.slow
def test_recycling_noises_the_network_s_own_prediction() -> None:
    def noised(recycling: float) -> Tensor:
        trainer, maps = make_trainer(recycling=recycling, weights=NO_UNLABELED_TERM), []
        add_noise = trainer.network.diffusion.add_noise
        trainer.network.diffusion.add_noise = lambda clean, t: maps.append(clean) or add_noise(clean, t)
        (output,) = train(trainer)
        assert all(torch.isfinite(torch.tensor(list(output.values()))))
        return maps[0]

    label = batches(2, first=0)[0]["label"]
    truth = LabelDiffusion(CLASSES).clean_from_label(label)
    assert torch.equal(noised(0.0), truth)
    own = noised(1.0)
    assert own.shape == truth.shape
    assert not own.requires_grad
    assert not torch.allclose(own, truth)
    torch.testing.assert_close(own.sum(dim=1), torch.full((2, *PATCH), 2.0 - CLASSES))


@pytest.mark.parametrize("source", ["diffusion", "difficulty"])
def test_difficulty_follows_the_dice_of_the_chosen_decoder(source: str) -> None:
    trainer, predicted = make_trainer(difficulty_source=source, weights=NO_UNLABELED_TERM), {}
    net, observe = trainer.network, trainer.difficulty_loss.observe

    def remember(name: str) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, logits: Tensor) -> None:
            predicted.setdefault(name, logits.argmax(dim=1, keepdim=True))

        return hook

    def watched(prediction: Tensor, label: Tensor) -> Tensor:
        predicted["used"] = prediction
        return observe(prediction, label)

    net.diffusion_decoder.head.register_forward_hook(remember("diffusion"))
    net.difficulty_decoder.register_forward_hook(remember("difficulty"))
    trainer.difficulty_loss.observe = watched
    train(trainer)
    assert torch.equal(predicted["used"], predicted[source])
    assert not torch.equal(predicted["diffusion"], predicted["difficulty"])


def test_aggregation_pulls_the_student_s_decoder_after_the_step() -> None:
    share = 0.5
    trainer, plain = make_trainer(decoder_aggregation=share), make_trainer()
    train(trainer)
    train(plain)
    theta, xi, psi = (
        dict(decoder.named_parameters())
        for decoder in (
            plain.network.student.decoder,
            plain.network.diffusion_decoder,
            plain.network.difficulty_decoder,
        )
    )
    for name, parameter in trainer.network.student.decoder.named_parameters():
        expected = (1 - share) * theta[name] + share * (xi[name] + psi[name]) / 2
        torch.testing.assert_close(parameter, expected)


def test_event_after_every_stream_names_it() -> None:
    trainer = make_trainer(recycling=1.0, epoch_length=2)
    streams: list[list[str]] = [[], []]
    trainer.add_event_handler(
        TrainingEvents.STREAM_COMPLETED, lambda: streams[trainer.state.iteration - 1].append(trainer.state.stream)
    )
    train(trainer)
    every = [stream for stream in TrainingStreams if stream != TrainingStreams.LABELED]
    assert streams == [every, every]


def test_student_sees_strong_views_where_its_image_is_mixed_or_masked_and_teachers_never_do() -> None:
    seen: dict[TrainingStreams, list[float]] = {}

    def darkened(image: Tensor) -> Tensor:
        return image - 100

    trainer = make_trainer(strong_view=darkened)
    pending: list[float] = []
    trainer.network.student.stem.register_forward_pre_hook(lambda _, inputs: pending.append(float(inputs[0].min())))
    trainer.mean_teacher.module.stem.register_forward_pre_hook(lambda _, inputs: pending.append(float(inputs[0].min())))

    def keep() -> None:
        seen[trainer.state.stream] = list(pending)
        pending.clear()

    trainer.add_event_handler(TrainingEvents.STREAM_COMPLETED, keep)
    train(trainer)
    strong = {stream for stream, darkest in seen.items() if darkest and min(darkest) < -50}
    assert strong == {TrainingStreams.MIXED, TrainingStreams.MASKED, TrainingStreams.MASKED_LABELED}


def test_labeled_images_take_the_style_of_unlabeled_ones_before_anything_else_sees_them() -> None:
    def restyled(image: Tensor, reference: Tensor) -> Tensor:
        assert (len(image), len(reference)) == (2, 3)
        return image + 100

    trainer = make_trainer(style_transfer=restyled)
    seen: list[float] = []
    trainer.network.student.stem.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].min())))
    train(trainer)
    assert float(trainer.state.output["image"].min()) > 50
    assert max(seen) > 50  # labeled images
    assert min(seen) < 50  # unlabeled ones


def test_mean_teacher_follows_after_the_step() -> None:
    trainer = make_trainer(epoch_length=2)
    students: list[dict[str, Tensor]] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: students.append(state_of(trainer.network.student)))
    train(trainer)
    for name, value in trainer.mean_teacher.module.named_parameters():
        torch.testing.assert_close(value, (students[0][name] + students[1][name]) / 2)


@pytest.mark.slow
def test_half_precision_stays_finite_and_keeps_losses_in_float32() -> None:
    outputs = train(make_trainer(amp=True, epoch_length=3))
    exact = train(make_trainer(epoch_length=3))
    assert all(torch.isfinite(torch.tensor(list(output.values()))).all() for output in outputs)
    for name in (Terms.DENOISING, Terms.DIFFICULTY, Terms.STUDENT_LABELED):
        assert outputs[0][name] == pytest.approx(exact[0][name], rel=0.02)
        assert outputs[0][name] != exact[0][name]


def test_channels_last_gives_the_losses_of_the_contiguous_layout() -> None:
    # not instance norm: of the two voxels of the deepest grid it makes +1 and -1, whose gradient is up to rounding
    (last,), (contiguous,) = (train(make_trainer(norm="group", channels_last=flag)) for flag in (True, False))
    # a voxel whose two best classes are a rounding apart may get another pseudo-label
    assert last == pytest.approx(contiguous, rel=1e-2)


@pytest.mark.slow
def test_same_seed_gives_the_same_losses() -> None:
    one, other = (train(make_trainer(recycling=0.5, epoch_length=2, max_epochs=2)) for _ in range(2))
    assert one == other
    assert one[0] != one[1]


class SummedTrainer(DTLPTrainer):
    """Adds all streams up and runs backward once, as one would write it without thinking of memory."""

    def _backward(self, stream: Any, losses: Any) -> None:
        self.sum = getattr(self, "sum", 0.0) + sum(weight * loss for weight, loss in losses.values())

    def _step(self, engine: Any, student: Any) -> None:
        self.sum.backward()
        super()._step(engine, student)


@pytest.mark.slow
def test_streamed_backward_gives_the_gradients_of_the_sum() -> None:
    streamed, summed = make_trainer(max_grad_norm=1e9), make_trainer(max_grad_norm=1e9, kind=SummedTrainer)
    train(streamed)
    train(summed)
    pairs = list(zip(streamed.network.named_parameters(), summed.network.parameters(), strict=True))
    assert len(pairs) > 100
    for (name, one), other in pairs:
        assert one.grad is not None, name
        assert other.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)


def resumable(folder: Path, resume: bool = False, init: int = 0) -> tuple[DTLPTrainer, list[dict[str, float]]]:
    """A trainer on endless loaders that writes checkpoints."""
    cases = [labeled_case(i) for i in range(5)]
    noise = Compose([RandGaussianNoised("image", prob=0.9)])
    labeled = EndlessDataLoader(cases[:2], noise, batch_size=2, seed=0)
    unlabeled = EndlessDataLoader([{"image": c["image"]} for c in cases[2:]], noise, batch_size=2, seed=1)
    trainer = make_trainer(labeled=labeled, unlabeled=unlabeled, recycling=0.5, epoch_length=2, max_epochs=2)
    if init:
        for parameter in trainer.network.parameters():
            nn.init.normal_(parameter)
    TrainingCheckpoint(
        str(folder),
        objects={
            "network": trainer.network,
            "mean_teacher": trainer.mean_teacher,
            "optimizer": trainer.optimizer,
            "difficulty": trainer.difficulty_loss,
        },
        exported_model=trainer.mean_teacher.module,
        trainer_loaders=(labeled, unlabeled),
        resume=resume,
    ).attach(trainer)
    return trainer, []


@pytest.mark.slow
def test_resumed_training_has_the_losses_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = train(resumable(tmp_path / "whole")[0])
    killed = resumable(tmp_path / "killed")[0]

    @killed.on(Events.ITERATION_STARTED(once=4))
    def kill(_engine: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(killed)
    resumed = train(resumable(tmp_path / "killed", resume=True, init=1)[0])
    assert len(whole) == 4
    assert resumed == whole[2:]


def test_active_terms_are_logged_with_their_weights_in_words(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        train(make_trainer({Terms.CORRELATION: 1.2, Terms.UNLABELED: 0.0}))
    assert "corr 1.2" in caplog.text
    assert "labels propagated to voxels with similar features" in caplog.text
    assert "difficulty_weight" in caplog.text
    assert " u " not in caplog.text.split("Loss terms and weights:")[1]
