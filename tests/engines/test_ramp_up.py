# SPDX-License-Identifier: Apache-2.0
"""The ramp-up of the unlabeled terms."""

from __future__ import annotations

import math

import pytest

from dtlp_components.engines.ramp_up import SigmoidRampUp


def test_it_starts_at_e_to_the_minus_five_and_ends_at_one() -> None:
    ramp = SigmoidRampUp(length=40)
    assert ramp(0) == pytest.approx(math.exp(-5))
    assert ramp(40) == 1
    assert ramp(1000) == 1


def test_half_way_it_is_e_to_the_minus_five_quarters() -> None:
    assert SigmoidRampUp(length=40)(20) == pytest.approx(math.exp(-5 / 4))


def test_it_never_falls() -> None:
    values = [SigmoidRampUp(length=7.5)(i) for i in range(12)]
    assert values == sorted(values)
    assert len(set(values)) == 9  # iterations 0 … 7 and 1 from then on


def test_length_zero_is_one_from_the_start() -> None:
    assert SigmoidRampUp(length=0)(0) == 1


def test_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        SigmoidRampUp(length=-1)


def test_burn_in_is_exactly_zero_and_the_rise_starts_after_it() -> None:
    plain, late = SigmoidRampUp(10), SigmoidRampUp(10, start=4)
    assert [late(i) for i in range(4)] == [0.0] * 4
    assert [late(i + 4) for i in range(12)] == [plain(i) for i in range(12)]
