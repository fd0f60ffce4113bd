# SPDX-License-Identifier: Apache-2.0
"""Inference as the bench measures it: the bundle's way and one window at a time agree."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from dtlp_components.bench.inference import one_window_at_a_time
from dtlp_components.inferers.windows import window_slices


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_one_window_at_a_time_gives_the_logits_of_monai(mode: str, seed: int) -> None:
    network = nn.Conv3d(1, 2, kernel_size=3, padding=1)
    image, patch = torch.randn(1, 1, 9, 14, 8), (4, 6, 8)
    expected = SlidingWindowInferer(roi_size=patch, sw_batch_size=4, overlap=0.5, mode=mode)(image, network)
    torch.testing.assert_close(one_window_at_a_time(network, image, patch, 0.5, mode), expected)
    # 0, 2, 4, 5 along x; 0, 3, 6, 8 along y; one along z
    assert len(window_slices((9, 14, 8), patch, 0.5)) == 4 * 4
