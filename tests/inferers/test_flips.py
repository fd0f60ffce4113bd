# SPDX-License-Identifier: Apache-2.0
"""The average over mirrored copies."""

from __future__ import annotations

import pytest
import torch

from dtlp_components.inferers.flips import FlipAverage


@pytest.fixture
def network(seed: int) -> torch.nn.Module:
    """Knows left from right: its kernels are not symmetric."""
    return torch.nn.Conv3d(1, 3, 3, padding=1)


def test_without_axes_it_is_the_network(network: torch.nn.Module) -> None:
    image = torch.randn(2, 1, 4, 5, 6)
    assert torch.equal(FlipAverage(network)(image), network(image))


def test_probabilities_are_the_mean_of_all_mirrored_predictions(network: torch.nn.Module) -> None:
    image = torch.randn(2, 1, 4, 5, 6)
    total = torch.zeros(2, 3, 4, 5, 6)
    for axes in ([], [2], [4], [2, 4]):  # none, x, z, both
        total += torch.softmax(network(image.flip(axes)), dim=1).flip(axes)
    torch.testing.assert_close(torch.softmax(FlipAverage(network, [0, 2])(image), dim=1), total / 4)


def test_mirrored_image_gets_the_mirrored_prediction(network: torch.nn.Module) -> None:
    image, average = torch.randn(1, 1, 4, 5, 6), FlipAverage(network, [1])
    torch.testing.assert_close(average(image.flip(3)), average(image).flip(3))
    assert (network(image.flip(3)) - network(image).flip(3)).abs().max() > 0.1


def test_impossible_class_stays_finite() -> None:
    class Certain(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([image + 500, image - 500], dim=1)

    assert torch.isfinite(FlipAverage(Certain(), [0])(torch.zeros(1, 1, 2, 2, 2))).all()


@pytest.mark.parametrize("axes", [[3], [-1], [0, 0]])
def test_axes_that_are_none_are_refused(axes: list[int]) -> None:
    with pytest.raises(ValueError, match="distinct values among 0, 1 and 2"):
        FlipAverage(torch.nn.Identity(), axes)
