# SPDX-License-Identifier: Apache-2.0
"""What measurements are compared with: drawn volumes and operations counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from dtlp_components.bench.reference import Convolution, count_flop, synthetic_volume


def test_volume_is_that_of_its_seed_and_has_every_class() -> None:
    image, label = synthetic_volume((24, 16, 40), 2, 3, seed=5)
    assert image.shape == (2, 24, 16, 40)
    assert label.shape == (1, 24, 16, 40)
    assert label.unique().tolist() == [0, 1, 2]
    assert torch.equal(image, synthetic_volume((24, 16, 40), 2, 3, seed=5)[0])
    assert not torch.equal(image, synthetic_volume((24, 16, 40), 2, 3, seed=6)[0])


def test_flop_of_convolution_and_attention_are_those_by_hand() -> None:
    layer = Convolution(4, (3, 5, 6), 2, True, {"device_type": "cpu", "enabled": False}, torch.device("cpu"))
    multiplications = 4 * 4 * 27 * 2 * 3 * 5 * 6
    assert count_flop(layer.run) == layer.flop == 3 * 2 * multiplications
    q, k, v = (torch.randn(2, 1, 12, 8, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 12 * 12 * 8  # of a 12 x 8 with an 8 x 12 matrix, two volumes
    attention = nn.functional.scaled_dot_product_attention
    assert count_flop(lambda: attention(q.detach(), k.detach(), v.detach())) == 2 * product
    assert count_flop(lambda: attention(q, k, v).sum().backward()) == (2 + 5) * product
