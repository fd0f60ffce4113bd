# SPDX-License-Identifier: Apache-2.0
"""Flags that several commands have."""

from __future__ import annotations

import pytest

from dtlp_components.checks.arguments import check_choice, check_percent, check_seed
from dtlp_components.errors import InputError


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "0"])
def test_seed_that_no_generator_takes_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match=f"seed: expected an integer from 0 to 4294967295, got {seed!r}"):
        check_seed(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("percent", [0, 100, 5.0, True, "5"])
def test_percent_that_sizes_no_split_is_refused(percent: object) -> None:
    with pytest.raises(InputError, match="percent: expected an integer from 1 to 99"):
        check_percent(percent)  # type: ignore[arg-type]


def test_what_is_in_bounds_passes() -> None:
    for seed in (0, 2**32 - 1):
        check_seed(seed)
    for percent in (1, 99):
        check_percent(percent)
    check_choice("size", "small", ["small", "large"])


def test_choice_names_flag_and_choices() -> None:
    with pytest.raises(InputError, match="size: expected one of small, large, got 'smal'"):
        check_choice("size", "smal", ["small", "large"])
