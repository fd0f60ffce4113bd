# SPDX-License-Identifier: Apache-2.0
"""Networks of a training run from its last checkpoint; tests/bundles loads those of a real one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtlp_components.bundle.teachers import Teachers, load_teachers, load_training_networks
from dtlp_components.errors import InputError


class Parser:
    """Networks by the names that ``train.json`` gives them."""

    def __init__(self) -> None:
        self.networks = {"training_network": nn.Conv3d(1, 2, 3), "mean_teacher": nn.Conv3d(1, 2, 1)}

    def get_parsed_content(self, id: str) -> nn.Module:
        return self.networks[id]


def test_both_networks_get_their_weights_and_are_put_in_eval_mode(tmp_path: Path) -> None:
    trained, parser = Parser().networks, Parser()
    states = {name: network.state_dict() for name, network in trained.items()}
    torch.save({"network": states["training_network"], "mean_teacher": states["mean_teacher"]}, tmp_path / "last.pt")
    loaded: Any = parser
    network, teacher = load_training_networks(loaded, tmp_path / "last.pt")
    assert torch.equal(network.weight, trained["training_network"].weight)
    assert torch.equal(teacher.weight, trained["mean_teacher"].weight)
    assert not network.training
    assert not teacher.training


def test_file_that_is_no_checkpoint_of_this_run_is_named(tmp_path: Path) -> None:
    parser: Any = Parser()
    with pytest.raises(InputError, match=r"No checkpoint at .*last\.pt: train first"):
        load_training_networks(parser, tmp_path / "last.pt")
    torch.save(Parser().networks["mean_teacher"].state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        InputError, match=r"model\.pt: expected the checkpoints/last\.pt .* got a file without `network`"
    ):
        load_training_networks(parser, tmp_path / "model.pt")


def test_bundle_without_a_train_json_has_no_teachers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.json: no such file; the teachers are built from"):
        load_teachers(str(tmp_path / "train.json"), str(tmp_path / "last.pt"), {})


def test_teachers_draw_the_same_noise_each_time_and_leave_the_random_state_alone(seed: int) -> None:
    def labeler(windows: Tensor) -> Any:
        noise = {name: windows + torch.rand_like(windows) for name in Teachers.names}
        return SimpleNamespace(probabilities={**noise, "student": windows})

    teachers, windows = Teachers(labeler), torch.zeros(1, 2, 4, 5, 6)
    before = torch.get_rng_state()
    first, second = teachers(windows), teachers(windows)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(first) == ["diffusion", "difficulty", "mean_teacher"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(Teachers(labeler, seed=1)(windows)["diffusion"], first["diffusion"])
