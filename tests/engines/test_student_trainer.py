# SPDX-License-Identifier: Apache-2.0
"""What is around an iteration; most of it is tested through DTLP's trainer, in test_trainer.py."""

from __future__ import annotations

import pytest
import torch

from dtlp_components.engines.student_trainer import StudentTrainer, loss_terms
from dtlp_components.engines.trainer import DTLPTrainer
from dtlp_components.keys import WORDS, LossTerms, MethodTerms
from dtlp_components.networks.mean_teacher import MeanTeacher
from dtlp_components.networks.vnet import VNet


def test_loss_terms_are_the_scalars_alone() -> None:
    output = {"image": torch.zeros(2), "label": torch.zeros(2), "loss": torch.tensor(1.5), "ramp_up": 0.25}
    assert loss_terms(output) == {"loss": 1.5, "ramp_up": 0.25}


def test_what_it_cannot_do_is_refused_by_the_name_of_the_trainer() -> None:
    net = VNet(features=4)
    with pytest.raises(ValueError, match="StudentTrainer does not support compile"):
        StudentTrainer(
            "cpu", 1, [], net, torch.optim.SGD(net.parameters()), lambda logits, label: logits.sum(),
            unlabeled_data_loader=None, mean_teacher=MeanTeacher(net), ramp_up=lambda iteration: 1.0, compile=True,
        )  # fmt: skip


def test_every_term_and_number_of_the_log_has_words() -> None:
    assert set(WORDS) == {*LossTerms, *MethodTerms, *DTLPTrainer.numbers}
