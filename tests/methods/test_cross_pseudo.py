# SPDX-License-Identifier: Apache-2.0
"""Cross pseudo supervision against its formula."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dtlp_components.keys import MethodTerms as Terms
from dtlp_components.methods.cross_pseudo import CrossPseudoSupervision
from tests.methods.methods import LOSS, Voxelwise, batch, terms_of


def students() -> Any:
    second = Voxelwise()
    with torch.no_grad():
        second.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    return SimpleNamespace(student=Voxelwise(), second=second)


def test_each_student_learns_the_classes_of_the_other() -> None:
    both = students()
    terms = terms_of(CrossPseudoSupervision(both, LOSS, weight=0.2), ramp=0.5)
    image, _ = batch(2, seed=2)
    a, b = both.student(image), both.second(image)
    expected = F.cross_entropy(a, b.argmax(dim=1)) + F.cross_entropy(b, a.argmax(dim=1))
    assert terms[Terms.CROSS] == (0.1, pytest.approx(expected.item()))
    assert all(p.grad is not None for student in (both.student, both.second) for p in student.parameters())


def test_both_learn_from_labels_before_the_ramp() -> None:
    both = students()
    image, label = batch(2, seed=1)
    terms = terms_of(CrossPseudoSupervision(both, LOSS), ramp=0.0)
    assert terms == {
        Terms.STUDENT_LABELED: (1.0, pytest.approx(LOSS(both.student(image), label).item())),
        Terms.SECOND_LABELED: (1.0, pytest.approx(LOSS(both.second(image), label).item())),
    }
