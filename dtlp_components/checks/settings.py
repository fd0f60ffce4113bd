# SPDX-License-Identifier: Apache-2.0
"""Which values of settings can be meant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["TWO_VOXELS", "has_two_voxels", "is_number", "is_whole", "nearest_multiples"]

TWO_VOXELS = "leaves two voxels at the deepest stage, of which instance norm makes +1 and -1 whatever they are"


def has_two_voxels(patch_size: Sequence[int], divisor: int) -> bool:
    """Whether a patch has two voxels where the network has reduced its sides by ``divisor``."""
    return math.prod(side // divisor for side in patch_size) == 2


def nearest_multiples(value: int, divisor: int) -> str:
    below = max(value // divisor, 1) * divisor
    return str(below) if value <= below else f"{below} or {below + divisor}"


def is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
