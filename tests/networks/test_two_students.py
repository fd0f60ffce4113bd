# SPDX-License-Identifier: Apache-2.0
"""Two students of one kind."""

from __future__ import annotations

import torch

from dtlp_components.networks.two_students import TwoStudents
from dtlp_components.networks.vnet import VNet


def test_second_student_has_other_weights_of_the_same_shape_and_the_first_is_the_one_that_was_given() -> None:
    student = VNet(num_classes=3, features=4)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    both = TwoStudents(student)
    assert both.student is student
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    weights = {name: value for name, value in both.second.state_dict().items() if name.endswith("0.weight")}
    assert weights
    assert all(
        value.shape == before[name].shape and not torch.equal(value, before[name]) for name, value in weights.items()
    )


def test_image_goes_through_the_first() -> None:
    both, image = TwoStudents(VNet(num_classes=3, features=4)).eval(), torch.randn(1, 1, 16, 32, 16)
    assert torch.equal(both(image), both.student(image))


def test_memory_format_and_checkpointing_reach_both() -> None:
    both = TwoStudents(VNet(num_classes=3, features=4))
    both.use_channels_last()
    both.use_gradient_checkpointing()
    for student in (both.student, both.second):
        assert student.decoder.checkpointing
        weight = student.decoder.stages[0][0][0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last_3d)
