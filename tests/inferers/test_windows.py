# SPDX-License-Identifier: Apache-2.0
"""Windows aggregated row by row are MONAI's sliding window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from dtlp_components.inferers.windows import longest_axis, window_rows

CPU = torch.device("cpu")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("size", "patch", "overlap"),
    [
        ((40, 23, 51), (16, 12, 8), 0.5),
        ((9, 23, 20), (16, 12, 8), 0.25),  # smaller than a window along x: padded
        ((13, 9, 6), (16, 12, 8), 0.5),  # one window
        ((40, 23, 31), (16, 20, 8), [0.3, 0.5, 0.875]),
        ((32, 24, 16), (16, 12, 8), 0.0),  # windows that only touch
    ],
    ids=str,
)
def test_rows_are_those_of_the_sliding_window(
    size: Any, patch: Any, overlap: Any, mode: str, axis: int, seed: int
) -> None:
    network = torch.nn.Conv3d(1, 5, 3, padding=1)
    inferer = SlidingWindowInferer(patch, 3, overlap, mode=mode)
    image = torch.randn(1, 1, *size)
    with torch.no_grad():
        expected = inferer(image, network)[0]
        rows = list(window_rows(image, network, inferer, axis, CPU))
    position = 0
    for start, values in rows:
        assert start == position
        position += values.shape[1 + axis]
    torch.testing.assert_close(torch.cat([v for _, v in rows], dim=1 + axis), expected, rtol=1e-5, atol=1e-5)


def test_no_rows_are_held_longer_than_windows_touch_them(seed: int) -> None:
    # windows of 8 rows start at 0, 4, 8 ...: after each start but the last, 4 rows are out of reach
    inferer = SlidingWindowInferer((8, 8, 8), 1, 0.5)
    seen: list[int] = []

    def predict(window: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return window

    sizes = [
        (len(seen), rows.shape[1]) for _, rows in window_rows(torch.randn(1, 1, 20, 8, 8), predict, inferer, 0, CPU)
    ]
    assert sizes == [(1, 4), (2, 4), (3, 4), (4, 8)]


def test_progress_counts_every_window(seed: int) -> None:
    told: list[tuple[int, int]] = []
    inferer = SlidingWindowInferer((8, 8, 8), 4, 0.5)
    image = torch.randn(1, 1, 12, 20, 8)  # 2 x 4 x 1 windows, along y 4 times 2
    list(window_rows(image, lambda x: x, inferer, 1, CPU, lambda *counts: told.append(counts)))
    assert told == [(0, 8), (2, 8), (4, 8), (6, 8), (8, 8)]


def test_longest_axis_is_counted_in_windows() -> None:
    assert longest_axis((512, 512, 300), (128, 128, 64)) == 2
    assert longest_axis((512, 512, 200), (128, 128, 64)) == 0
