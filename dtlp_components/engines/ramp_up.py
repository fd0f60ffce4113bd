# SPDX-License-Identifier: Apache-2.0
"""Schedule of the unlabeled loss terms: early pseudo-labels are poor."""

from __future__ import annotations

import math

__all__ = ["SigmoidRampUp"]


class SigmoidRampUp:
    """
    0 for ``start`` iterations, then ``exp(-5 (1 - min(i / length, 1))^2)``, from 0.0067 to 1 (Laine & Aila 2017; A&D).

    Ignite's and torch's schedulers set a number of an optimizer; this one the trainer asks for.

    Args:
        length: iterations from the start of the rise to 1; 0 is 1 at once.
        start: iterations of burn-in, in which the factor is 0 and nothing is done with unlabeled images.

    Raises:
        ValueError: if one of the two is negative.

    Example:
        >>> ramp = SigmoidRampUp(length=10, start=5)
        >>> [round(ramp(i), 3) for i in (0, 5, 10, 15, 20)]
        [0.0, 0.007, 0.287, 1.0, 1.0]
    """

    def __init__(self, length: float, start: float = 0) -> None:
        if length < 0 or start < 0:
            raise ValueError(f"length and start of the ramp-up must not be negative, got {length} and {start}.")
        self.length, self.start = length, start

    def __call__(self, iteration: int) -> float:
        """Factor at ``iteration`` (from 0)."""
        if iteration < self.start:
            return 0.0
        if self.length == 0:
            return 1.0
        return math.exp(-5 * (1 - min((iteration - self.start) / self.length, 1.0)) ** 2)
