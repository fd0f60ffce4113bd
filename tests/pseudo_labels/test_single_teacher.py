# SPDX-License-Identifier: Apache-2.0
"""The mean teacher alone."""

from __future__ import annotations

import torch

from dtlp_components.keys import PseudoLabelSources as Sources
from dtlp_components.pseudo_labels.single_teacher import SingleTeacher


def test_label_is_the_most_probable_class_and_nothing_carries_gradient() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    logits = torch.randn(2, 3, 4, 5, 6)
    pseudo = SingleTeacher(lambda image: scale * logits)(torch.zeros(2, 1, 4, 5, 6))
    assert list(pseudo.probabilities) == [Sources.MEAN_TEACHER]
    probabilities = pseudo.probabilities[Sources.MEAN_TEACHER]
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 4, 5, 6))
    assert torch.equal(pseudo.label[:, 0], logits.argmax(dim=1))
    assert torch.equal(pseudo.mean_teacher_logits, 2 * logits)
    assert not probabilities.requires_grad
