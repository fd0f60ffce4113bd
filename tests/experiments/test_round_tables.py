# SPDX-License-Identifier: Apache-2.0
"""Areas, gains and the figure of rounds, against numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dtlp_components.experiments.round_tables import area_below, draw_rounds, gain_of_more


def test_area_is_the_mean_height_over_doublings() -> None:
    assert area_below([4, 8, 32], np.array([60.0, 70.0, 80.0])).item() == pytest.approx((65 + 2 * 75) / 3)
    assert area_below([4, 8], np.full((2, 3, 5), 70.0)).tolist() == np.full((3, 5), 70.0).tolist()


def test_gain_is_that_of_a_line_over_doublings() -> None:
    rng = np.random.default_rng(0)
    cases = 80 + rng.normal(0, 5, (1, 3, 40))
    curve = np.array([-2.0, 0.0, 2.0])[:, None, None] + cases  # 2 for each doubling
    gain, low, high = gain_of_more([4, 8, 16], curve, more=16)
    assert gain == pytest.approx(2)
    assert low == pytest.approx(high) == pytest.approx(2)  # every case says the same


def test_gain_of_noise_cannot_be_told_from_nothing() -> None:
    curve = 80 + np.random.default_rng(0).normal(0, 5, (3, 3, 20))
    _, low, high = gain_of_more([4, 8, 16], curve)
    assert low < 0 < high


def test_figure_has_a_curve_for_each_strategy() -> None:
    rng = np.random.default_rng(0)
    figure = draw_rounds({name: 80 + rng.normal(0, 2, (3, 2, 8)) for name in ("random", "diverse")}, [4, 8, 16])
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["random", "diverse"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["4", "8", "16"]
