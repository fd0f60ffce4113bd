# SPDX-License-Identifier: Apache-2.0
"""The trainer of methods: their losses one after the other, backward, one step, the mean teacher after it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor

from dtlp_components.engines.method_trainer import MethodTrainer
from dtlp_components.errors import NonFiniteError
from dtlp_components.keys import TrainingEvents
from dtlp_components.keys import TrainingStreams as Streams
from dtlp_components.networks.mean_teacher import MeanTeacher
from dtlp_components.networks.vnet import VNet
from tests.engines.test_trainer import CLASSES, PATCH, batches, changed, state_of, train

pytestmark = pytest.mark.usefixtures("seed")


class Counting:
    """A method of two terms that keeps what it was called with."""

    def __init__(self, student: VNet, factor: float = 1.0) -> None:
        self.weights = {"a": 2.0, "b": 0.5}
        self.student, self.factor = student, factor
        self.calls: list[tuple[Any, ...]] = []
        self.graphs: list[bool] = []

    def __call__(self, image_l: Tensor, label_l: Tensor, image_u: Tensor | None, ramp: float) -> Iterator[Any]:
        self.calls.append((image_l.shape, label_l.dtype, None if image_u is None else image_u.shape, ramp))
        first = self.student(image_l).square().mean()
        yield Streams.LABELED, {"a": (2.0, first)}
        yield Streams.TEACHERS, {}
        yield Streams.UNLABELED, {"b": (0.5 * ramp, self.factor * self.student(image_l).abs().mean())}


def make(unlabeled: bool = True, ramp: float = 0.5, factor: float = 1.0, **kwargs: Any) -> MethodTrainer:
    torch.manual_seed(0)
    student = VNet(num_classes=CLASSES, features=4)
    return MethodTrainer(
        "cpu", 1, batches(2, first=0), student, torch.optim.SGD(student.parameters(), lr=0.1),
        lambda logits, label: logits.sum(), method=Counting(student, factor), student=student, epoch_length=1,
        unlabeled_data_loader=cycle(batches(3, first=50, labels=False)) if unlabeled else None,
        mean_teacher=MeanTeacher(student), ramp_up=lambda iteration: ramp, **kwargs,
    )  # fmt: skip


def test_loss_is_the_weighted_sum_and_terms_are_logged_before_their_weight() -> None:
    trainer = make()
    (output,) = train(trainer)
    assert set(output) == {"loss", "a", "b", "ramp_up", "grad_norm", "learning_rate"}
    assert output["loss"] == pytest.approx(2 * output["a"] + 0.25 * output["b"])
    assert trainer.method.calls == [((2, 1, *PATCH), torch.int64, (3, 1, *PATCH), 0.5)]  # type: ignore[attr-defined]


def test_without_unlabeled_scans_the_method_gets_none_and_a_ramp_of_zero() -> None:
    trainer = make(unlabeled=False)
    (output,) = train(trainer)
    assert trainer.method.calls[0][2:] == (None, 0.0)  # type: ignore[attr-defined]
    assert "ramp_up" not in output


def test_streams_are_told_in_their_order_those_without_losses_too() -> None:
    trainer, seen = make(), []
    trainer.add_event_handler(TrainingEvents.STREAM_COMPLETED, lambda engine: seen.append(engine.state.stream))
    train(trainer)
    assert seen == [Streams.BATCH, Streams.LABELED, Streams.TEACHERS, Streams.UNLABELED, Streams.STEP]


def test_one_step_is_taken_with_the_sum_of_gradients_and_the_teacher_follows() -> None:
    trainer = make(max_grad_norm=1e9)
    student, before = trainer.student, state_of(trainer.student)
    image = batches(2, first=0)[0]["image"]
    total = 2 * student(image).square().mean() + 0.25 * student(image).abs().mean()
    gradients = dict(
        zip([n for n, _ in student.named_parameters()], torch.autograd.grad(total, student.parameters()), strict=True)
    )
    train(trainer)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * gradients[name], rtol=1e-3, atol=1e-5)
    averaged = trainer.mean_teacher.module.state_dict()
    assert all(torch.equal(averaged[name], value) for name, value in student.state_dict().items())  # the first update


def test_number_that_is_not_finite_stops_by_name_and_changes_nothing() -> None:
    trainer = make(factor=float("nan"))
    before = state_of(trainer.student)
    with pytest.raises(NonFiniteError, match=r"not finite: .*b = nan"):
        train(trainer)
    assert not changed(trainer.student, before)


def test_method_computes_under_autocast_and_goes_back_without() -> None:
    trainer = make(amp=True)
    seen = []
    method = trainer.method

    def watched(*args: Any) -> Iterator[Any]:
        for step in method(*args):
            seen.append(torch.is_autocast_enabled("cpu"))
            yield step

    watched.weights = method.weights  # type: ignore[attr-defined]
    trainer.method = watched  # type: ignore[assignment]
    trainer.add_event_handler(
        TrainingEvents.STREAM_COMPLETED, lambda engine: seen.append(torch.is_autocast_enabled("cpu"))
    )
    train(trainer)
    assert seen == [False, True, False, True, False, True, False, False]
