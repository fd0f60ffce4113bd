# SPDX-License-Identifier: Apache-2.0
"""``python -m dtlp_components compare``: whether one training is better than another, on the same cases."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import read_object, write_text
from ..metrics.conventions import METRICS
from ..run_folder import RunFolder
from ..tables import align, csv_text
from .statistics import bootstrap_interval, holm, wilcoxon_p

__all__ = ["compare_runs"]

LOWER_IS_BETTER = ("hd95", "asd")


@dataclass(frozen=True)
class _Variant:
    """Scores of trainings that differ in their seed alone, ``(seeds, cases)``, and the cases' names."""

    name: str
    cases: list[str]
    scores: np.ndarray
    convention: str


def compare_runs(
    baseline: str,
    *others: str,
    section: str = "testing",
    metric: str = "dice",
    convention: str = "native",
    output: str = "",
) -> None:
    """
    Compare trainings by the scores that `evaluate` wrote, case by case.

    Each is given as FOLDER, or as NAME=FOLDER,FOLDER,... if it was trained with several seeds. Printed are the mean
    over cases (and its standard deviation over seeds), a 95 % bootstrap interval, and, against the first, the mean
    difference with its interval, in how many cases it is better, and the p-value of Wilcoxon's signed-rank test over
    cases, adjusted for the number of comparisons by Holm's method.

    Args:
        baseline: what the others are compared with.
        others: any number of them.
        section: of the datalist, that was scored.
        metric: dice, jaccard, hd95, asd or nsd: the mean over the classes of a case.
        convention: by which the section was scored: native, genericssl or uamt.
        output: CSV file for the table.

    Raises:
        InputError: if scores are missing, or were not made of the same cases by one convention.
    """
    if metric not in METRICS:
        raise InputError(f"--metric: expected one of {', '.join(METRICS)}, got {metric!r}.")
    variants = [_read(given, section, metric, convention) for given in (baseline, *others)]
    first = variants[0]
    for other in variants[1:]:
        if other.convention != first.convention:
            raise InputError(
                f"{other.name}: was scored by {other.convention!r}, {first.name} by {first.convention!r}; expected one "
                "convention. Evaluate one of them again."
            )
        if other.cases != first.cases:
            raise InputError(_other_cases(other, first))
    known = np.isfinite(np.concatenate([variant.scores for variant in variants])).all(axis=0)
    if not known.any():
        raise InputError(f"no case has a value of {metric} in all runs.")
    rows = _rows(variants, known, metric)
    print(f"{metric}, section `{section}`, {int(known.sum())} cases, {first.convention}")
    if not known.all():
        print(f"{int((~known).sum())} cases without a value in some run are left out of all.")
    print(align([list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]))
    if output:
        write_text(output, csv_text(rows))


def _read(given: str, section: str, metric: str, convention: str) -> _Variant:
    name, _, places = given.rpartition("=")
    runs = [RunFolder(place) for place in places.split(",") if place]
    if not runs:
        raise InputError(f"{given!r}: expected FOLDER or NAME=FOLDER,FOLDER, ...")
    tables, conventions = [], []
    for run in runs:
        file = run.cases_csv(section, convention)
        if not file.is_file():
            raise InputError(
                f"{file}: not there; expected the scores of a training. Evaluate it first: python -m dtlp_components "
                f"evaluate BUNDLE --output_dir {run.root} --eval_section {section}"
            )
        with open(file, encoding="utf-8", newline="") as stream:
            tables.append({row["case"]: float(row[metric] or "nan") for row in csv.DictReader(stream)})
        conventions.append(
            str(read_object(run.summary_json(section, convention), "a summary of scores").get("convention"))
        )
    cases = sorted(tables[0])
    variant = _Variant(
        name or Path(places.split(",")[0]).name, cases, np.array([[t.get(c, np.nan) for c in cases] for t in tables]),
        conventions[0],
    )  # fmt: skip
    for run, table, convention in zip(runs, tables, conventions, strict=True):
        if sorted(table) != cases or convention != conventions[0]:
            raise InputError(f"{run.root}: expected the cases and the convention of {runs[0].root}, got others.")
    return variant


def _other_cases(other: _Variant, first: _Variant) -> str:
    missing, more = sorted(set(first.cases) - set(other.cases)), sorted(set(other.cases) - set(first.cases))
    parts = [f"{len(c)} {word} ({c[0]})" for c, word in ((missing, "missing"), (more, "more")) if c]
    return f"{other.name}: expected the {len(first.cases)} cases of {first.name}, got others: {', '.join(parts)}."


def _rows(variants: Sequence[_Variant], known: np.ndarray, metric: str) -> list[dict[str, object]]:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    scores = [variant.scores[:, known] for variant in variants]
    base = scores[0].mean(axis=0)  # (cases,)
    differences = [values - base for values in scores[1:]]  # (seeds, cases)
    adjusted = holm([wilcoxon_p(d.mean(axis=0)) for d in differences])
    rows: list[dict[str, object]] = []
    for i, (variant, values) in enumerate(zip(variants, scores, strict=True)):
        means = values.mean(axis=1)
        spread = f" ± {means.std(ddof=1):.2f}" if len(means) > 1 else ""
        row: dict[str, object] = {
            "training": variant.name, "seeds": len(means), "mean": f"{means.mean():.2f}{spread}",
            "95 %": "{:.2f} to {:.2f}".format(*bootstrap_interval(values)),
            "difference": "", "95 % of it": "", "better in": "", "p (Holm)": "",
        }  # fmt: skip
        if i:
            by_case = differences[i - 1].mean(axis=0)
            row |= {
                "difference": f"{by_case.mean():+.2f}",
                "95 % of it": "{:+.2f} to {:+.2f}".format(*bootstrap_interval(_paired(scores[0], values))),
                "better in": f"{int((sign * by_case > 0).sum())} of {len(by_case)}",
                "p (Holm)": f"{adjusted[i - 1]:.2g}",
            }
        rows.append(row)
    return rows


def _paired(base: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Differences ``(pairs of seeds, cases)``: seed by seed if there are as many, else each with each."""
    if len(base) == len(values):
        return values - base
    return (values[:, None] - base[None]).reshape(-1, values.shape[1])
