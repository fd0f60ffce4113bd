# SPDX-License-Identifier: Apache-2.0
"""Strategies choose what they say they choose."""

from __future__ import annotations

import numpy as np
import pytest

from dtlp_components.errors import InputError
from dtlp_components.labeling.opinions import ScanOpinion
from dtlp_components.labeling.strategies import CANDIDATES, STRATEGIES, choose_scans


def scan(name: str, disagreement: float | None, *features: float) -> ScanOpinion:
    scores = {} if disagreement is None else {"expected_dice": 0.8, "foreground_disagreement": disagreement}
    return ScanOpinion(name, scores, {} if disagreement is None else {"liver": disagreement}, list(features))


def chosen(strategy: str, scans: list[ScanOpinion], labeled: list[ScanOpinion], count: int, seed: int = 0) -> list[str]:
    return [scans[choice.index].image for choice in choose_scans(strategy, scans, labeled, count, seed)]


SCANS = [scan("a", 0.1, 0, 0), scan("b", 0.4, 1, 0), scan("c", 0.2, 9, 9), scan("d", 0.3, 1, 1)]


def test_disagreement_takes_what_is_disputed_and_before_it_what_was_missed() -> None:
    assert chosen("disagreement", SCANS, [], 3) == ["b", "d", "c"]
    assert chosen("disagreement", [*SCANS, scan("empty", None, 0, 0)], [], 2) == ["empty", "b"]


def test_reason_names_the_class_that_is_disputed_most() -> None:
    two = ScanOpinion("x", {"foreground_disagreement": 0.2}, {"liver": 0.1, "spleen": 0.3}, [0.0])
    assert choose_scans("disagreement", [two], [], 1)[0].reason == (
        "teachers disagree by 0.200 bits, most on spleen (0.300)"
    )


def test_diverse_takes_what_is_unlike_the_labeled_ones_and_then_unlike_itself() -> None:
    assert chosen("diverse", SCANS, [scan("labeled", None, 0, 0)], 2) == ["c", "d"]
    # beside a labeled one like it, the odd one is no news
    assert chosen("diverse", SCANS, [scan("labeled", None, 9, 9)], 1) == ["a"]


def test_diverse_begins_in_the_middle_where_nothing_is_labeled() -> None:
    scans = [scan(str(x), 0.1, x) for x in (0, 5, 6, 12)]
    assert chosen("diverse", scans, [], 2) == ["6", "0"]


def test_feature_that_varies_widely_counts_as_much_as_one_that_does_not() -> None:
    scans = [scan("wide", 0.1, 1000, 0), scan("narrow", 0.1, 0, 2), scan("near", 0.1, 0, 0)]
    assert chosen("diverse", scans, [scan("labeled", None, 0, 0)], 2) in (["wide", "narrow"], ["narrow", "wide"])


def test_mixed_takes_unlike_ones_among_the_disputed() -> None:
    rng = np.random.default_rng(0)
    scans = [scan(str(i), i / 100, *rng.normal(size=3)) for i in range(40)]
    picked = chosen("mixed", scans, [], 3)
    assert all(int(name) >= 40 - CANDIDATES * 3 for name in picked)
    assert picked != chosen("disagreement", scans, [], 3)
    assert len(set(picked)) == 3


def test_random_is_that_of_its_seed_and_takes_each_once() -> None:
    scans = [scan(str(i), 0.1, 0) for i in range(10)]
    assert chosen("random", scans, [], 5, seed=1) == chosen("random", scans, [], 5, seed=1)
    assert chosen("random", scans, [], 5, seed=1) != chosen("random", scans, [], 5, seed=2)
    assert sorted(chosen("random", scans, [], 10)) == sorted(map(str, range(10)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_more_than_there_are(strategy: str) -> None:
    assert sorted(chosen(strategy, SCANS, [], 9)) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("strategy", ["disagreement", "mixed"])
def test_what_needs_teachers_is_refused_without(strategy: str) -> None:
    without = [ScanOpinion("a", {"foreground_entropy": 0.1}, {}, [0.0])]
    with pytest.raises(InputError, match=rf"--strategy {strategy}: expected a training run with teachers"):
        choose_scans(strategy, without, [], 1)


def test_unknown_strategy_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of random, disagreement, diverse, mixed, got 'best'"):
        choose_scans("best", SCANS, [], 1)
