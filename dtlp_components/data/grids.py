# SPDX-License-Identifier: Apache-2.0
"""How far apart two grids of voxels are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

__all__ = ["MAX_DISTANCE", "grid_distance"]

MAX_DISTANCE = 0.1  # voxels; what files round (float32, a qform's quaternion) is far below, a shift by one voxel above


def grid_distance(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> float:
    """
    How far apart two grids of one shape are: the longest way between two corners of one index, along any axis.

    Args:
        shape: voxels ``(x, y, z)``.
        affine: ``(4, 4)``, voxel index to mm, not singular.
        other: affine of the other grid.

    Returns:
        Voxels of the first grid.
    """
    corners = np.array([(*corner, 1) for corner in product(*((0, side - 1) for side in shape))], float).T  # (4, 8)
    return float(np.abs(np.linalg.solve(affine, other @ corners) - corners).max())
