# SPDX-License-Identifier: Apache-2.0
"""Schedule of the unlabelled loss terms: early pseudo-labels are poor."""

from __future__ import annotations

import math

__all__ = ["SigmoidRampUp"]


class SigmoidRampUp:
    """
    ``exp(-5 (1 - min(i / length, 1))^2)``, from 0.0067 to 1 (Laine & Aila 2017; used by A&D).

    Args:
        length: iterations until 1; 0 is 1 from the start.
    """

    def __init__(self, length: float) -> None:
        if length < 0:
            raise ValueError(f"length of the ramp-up must not be negative, got {length}.")
        self.length = length

    def __call__(self, iteration: int) -> float:
        """Factor at ``iteration`` (from 0)."""
        if self.length == 0:
            return 1.0
        return math.exp(-5 * (1 - min(iteration / self.length, 1.0)) ** 2)
