# SPDX-License-Identifier: Apache-2.0
"""Entropy and disagreement in bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dtlp_components.metrics.uncertainty import entropy_bits, jensen_shannon_bits

SHAPE = (2, 3, 4, 5, 6)


def voxel(*probs: float) -> Tensor:
    """Probabilities of a single voxel, (1, C, 1, 1, 1)."""
    return torch.tensor(probs).view(1, -1, 1, 1, 1)


def test_entropy_of_k_equal_classes_is_the_logarithm_of_k_in_bits() -> None:
    assert entropy_bits(voxel(0.25, 0.25, 0.25, 0.25)).item() == pytest.approx(2)
    assert entropy_bits(voxel(0.5, 0.5, 0.0)).item() == pytest.approx(1)
    assert entropy_bits(voxel(0.0, 1.0, 0.0)).item() == 0
    assert entropy_bits(torch.rand(SHAPE)).shape == (2, 1, 4, 5, 6)


def test_disagreement_of_four_certain_opinions_is_two_bits() -> None:
    opinions = [torch.nn.functional.one_hot(torch.tensor([[c]]), 5).permute(0, 2, 1).float() for c in range(4)]
    assert jensen_shannon_bits(opinions).item() == pytest.approx(2.0)
