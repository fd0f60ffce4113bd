# SPDX-License-Identifier: Apache-2.0
"""Experiments as a page of documentation: tables in Markdown, with what has to be known to repeat them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..metrics.conventions import CONVENTIONS
from ..tables import markdown, number_of
from .compare import comparison_rows
from .scores import Training, compare, fraction_note, has_scores

__all__ = ["experiment_text", "machines"]

SHOWN = ("dice", "hd95", "nsd")


def experiment_text(
    plan: Mapping[str, Any],
    trainings: Sequence[Training],
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    section: str = "",
) -> str:
    """
    One experiment: a heading, how and where it was run, a table for each score, and what the trainings took.

    Args:
        plan: record of the experiment.
        trainings: with their scores, the baseline first.
        records: of the trainings' runs, by name.
        section: of the datalist, that was scored; named where an experiment has several.
    """
    convention = str(plan.get("convention", "native"))
    units = CONVENTIONS[convention].units
    fraction = float(plan.get("fraction", 1))
    several = len(plan.get("sections", [])) > 1
    title = f"{plan.get('title')}, section `{section}`" if several else plan.get("title")
    lines = [f"## {title}", "", _how(plan, records, fraction), ""]
    if said := fraction_note(fraction):
        lines += [f"**{said}**", ""]
    for metric in SHOWN:
        if not has_scores(trainings, metric):
            continue
        found, left_out = compare(trainings, metric)
        rows = comparison_rows(found)
        note = f" Left out, since some run has no value for them: {number_of(left_out, 'case')}." if left_out else ""
        lines += [f"{metric} [{units[metric]}], {number_of(found[0].cases, 'case')}.{note}", ""]
        lines += [markdown([list(rows[0]), *(list(row.values()) for row in rows)]), ""]
    costs = [["training", "iterations", "seconds per iteration", "peak memory [GB]"]]
    for name, of_seeds in records.items():
        known = [record.get("cost", {}) for record in of_seeds if record]
        seconds = [float(cost["seconds_per_iteration"]) for cost in known if "seconds_per_iteration" in cost]
        memory = [float(cost["peak_memory_gb"]) for cost in known if "peak_memory_gb" in cost]
        if seconds and memory:
            iterations = str(of_seeds[0].get("iteration", ""))
            costs.append([name, iterations, f"{np.median(seconds):.2f}", f"{max(memory):.2f}"])
    if len(costs) > 1:
        lines += [markdown(costs), ""]
    lines += [f"Scores: {trainings[0].convention}", ""]
    return "\n".join(lines)


def _how(plan: Mapping[str, Any], records: Mapping[str, Sequence[Mapping[str, Any]]], fraction: float) -> str:
    """Command, machine, commit and data, in sentences."""
    known = [record for of_seeds in records.values() for record in of_seeds if record]
    name = str(plan.get("name", ""))
    words = ["python", "-m", "dtlp_components", "experiment", name]
    command = f"`{shlex.join(words if fraction == 1 else [*words, '--fraction', f'{fraction:g}'])}`"
    if not known:
        return f"{command}."
    commits = sorted({str(record.get("environment", {}).get("git")).split(",")[0][:9] for record in known})
    # labeled-only trainings have no unlabeled scans, the others do
    every = [record.get("datalist", {}).get("scans", {}) for record in known]
    scans: Mapping[str, int] = max(every, key=lambda found: sum(found.values()), default={})
    counts = ", ".join(f"{count} {section}" for section, count in scans.items())
    return f"{command}; {machines(known)}; commit {', '.join(commits)}; scans: {counts}."


def machines(records: Sequence[Mapping[str, Any]]) -> str:
    """
    Where trainings ran, each machine once, and how precisely: a processor with AMX computes in half precision by
    default, so the trainings of one experiment may differ.

    Args:
        records: of :py:class:`dtlp_components.RunRecord`.

    Example:
        >>> machines([{"environment": {"device": "CPU", "processor": "2 x Xeon", "threads": 1, "torch": "2.13.0"}}])
        'CPU, 2 x Xeon, 1 thread, torch 2.13.0'
    """
    found = set()
    for record in records:
        place = record.get("environment", {})
        facts = [place.get("device"), place.get("processor"), number_of(place.get("threads", 0), "thread")]
        if place.get("torch"):
            facts.append(f"torch {place['torch']}")
        if record.get("settings", {}).get("amp"):
            facts.append("half precision")
        found.add(", ".join(str(fact) for fact in facts))
    return "; ".join(sorted(found))
