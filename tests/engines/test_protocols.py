# SPDX-License-Identifier: Apache-2.0
"""The project's parts are what the trainer asks for: mypy reads this file, and here the members are there."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from dtlp_components import DifficultyAwareLoss, DTLPNet, DualTeacher, LabelDiffusion, MeanTeacher, PseudoLabels, VNet
from dtlp_components.engines import protocols
from dtlp_components.methods.consistency import MeanTeacherConsistency
from tests.tiny import CLASSES, NETWORK

NUM_CLASSES = CLASSES["num_classes"]


def student() -> VNet:
    return VNet(in_channels=1, num_classes=NUM_CLASSES, features=NETWORK["features"])


def training_network() -> protocols.TrainingNetwork:
    return DTLPNet(student(), LabelDiffusion(num_classes=NUM_CLASSES))


def teacher() -> protocols.Teacher:
    return MeanTeacher(student())


def class_weighted_loss() -> protocols.ClassWeightedLoss:
    return DifficultyAwareLoss(NUM_CLASSES)


def teacher_labels() -> protocols.TeacherLabels:
    def decoder(image: Tensor) -> Tensor:
        return image.repeat(1, NUM_CLASSES, 1, 1, 1)

    labels: PseudoLabels = DualTeacher(decoder, decoder, decoder)(torch.rand(1, 1, 4, 4, 4))
    return labels


def method() -> protocols.Method:
    return MeanTeacherConsistency(student(), student(), lambda logits, label: logits.mean())


def members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_") or name == "__call__"]


PARTS = [
    (protocols.TrainingNetwork, training_network),
    (protocols.TrainedModule, student),
    (protocols.Method, method),
    (protocols.Student, lambda: training_network().student),
    (protocols.LabelNoise, lambda: training_network().diffusion),
    (protocols.Teacher, teacher),
    (protocols.ClassWeightedLoss, class_weighted_loss),
    (protocols.TeacherLabels, teacher_labels),
]


@pytest.mark.parametrize(("protocol", "make"), PARTS, ids=lambda value: getattr(value, "__name__", ""))
def test_part_has_every_member(protocol: type, make: Any) -> None:
    part = make()
    assert [name for name in members(protocol) if not hasattr(part, name)] == []


def test_every_protocol_is_tested() -> None:
    named = [
        value for _, value in inspect.getmembers(protocols, inspect.isclass) if value.__module__ == protocols.__name__
    ]
    assert sorted(protocol.__name__ for protocol, _ in PARTS) == sorted(protocol.__name__ for protocol in named)
    assert sorted(protocol.__name__ for protocol in named) == protocols.__all__
