# SPDX-License-Identifier: Apache-2.0
"""``python -m dtlp_components compare``: whether one training is better than another, on the same cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..files import write_text
from ..tables import align, csv_text, number_of
from .scores import Comparison, compare, name_and_runs, read_training

__all__ = ["compare_runs", "comparison_rows"]


def compare_runs(
    baseline: str,
    *others: str,
    section: str = "testing",
    metric: str = "dice",
    convention: str = "native",
    output: str = "",
) -> None:
    """
    Compare training runs case by case, using the scores that `evaluate` wrote.

    Each is given as FOLDER, or as NAME=FOLDER,FOLDER,... if it was trained with several seeds. The table shows the mean
    over cases (and its standard deviation over seeds), a 95 % bootstrap interval, the number of missed classes (per
    seed), and, relative to the first, the mean difference with its interval, the number of cases in which it is better,
    and the p-value of Wilcoxon's signed-rank test over cases, adjusted for multiple comparisons by Holm's method.

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
    trainings = [read_training(*name_and_runs(given), section, convention) for given in (baseline, *others)]
    lines, left_out = compare(trainings, metric)
    rows = comparison_rows(lines)
    print(f"{metric}, section `{section}`, {number_of(lines[0].cases, 'case')}, {trainings[0].convention}")
    if left_out:
        print(f"Left out of all, since some run has no value for them: {number_of(left_out, 'case')}.")
    print(align([list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]))
    if output:
        write_text(Path(output), csv_text(rows))


def comparison_rows(lines: Sequence[Comparison]) -> list[dict[str, str]]:
    """Lines of a comparison as texts by column."""
    return [
        {
            "training": line.name,
            "seeds": str(line.seeds),
            "mean": f"{line.mean:.2f}" + ("" if math.isnan(line.spread) else f" ± {line.spread:.2f}"),
            "95 %": "{:.2f} to {:.2f}".format(*line.interval),
            "missed": f"{line.missed:.1f}".removesuffix(".0"),
            "difference": "" if math.isnan(line.difference) else f"{line.difference:+.2f}",
            "95 % of it": "" if math.isnan(line.difference) else "{:+.2f} to {:+.2f}".format(*line.difference_interval),
            "better in": "" if math.isnan(line.difference) else f"{line.better} of {line.cases}",
            "p (Holm)": "" if math.isnan(line.p) else f"{line.p:.2g}",
        }
        for line in lines
    ]
