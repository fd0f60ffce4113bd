# SPDX-License-Identifier: Apache-2.0
"""Several students as one: the mean of their probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dtlp_components.errors import InputError
from dtlp_components.networks.model_average import ModelAverage, average_models
from dtlp_components.networks.vnet import VNet

pytestmark = pytest.mark.usefixtures("seed")


def test_softmax_of_the_result_is_the_mean_of_the_networks() -> None:
    networks, image = [VNet(num_classes=3, features=2).eval() for _ in range(3)], torch.rand(2, 1, 16, 32, 16)
    expected = torch.stack([torch.softmax(network(image), dim=1) for network in networks]).mean(dim=0)
    result = ModelAverage(networks)(image)
    torch.testing.assert_close(result.exp(), expected)
    torch.testing.assert_close(torch.softmax(result, dim=1), expected)


def test_without_others_it_is_the_network_itself() -> None:
    network = VNet(num_classes=3, features=2)
    assert average_models(network, []) is network


def test_others_are_loaded_from_their_files(tmp_path: Path) -> None:
    one, two, image = VNet(num_classes=3, features=2), VNet(num_classes=3, features=2), torch.rand(1, 1, 16, 32, 16)
    torch.save(two.state_dict(), tmp_path / "model.pt")
    average = average_models(one.eval(), [str(tmp_path / "model.pt")])
    torch.testing.assert_close(average(image), ModelAverage([one.eval(), two.eval()])(image))
    assert not average.training


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(VNet(num_classes=3, features=4).state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: does not fit the network"):
        average_models(VNet(num_classes=3, features=2), [str(tmp_path / "other.pt")])
