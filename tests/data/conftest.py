# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def series(tmp_path: Path, write_series: Any) -> Path:
    """Twelve slices 2 mm apart."""
    folder: Path = write_series(tmp_path / "store/ct", np.zeros((4, 5, 12), int))
    return folder
