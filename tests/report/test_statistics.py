# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests against values by hand, scipy called directly, and simulated trainings."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from dtlp_components.report.statistics import bootstrap_interval, holm, wilcoxon_p

CASES = np.random.default_rng(3).normal(82, 4, 40)


def test_interval_of_one_seed_is_that_of_scipy() -> None:
    found = bootstrap_interval(CASES[None])
    expected = scipy.stats.bootstrap((CASES,), np.mean, method="percentile", n_resamples=10_000, rng=0)
    error = CASES.std() / np.sqrt(len(CASES))
    np.testing.assert_allclose(found, expected.confidence_interval, atol=0.1 * error)


def test_interval_is_the_same_at_every_call_and_narrower_at_a_lower_level() -> None:
    assert bootstrap_interval(CASES[None]) == bootstrap_interval(CASES[None])
    (low, high), (inner_low, inner_high) = (bootstrap_interval(CASES[None], level) for level in (0.95, 0.5))
    assert low < inner_low < CASES.mean() < inner_high < high


def test_equal_seeds_add_nothing_and_seeds_that_differ_widen_the_interval() -> None:
    one, equal, shifted = CASES[None], np.stack([CASES] * 3), np.stack([CASES - 3, CASES, CASES + 3])
    widths = [high - low for low, high in map(bootstrap_interval, (one, equal, shifted))]
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
    # variances add: that of the mean of three seeds with a variance of 6, and that of the cases
    expected = np.hypot(widths[0], 2 * 1.96 * np.sqrt(6 / 3))
    assert widths[2] == pytest.approx(expected, rel=0.1)


def test_cases_that_are_all_alike_leave_nothing_open() -> None:
    assert bootstrap_interval(np.full((2, 5), 81.5)) == pytest.approx((81.5, 81.5))


def test_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        low, high = bootstrap_interval(rng.normal(80, 5, (1, 50)), resamples=1000)
        held += low <= 80 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_wilcoxon_by_hand_and_by_scipy() -> None:
    # all five are positive: 2 of 2^5 sign patterns are as extreme
    assert wilcoxon_p([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)
    differences = np.random.default_rng(1).normal(0.4, 1, 25)
    assert wilcoxon_p(differences) == scipy.stats.wilcoxon(differences).pvalue
    assert wilcoxon_p([0.0, 0.0, 0.0]) == 1.0


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Holm: 0.005 x 4, 0.01 x 3, 0.03 x 2, then not below
        ([0.2], [0.2]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_no_difference_is_rarely_found_and_a_planted_one_is() -> None:
    rng = np.random.default_rng(0)
    null = [wilcoxon_p(rng.normal(0, 1.6, 20)) < 0.05 for _ in range(1000)]
    planted = [wilcoxon_p(rng.normal(1.3, 1.6, 20)) < 0.05 for _ in range(1000)]
    assert 0.03 <= np.mean(null) <= 0.07
    assert np.mean(planted) > 0.85


def test_of_four_comparisons_without_a_difference_one_is_rarely_found() -> None:
    rng = np.random.default_rng(0)
    found = [min(holm([wilcoxon_p(rng.normal(0, 1, 20)) for _ in range(4)])) < 0.05 for _ in range(1000)]
    assert 0.02 <= np.mean(found) <= 0.07
