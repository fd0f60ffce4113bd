# SPDX-License-Identifier: Apache-2.0
"""The distance of two grids is what moves, in voxels."""

from __future__ import annotations

import numpy as np
import pytest

from dtlp_components.data.grids import grid_distance

SHAPE = (6, 7, 8)
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


def test_distance_is_that_of_the_farthest_corner_in_voxels() -> None:
    other = AFFINE.copy()
    other[0, 0] -= 0.01  # at the last of 6 voxels: 5 x 0.01 mm, of 1 mm
    other[2, 3] = 0.2  # of 2 mm
    assert grid_distance(SHAPE, AFFINE, other) == pytest.approx(0.1)
    assert grid_distance((21, 7, 8), AFFINE, other) == pytest.approx(0.2)
    assert grid_distance(SHAPE, AFFINE, AFFINE) == 0


def test_small_tilt_counts_by_what_it_moves_not_by_its_entries() -> None:
    # 0.001 per entry moves the far corner of 301 voxels by 0.3
    other = np.eye(4)
    other[0, 1] = 0.001
    assert grid_distance((301, 301, 5), np.eye(4), other) == pytest.approx(0.3)
