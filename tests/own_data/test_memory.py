# SPDX-License-Identifier: Apache-2.0
"""The estimate of memory, and how memory is written."""

from __future__ import annotations

from dtlp_components.own_data.memory import estimate_bytes, parse_memory


def test_estimate_grows_with_each_of_its_arguments() -> None:
    small = estimate_bytes([32, 32, 32], 8, 1, 2)
    larger = [([32, 32, 48], 8, 1, 2), ([32, 32, 32], 16, 1, 2), ([32, 32, 32], 8, 2, 2), ([32, 32, 32], 8, 1, 3)]
    assert all(estimate_bytes(*point) > small for point in larger)


def test_memory_is_read_with_its_unit() -> None:
    assert (parse_memory("8GB"), parse_memory("0.5 gb"), parse_memory("800MB")) == (8 * 10**9, 5 * 10**8, 8 * 10**8)
