# SPDX-License-Identifier: Apache-2.0
"""Scores of trainings as they are read; test_compare.py has the table of a comparison by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.errors import InputError
from dtlp_components.report.scores import compare, name_and_runs, read_training
from dtlp_components.report.statistics import bootstrap_interval, holm, wilcoxon_p
from tests.report.trainings import CLASSES, scored


def test_scores_are_read_seed_by_seed_and_case_by_case(tmp_path: Path) -> None:
    runs = [scored(tmp_path / str(seed), [80, 82, 5 + seed]) for seed in (0, 1)]
    training = read_training("mine", runs, "testing")
    assert training.cases == ["c0", "c1", "c2"]
    assert training.classes == list(CLASSES)
    assert training.scores["dice"].tolist() == [[80, 82, 5], [80, 82, 6]]
    assert training.scores["liver_hd95"].tolist() == [[20, 18, 95], [20, 18, 94]]
    assert training.missed == 2


def test_line_of_a_comparison_is_what_the_statistics_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # ten cases, whose names are in the order of their numbers
    scores = {name: 80 + rng.normal(shift, 2, (3, 10)) for name, shift in (("a", 0), ("b", 1), ("c", 3))}
    trainings = [
        read_training(name, [scored(tmp_path / name / str(i), list(row)) for i, row in enumerate(values)], "testing")
        for name, values in scores.items()
    ]
    (first, *others), left_out = compare(trainings)
    assert left_out == 0
    assert (first.name, math.isnan(first.difference), math.isnan(first.p)) == ("a", True, True)
    expected = holm([wilcoxon_p((scores[n] - scores["a"].mean(axis=0)).mean(axis=0)) for n in "bc"])
    for line, name, p in zip(others, "bc", expected, strict=True):
        values = scores[name]
        assert line.mean == pytest.approx(values.mean())
        assert line.spread == pytest.approx(values.mean(axis=1).std(ddof=1))
        assert line.interval == pytest.approx(bootstrap_interval(values))
        assert line.difference_interval == pytest.approx(bootstrap_interval(values - scores["a"]))
        assert line.better == int((values.mean(axis=0) > scores["a"].mean(axis=0)).sum())
        assert line.p == pytest.approx(p)


def test_name_stands_before_its_folders() -> None:
    name, runs = name_and_runs("with DTLP=a/1,a/2")
    assert (name, [str(run.root) for run in runs]) == ("with DTLP", ["a/1", "a/2"])
    assert name_and_runs("runs/mine")[0] == "mine"
    with pytest.raises(InputError, match="expected FOLDER or NAME=FOLDER"):
        name_and_runs("x=")
