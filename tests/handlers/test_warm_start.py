# SPDX-License-Identifier: Apache-2.0
"""A student that goes on from an earlier model takes its teachers along."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from dtlp_components import MeanTeacher, WarmStart


class Pair(nn.Module):
    """A student and another decoder."""

    def __init__(self, seed: int, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.student = nn.Linear(3, 2)
        self.other = nn.Linear(3, width)


def write(folder: Path, model: nn.Module | None = None, last: nn.Module | None = None) -> None:
    for place, content in (
        ("models/model.pt", model and model.state_dict()),
        ("checkpoints/last.pt", last and {"network": last.state_dict()}),
    ):
        if content:
            (folder / place).parent.mkdir(exist_ok=True)
            torch.save(content, folder / place)


def start(folder: Path, network: Pair) -> MeanTeacher:
    """Start a training of ``network``; returns its mean teacher."""
    teacher = MeanTeacher(Pair(seed=7).student)
    engine = Engine(lambda engine, batch: None)
    WarmStart(network.student, network, teacher, str(folder)).attach(engine)
    engine.run([0], max_epochs=1)
    return teacher


def are_equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_teachers_come_from_the_earlier_training_and_the_student_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier, average, network = Pair(seed=1), Pair(seed=2).student, Pair(seed=3)
    write(tmp_path, average, earlier)
    network.student.load_state_dict(average.state_dict())
    with caplog.at_level(logging.INFO, logger="dtlp"):
        teacher = start(tmp_path, network)
    assert are_equal(network.student, average)
    assert are_equal(network.other, earlier.other)
    assert are_equal(teacher.module, average)
    assert "models/model.pt, the teachers' decoders with those of" in caplog.text


def test_without_a_checkpoint_the_mean_teacher_alone_follows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, network = Pair(seed=1).student, Pair(seed=3)
    write(tmp_path, model)
    network.student.load_state_dict(model.state_dict())
    with caplog.at_level(logging.INFO, logger="dtlp"):
        teacher = start(tmp_path, network)
    assert are_equal(network.other, Pair(seed=3).other)
    assert are_equal(teacher.module, model)
    assert "teachers' decoders from the beginning" in caplog.text


def test_checkpoint_of_another_shape_is_left_out_whole(tmp_path: Path) -> None:
    model, network = Pair(seed=1).student, Pair(seed=3)
    write(tmp_path, model, Pair(seed=2, width=5))
    network.student.load_state_dict(model.state_dict())
    start(tmp_path, network)
    assert are_equal(network.other, Pair(seed=3).other)
    assert are_equal(network.student, model)


@pytest.mark.parametrize("there", [True, False])
def test_student_with_other_weights_starts_alone(tmp_path: Path, there: bool) -> None:
    if there:
        write(tmp_path, Pair(seed=1).student, Pair(seed=2))
    network = Pair(seed=3)
    teacher = start(tmp_path, network)
    assert are_equal(network, Pair(seed=3))
    assert are_equal(teacher.module, Pair(seed=7).student)
