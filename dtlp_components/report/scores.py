# SPDX-License-Identifier: Apache-2.0
"""Scores of trainings, as ``evaluate`` wrote them, and what tells two of them apart."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..files import read_object
from ..metrics.conventions import METRICS
from ..run_folder import RunFolder
from .statistics import bootstrap_interval, holm, wilcoxon_p

__all__ = ["Comparison", "Training", "compare", "fraction_note", "has_scores", "name_and_runs", "read_training"]

LOWER_IS_BETTER = ("hd95", "asd")


@dataclass(frozen=True)
class Training:
    """
    Trainings that differ in their seed alone, and their scores.

    Args:
        name: in tables.
        runs: a folder for each seed.
        cases: names, sorted.
        scores: by column of the table of cases, such as ``dice`` or ``liver_hd95``: ``(seeds, cases)``, NaN for none.
        convention: of scoring, in words.
    """

    name: str
    runs: list[RunFolder]
    cases: list[str]
    scores: dict[str, np.ndarray]
    convention: str

    @property
    def classes(self) -> list[str]:
        """Names of the classes that were scored."""
        return [name.removesuffix("_dice") for name in self.scores if name.endswith("_dice")]

    @property
    def missed(self) -> int:
        """Classes of cases that were missed, of all seeds."""
        return int(np.nansum(self.scores["missed"]))


@dataclass(frozen=True)
class Comparison:
    """
    One line of a comparison; the lower half is about the difference to the first, and NaN for the first.

    Args:
        name: of the training.
        seeds: how many.
        mean: over cases and seeds.
        spread: standard deviation over seeds of the mean over cases, NaN for one seed.
        interval: of the mean, 95 %.
        missed: classes of cases that were missed, a seed.
        difference: mean over cases of the difference to the first.
        difference_interval: of that, 95 %.
        better: cases in which it is better.
        cases: how many.
        p: of Wilcoxon's signed-rank test over cases, adjusted by Holm's method.
    """

    name: str
    seeds: int
    mean: float
    spread: float
    interval: tuple[float, float]
    missed: float
    difference: float
    difference_interval: tuple[float, float]
    better: int
    cases: int
    p: float


def name_and_runs(given: str) -> tuple[str, list[RunFolder]]:
    """
    What ``FOLDER`` or ``NAME=FOLDER,FOLDER,...`` means.

    Raises:
        InputError: if there is no folder in it.
    """
    name, _, places = given.rpartition("=")
    runs = [RunFolder(place) for place in places.split(",") if place]
    if not runs:
        raise InputError(f"{given!r}: expected FOLDER or NAME=FOLDER,FOLDER, ...")
    return name or runs[0].root.name, runs


def read_training(name: str, runs: Sequence[RunFolder], section: str, convention: str = "native") -> Training:
    """
    Read the scores of a training's seeds.

    Args:
        name: in tables.
        runs: a folder for each seed.
        section: of the datalist that was scored.
        convention: of scoring.

    Raises:
        InputError: if scores are missing, or the seeds have other cases or conventions.
    """
    tables, rules = [], []
    for run in runs:
        file = run.cases_csv(section, convention)
        if not file.is_file():
            command = ["dtlp", "evaluate", "BUNDLE", "--output_dir", str(run.root), "--eval_section", section]
            raise InputError(
                f"{file}: no such file; expected the scores of a training run. Evaluate it first: {shlex.join(command)}"
            )
        with open(file, encoding="utf-8", newline="") as stream:
            tables.append({row["case"]: row for row in csv.DictReader(stream)})
        rules.append(str(read_object(run.summary_json(section, convention), "a summary of scores").get("convention")))
    cases = sorted(tables[0])
    for run, table, rule in zip(runs, tables, rules, strict=True):
        if sorted(table) != cases or rule != rules[0]:
            raise InputError(f"{run.root}: expected the cases and the convention of {runs[0].root}, got others.")
    columns = [column for column in next(iter(tables[0].values()), {}) if column not in ("case", "domain")]
    scores = {
        column: np.array([[float(table[case].get(column) or "nan") for case in cases] for table in tables])
        for column in columns
    }
    return Training(name, list(runs), cases, scores, rules[0])


def fraction_note(fraction: float) -> str:
    """What has to be said beside scores of trainings that were cut short; empty for whole ones."""
    if fraction == 1:
        return ""
    return f"Trained for only {100 * fraction:g} % of the iterations: a hint at what to train in full, not a result."


def has_scores(trainings: Sequence[Training], metric: str) -> bool:
    """Whether any case has a value; published conventions have no surface Dice."""
    return any(bool(np.isfinite(training.scores[metric]).any()) for training in trainings)


def compare(trainings: Sequence[Training], metric: str = "dice") -> tuple[list[Comparison], int]:
    """
    Compare trainings by one score, case by case, with the first.

    Args:
        trainings: what is compared, the baseline first.
        metric: one of ``METRICS``: the mean over the classes of a case.

    Returns:
        A line for each, and how many cases were left out since a run has no value of them.

    Raises:
        InputError: if they were not scored on the same cases by one convention, or no case has a value in all.
    """
    if metric not in METRICS:
        raise InputError(f"--metric: expected one of {', '.join(METRICS)}, got {metric!r}.")
    first = trainings[0]
    for other in trainings[1:]:
        if other.convention != first.convention:
            raise InputError(
                f"{other.name}: expected the convention of {first.name}, {first.convention!r}, got "
                f"{other.convention!r}. Evaluate one of them again."
            )
        if other.cases != first.cases:
            raise InputError(_other_cases(other, first))
    known = np.isfinite(np.concatenate([training.scores[metric] for training in trainings])).all(axis=0)
    if not known.any():
        raise InputError(f"--metric {metric}: expected at least one case with a value in all runs, got none.")
    scores = [training.scores[metric][:, known] for training in trainings]
    base = scores[0].mean(axis=0)  # (cases,)
    by_case = [values.mean(axis=0) - base for values in scores]  # (cases,)
    adjusted = [math.nan, *holm([wilcoxon_p(difference) for difference in by_case[1:]])]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    lines = []
    for i, (training, values) in enumerate(zip(trainings, scores, strict=True)):
        means = values.mean(axis=1)
        paired = (math.nan, math.nan) if i == 0 else bootstrap_interval(_paired(scores[0], values))
        lines.append(
            Comparison(
                name=training.name,
                seeds=len(means),
                mean=float(means.mean()),
                spread=float(means.std(ddof=1)) if len(means) > 1 else math.nan,
                interval=bootstrap_interval(values),
                missed=training.missed / len(means),
                difference=math.nan if i == 0 else float(by_case[i].mean()),
                difference_interval=paired,
                better=int((sign * by_case[i] > 0).sum()),
                cases=int(known.sum()),
                p=adjusted[i],
            )
        )
    return lines, int((~known).sum())


def _other_cases(other: Training, first: Training) -> str:
    missing, more = sorted(set(first.cases) - set(other.cases)), sorted(set(other.cases) - set(first.cases))
    parts = [f"{len(c)} {word} ({c[0]})" for c, word in ((missing, "missing"), (more, "more")) if c]
    return f"{other.name}: expected the {len(first.cases)} cases of {first.name}, got others: {', '.join(parts)}."


def _paired(base: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Differences ``(pairs of seeds, cases)``: seed by seed if there are as many, else each with each."""
    if len(base) == len(values):
        paired: np.ndarray = values - base
        return paired
    return np.asarray((values[:, None] - base[None]).reshape(-1, values.shape[1]))
