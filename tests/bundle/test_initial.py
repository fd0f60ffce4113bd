# SPDX-License-Identifier: Apache-2.0
"""A student that starts from an earlier model: same weights, classes by name, channels by their mean."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from dtlp_components.bundle.initial import initial_student
from dtlp_components.errors import InputError
from dtlp_components.networks.diffusion import LabelDiffusion
from dtlp_components.networks.dtlp_net import DTLPNet
from dtlp_components.networks.vnet import VNet

pytestmark = pytest.mark.usefixtures("seed")

OLD = ["background", "liver", "spleen"]


def trained(run: Path, names: Sequence[str] | None = OLD, in_channels: int = 1, features: int = 2) -> tuple[VNet, str]:
    """A network and its file in a run's folder, with a record of its classes unless they are ``None``."""
    network = VNet(in_channels, len(names or OLD), features)
    (run / "models").mkdir(parents=True)
    (run / "logs").mkdir()
    torch.save(network.state_dict(), run / "models" / "model.pt")
    if names is not None:
        (run / "logs" / "run.json").write_text(json.dumps({"settings": {"label_names": list(names)}}))
    return network, str(run / "models" / "model.pt")


def test_without_a_file_the_network_stays_as_it_is() -> None:
    network = VNet(features=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for nothing in (None, ""):
        assert initial_student(network, nothing, ["background", "liver"]) is network
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_same_classes_give_the_same_network(tmp_path: Path) -> None:
    old, file = trained(tmp_path)
    new = initial_student(VNet(1, 3, 2), file, OLD)
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


def test_classes_are_matched_by_name_and_the_log_says_which(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, file = trained(tmp_path)
    fresh = VNet(1, 4, 2)
    head = fresh.decoder.head.weight.detach().clone()
    with caplog.at_level(logging.INFO, "dtlp"):
        new = initial_student(fresh, file, ["background", "spleen", "kidney", "liver"])
    rows = new.decoder.head.weight.detach()
    for here, there in ((0, 0), (1, 2), (3, 1)):
        assert torch.equal(rows[here], old.decoder.head.weight[there])
        assert torch.equal(new.decoder.head.bias[here], old.decoder.head.bias[there])
    assert torch.equal(rows[2], head[2])
    assert "classes taken by name: background, spleen, liver; anew: kidney." in caplog.text
    assert torch.equal(new.stem[0][0].weight, old.stem[0][0].weight)


@pytest.mark.parametrize(("classes", "rows"), [(3, [0, 1, 2]), (2, [0, None])])
def test_without_names_on_record_classes_go_by_number_if_there_are_as_many(
    tmp_path: Path, classes: int, rows: list[int | None]
) -> None:
    old, file = trained(tmp_path, names=None)
    fresh = VNet(1, classes, 2)
    head = fresh.decoder.head.weight.detach().clone()
    new = initial_student(fresh, file, ["background", "a", "b"][:classes])
    for i, row in enumerate(rows):
        assert torch.equal(new.decoder.head.weight[i], head[i] if row is None else old.decoder.head.weight[row])


def test_further_channels_start_with_the_mean_and_the_sum_stays(tmp_path: Path) -> None:
    old, file = trained(tmp_path)
    new = initial_student(VNet(3, 3, 2), file, OLD)
    image = torch.rand(1, 1, 16, 32, 16)
    torch.testing.assert_close(new(image.expand(-1, 3, -1, -1, -1)), old(image), rtol=1e-3, atol=1e-4)


def test_other_features_are_refused_by_name(tmp_path: Path) -> None:
    _, file = trained(tmp_path, features=4)
    with pytest.raises(InputError, match=r"--init_from .*model\.pt: does not fit the network: .*`--features`"):
        initial_student(VNet(1, 3, 2), file, OLD)


@pytest.mark.parametrize("content", [{"network": {}}, [1, 2], "text"], ids=["checkpoint", "list", "no file of torch"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: object) -> None:
    file = tmp_path / "model.pt"
    if isinstance(content, str):
        file.write_text(content)
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=r"model\.pt"):
        initial_student(VNet(1, 3, 2), str(file), OLD)


def test_missing_file_is_named_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--init_from: expected a model's file .*, got .*nothing\.pt: not there"):
        initial_student(VNet(1, 3, 2), str(tmp_path / "nothing.pt"), OLD)


def test_decoders_of_the_teachers_start_like_the_student_s_if_asked() -> None:
    student = VNet(1, 3, 2)
    net = DTLPNet(student, LabelDiffusion(3), decoders_like_student=True)
    image = torch.rand(1, 1, 16, 32, 16)
    torch.testing.assert_close(net.difficulty_logits(image), student(image))
    other = DTLPNet(student, LabelDiffusion(3))
    assert not torch.allclose(other.difficulty_logits(image), student(image))
