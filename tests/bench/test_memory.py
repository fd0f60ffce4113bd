# SPDX-License-Identifier: Apache-2.0
"""Peak memory is that of the process; tests/test_docs.py compares measurements with the estimate."""

from __future__ import annotations

import numpy as np

from dtlp_components.bench.memory import peak_bytes


def test_peak_stays_when_what_it_was_of_is_gone() -> None:
    block = np.ones(2 * 10**7)  # 160 MB
    peak = peak_bytes()
    assert peak >= block.nbytes
    del block
    assert peak_bytes() >= peak - 10**6  # the kernel counts in batches of pages
