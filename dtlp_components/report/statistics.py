# SPDX-License-Identifier: Apache-2.0
"""How sure a difference of scores is: intervals over cases and seeds, tests over cases, and what many tests cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import wilcoxon

__all__ = ["bootstrap_interval", "holm", "wilcoxon_p"]

RESAMPLES = 10_000


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of the mean over cases of the mean over seeds.

    Cases and seeds are both drawn with replacement, independently of each other, since every seed scores the same
    cases (Owen, 2007, *The pigeonhole bootstrap*): a seed that is good at all cases is one piece of luck, not many.
    ``scipy.stats.bootstrap`` draws along one axis. Of a mean, since the bootstrap of a median fails.

    Args:
        values: scores ``(seeds, cases)``, finite.
        level: of confidence.
        resamples: drawn samples.
        seed: of the draws.

    Returns:
        The interval's ends.

    Example:
        >>> low, high = bootstrap_interval(np.array([[80.0, 82.0, 84.0, 86.0]]))
        >>> 80 < low < 83 < high < 86
        True
    """
    seeds, cases = values.shape
    rng = np.random.default_rng(seed)
    # how often each case and each seed is drawn; the mean of a sample is then a product of matrices
    case_weights = rng.multinomial(cases, np.full(cases, 1 / cases), resamples) / cases  # (resamples, cases)
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    means = ((case_weights @ values.T) * seed_weights).sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilcoxon_p(differences: Sequence[float] | np.ndarray) -> float:
    """
    Two-sided p-value of Wilcoxon's signed-rank test that paired differences lie around 0; 1 if all of them are 0.

    Args:
        differences: one for each case, finite.

    Example:
        >>> round(wilcoxon_p([1.0, 2.0, 3.0, 4.0, 5.0]), 4)
        0.0625
    """
    values = np.asarray(differences, float)
    return 1.0 if not values.any() else float(wilcoxon(values).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """
    p-values of several tests, adjusted by Holm's step-down method: below 0.05, the chance of any false one is 5 %.

    scipy adjusts for the rate of false discoveries alone.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
