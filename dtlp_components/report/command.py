# SPDX-License-Identifier: Apache-2.0
"""``python -m dtlp_components report``: what trainings have come to, as one page."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..files import read_object, write_text
from ..handlers.training_curves import draw_curves, read_losses
from ..metrics.conventions import CONVENTIONS, METRICS
from ..run_folder import RunFolder
from ..tables import number_of
from .cases import BINS, CaseMaps, CasePredictor
from .compare import comparison_rows
from .figures import draw_calibration, draw_case, draw_class_weights, draw_differences, draw_dots
from .page import Figure, Section, Table, embed_figure, render_page
from .results import experiment_text, machines
from .scores import Comparison, Training, compare, fraction_note, has_scores, name_and_runs, read_training

__all__ = ["write_report"]

EXPERIMENT = "experiment.json"
DRAWN = ("dice", "hd95")  # as plots of differences
SHOWN_MISSED = 5  # names of cases

Compared = dict[str, tuple[list[Comparison], int]]  # lines and cases left out, by score


def write_report(
    *runs: str,
    output: str = "report.html",
    bundle: str = "",
    section: str = "",
    convention: str = "",
    dataset_dir: str = "",
    datalist: str = "",
    case_of: str = "",
    calibration_cases: int = 8,
    note: str = "",
) -> None:
    """
    Write a report that compares training runs: scores with intervals and tests, curves, cases, cost.

    The report is a single HTML file that works offline and can be printed. Pictures of the worst, the median and the
    best case need the scans and the training checkpoint; if these are missing, the report says so and omits them. If
    the output ends in .md, only the tables of any number of experiments are written, as Markdown for documentation.

    Args:
        runs: folder of an experiment, or training runs as in `compare`: FOLDER or NAME=FOLDER,FOLDER,... The first is
            the baseline.
        output: HTML file.
        bundle: folder or name of the bundle that was trained; by default, that of the experiment. Needed to show cases.
        section: of the datalist, that was scored; the experiment's first, or testing.
        convention: of scoring; the experiment's, or native.
        dataset_dir: folder of the scans, if not the one used in training.
        datalist: datalist file, if not the one used in training.
        case_of: name of the training whose cases are shown; by default, the last one.
        note: a sentence of your own at the top, such as what else ran on the machine.
        calibration_cases: number of cases for the calibration curve, including the three that are shown.

    Raises:
        InputError: if there are no scores, or they cannot be compared.
    """
    if output.endswith(".md"):
        _write_results(runs, output, note)
        return
    plan, given = _expand(runs)
    section = section or str(plan.get("sections", ["testing"])[0])
    convention = convention or str(plan.get("convention", "native"))
    if convention not in CONVENTIONS:
        raise InputError(f"--convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}.")
    trainings = [read_training(name, folders, section, convention) for name, folders in given]
    # refuses what cannot be compared, before anything takes time
    drawn = [metric for metric in METRICS if metric in DRAWN or has_scores(trainings, metric)]
    compared = {metric: compare(trainings, metric) for metric in drawn}
    shown = next((t for t in trainings if t.name == case_of), None) if case_of else trainings[-1]
    if shown is None:
        raise InputError(f"--case_of: expected one of {', '.join(t.name for t in trainings)}, got {case_of!r}.")

    notes = [text for text in (note, fraction_note(float(plan.get("fraction", 1)))) if text]
    records = {training.name: [_record(run) for run in training.runs] for training in trainings}
    sections = [
        Section("scores", "Scores", [trainings[0].convention], _score_tables(trainings, compared, convention)),
        Section("differences", "Differences and cases", figures=_score_figures(trainings, compared, convention)),
        Section("missed", "Missed classes", *_missed(trainings)),
        _case_section(shown, str(bundle or plan.get("bundle", "")), section, dataset_dir, datalist, calibration_cases),
        Section("curves", "Curves", figures=_curve_figures(trainings, records)),
        Section("cost", "Cost", tables=[_cost_table(records)]),
        Section("record", "Settings and environment", tables=_record_tables(records)),
    ]
    cases, seeds = len(trainings[0].cases), max(len(t.runs) for t in trainings)
    summary = (
        f"{number_of(len(trainings), 'training')}, up to {number_of(seeds, 'seed')} each, evaluated on "
        f"{number_of(cases, 'case')} of section {section}."
    )
    title = str(plan.get("title") or f"{shown.name}: scores of {section}")
    html = render_page(title, summary, notes, sections, f"Written by dtlp_components {__version__}.")
    write_text(Path(output), html)
    print(f"Report: {os.path.abspath(output)} ({len(html.encode()) / 1e6:.1f} MB)")


def _write_results(folders: Sequence[str], output: str, note: str) -> None:
    """Several experiments, one after the other, in Markdown."""
    command = shlex.join(["python", "-m", "dtlp_components", "report", *folders, "--output", output])
    texts = [
        f"# What was measured\n\nWritten by `{command}`, not by hand. What the columns mean: "
        "[Reproduce](how-to/reproduce.md#what-the-table-says). Earlier measurements, made by hand: "
        "[Lab notes](lab-notes/index.md).\n",
        *([f"{note}\n"] if note else []),
    ]
    for folder in folders:
        plan, given = _expand([folder])
        if not plan:
            raise InputError(f"{folder}: expected the folder of an experiment, got one without {EXPERIMENT}.")
        convention = str(plan.get("convention", "native"))
        for section in plan.get("sections", ["testing"]):
            trainings = [read_training(name, runs, str(section), convention) for name, runs in given]
            records = {training.name: [_record(run) for run in training.runs] for training in trainings}
            texts.append(experiment_text(plan, trainings, records, str(section)))
    write_text(Path(output), "\n".join(texts))
    print(f"Results: {os.path.abspath(output)}")


def _expand(runs: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, list[RunFolder]]]]:
    """The record of an experiment, empty if there is none, and trainings by name; those without scores are left out."""
    if not runs:
        raise InputError("report: expected the folder of an experiment, or training runs, got none.")
    if len(runs) > 1 or not Path(runs[0], EXPERIMENT).is_file():
        return {}, [name_and_runs(run) for run in runs]
    folder = Path(runs[0])
    plan = read_object(folder / EXPERIMENT, "the record of an experiment")
    variants = plan.get("variants")
    if not isinstance(variants, dict) or not all(isinstance(places, list) for places in variants.values()):
        raise InputError(f"{folder / EXPERIMENT}: expected the record of an experiment, got something else.")
    given = []
    for name, places in variants.items():
        found = [RunFolder(folder / str(place)) for place in places]
        if scored := [run for run in found if run.evaluation.is_dir()]:
            given.append((str(name), scored))
    if not given:
        raise InputError(f"{folder}: expected runs with scores, got none; run the experiment first.")
    return plan, given


def _record(run: RunFolder) -> dict[str, Any]:
    return read_object(run.record, "the record of a training") if run.record.is_file() else {}


def _score_tables(trainings: Sequence[Training], compared: Compared, convention: str) -> list[Table]:
    tables, units = [], CONVENTIONS[convention].units
    for metric, (lines, left_out) in compared.items():
        rows = comparison_rows(lines)
        caption = f"{_label(metric)} [{units[metric]}], {number_of(lines[0].cases, 'case')}" + (
            f"; {left_out} without a value in some run excluded" if left_out else ""
        )
        tables.append(Table(caption, list(rows[0]), [list(row.values()) for row in rows]))
    if len(trainings[0].classes) > 1:
        head = ["training", *trainings[0].classes]
        means = [
            [t.name, *(f"{np.nanmean(t.scores[f'{c}_dice']):.2f}" for c in trainings[0].classes)] for t in trainings
        ]
        tables.append(Table("Dice [%] of each class, mean over cases and seeds", head, means))
    return tables


def _score_figures(trainings: Sequence[Training], compared: Compared, convention: str) -> list[Figure]:
    units = CONVENTIONS[convention].units
    figures = []
    for metric in DRAWN:
        lines, _ = compared[metric]
        if len(lines) > 1:
            said = "; ".join(
                f"{line.name} {line.difference:+.2f} ({line.difference_interval[0]:+.2f} to "
                f"{line.difference_interval[1]:+.2f})"
                for line in lines[1:]
            )
            figures.append(
                embed_figure(
                    draw_differences(lines, _label(metric), units[metric]),
                    f"{_label(metric)}: difference from {lines[0].name}, paired by case, with 95 % bootstrap interval.",
                    f"Forest plot of differences in {_label(metric)} from {lines[0].name}: {said}.",
                )
            )
    figures.append(
        embed_figure(
            draw_dots(trainings, "dice", "Dice", "%"), "Dice of each case, averaged over seeds.",
                "Dot plot of the Dice of each case for each training; the tables above show the means.",
        )
    )  # fmt: skip
    return figures


def _missed(trainings: Sequence[Training]) -> tuple[list[str], list[Table]]:
    rows = []
    for training in trainings:
        for label in training.classes:
            found = training.scores[f"{label}_dice"] == 0  # (seeds, cases)
            cases = [name for name, any_seed in zip(training.cases, found.any(axis=0), strict=True) if any_seed]
            if cases:
                more = f" and {len(cases) - SHOWN_MISSED} more" if len(cases) > SHOWN_MISSED else ""
                counted = f"{int(found.sum())} of {found.size}"
                rows.append([training.name, label, counted, ", ".join(cases[:SHOWN_MISSED]) + more])
    if not rows:
        return ["No class has a Dice of 0 in any case."], []
    head = ["training", "class", "cases, all seeds", "which"]
    return [], [Table("Classes with Dice 0: no voxel was found, or the class is absent", head, rows)]


def _case_section(
    training: Training, bundle: str, section: str, dataset_dir: str, datalist: str, calibration_cases: int
) -> Section:
    heading = f"Cases of {training.name}"
    if not bundle:
        return Section("cases", heading, ["Add --bundle to see the worst, the median and the best case."])
    try:
        predictor = CasePredictor(bundle, str(training.runs[0].root), dataset_dir, datalist, section)
    except InputError as error:
        return Section("cases", heading, [f"Not shown: {error}"])
    dice = dict(zip(training.cases, training.scores["dice"].mean(axis=0), strict=True))
    ranked = sorted(
        (i for i, name in enumerate(predictor.names) if name in dice), key=lambda i: dice[predictor.names[i]]
    )
    if not ranked:
        return Section("cases", heading, [f"Not shown: no case of the scores is in section {section} of the lists."])
    kinds = dict.fromkeys((ranked[0], ranked[len(ranked) // 2], ranked[-1]))
    names = dict(zip((ranked[-1], ranked[len(ranked) // 2], ranked[0]), ("best", "median", "worst"), strict=False))
    spread = [ranked[round(i)] for i in np.linspace(0, len(ranked) - 1, max(0, calibration_cases))]
    maps: dict[int, CaseMaps] = {}
    calibration = np.zeros((3, BINS))
    for i in dict.fromkeys([*kinds, *spread]):
        found = predictor.predict(i)
        calibration = calibration + found.calibration
        if i in kinds:
            maps[i] = found
    figures = [_case_figure(found, names[i], predictor.label_names) for i, found in maps.items()]
    count = len(dict.fromkeys([*kinds, *spread]))
    figures.append(
        embed_figure(
            draw_calibration({training.name: calibration}),
            f"Accuracy of voxels by the student's confidence, over {number_of(count, 'case')}; voxels that are "
            "background in both prediction and reference are excluded.",
            "Calibration curve: fraction of correct voxels by confidence.",
        )
    )
    text = (
        f"Seed of the first run ({training.runs[0].root.name}), on the training grid. Solid contours: reference; "
        "dotted: prediction of the student or a teacher. Entropy ranges from black (confident) to yellow."
    )
    return Section("cases", heading, [text], figures=figures)


def _case_figure(case: CaseMaps, kind: str, label_names: Sequence[str]) -> Figure:
    dice = ", ".join(f"{name.replace('_', ' ')} {100 * value:.1f}" for name, value in case.dice.items())
    return embed_figure(
        draw_case(case, label_names), f"The {kind} case, {case.name}. Dice on the training grid: {dice}.",
        f"Scan {case.name} in three planes with contours, errors, entropy and each teacher's prediction. Dice: {dice}.",
        pixels=True,
    )  # fmt: skip


def _curve_figures(trainings: Sequence[Training], records: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    figures = []
    for training in trainings:
        run = training.runs[0]
        losses = read_losses(run)
        if not losses:
            continue
        alt = f"Curves of {training.name}: Dice and entropy of each source, losses, learning rate."
        figures.append(
            embed_figure(
                draw_curves(run), f"{training.name}, first seed: Dice and entropy of sources, losses, learning rate",
                alt, folded=True,
            )
        )  # fmt: skip
        names = records[training.name][0].get("settings", {}).get("label_names", [])
        weights = draw_class_weights(losses, [str(name) for name in names])
        if weights is not None:
            caption = f"{training.name}, first seed: weights of the classes by difficulty"
            figures.append(embed_figure(weights, caption, caption, folded=True))
    return figures


def _cost_table(records: dict[str, list[dict[str, Any]]]) -> Table:
    head = ["training", "iterations", "seconds per iteration", "minutes", "peak memory [GB]", "machine"]
    rows = []
    for name, found in records.items():
        costs = [record.get("cost", {}) for record in found if record]
        if not costs:
            rows.append([name, *["not recorded"] * 5])
            continue
        rows.append(
            [
                name,
                str(found[0].get("iteration", "")),
                _range([cost.get("seconds_per_iteration") for cost in costs], "{:.2f}"),
                _range([cost.get("seconds", math.nan) / 60 for cost in costs], "{:.1f}"),
                _range([cost.get("peak_memory_gb") for cost in costs], "{:.2f}"),
                machines([record for record in found if record]),
            ]
        )
    return Table("Time and memory of the trainings; minimum to maximum over seeds", head, rows)


def _range(values: Sequence[float | None], form: str) -> str:
    known = sorted(value for value in values if value is not None and not math.isnan(value))
    if not known:
        return ""
    low, high = form.format(known[0]), form.format(known[-1])
    return low if low == high else f"{low} to {high}"


def _record_tables(records: dict[str, list[dict[str, Any]]]) -> list[Table]:
    found = {name: [record for record in of_seeds if record] for name, of_seeds in records.items()}
    found = {name: of_seeds for name, of_seeds in found.items() if of_seeds}
    if not found:
        return []
    settings = {name: of_seeds[0].get("settings", {}) for name, of_seeds in found.items()}
    keys = list(dict.fromkeys(key for values in settings.values() for key in values))
    differ = [k for k in keys if k != "seed" and len({str(values.get(k)) for values in settings.values()}) > 1]
    names = list(settings)
    rows = [[key, *(_short(settings[name].get(key)) for name in names)] for key in differ]
    rows.append(["seeds", *(", ".join(str(r.get("settings", {}).get("seed")) for r in found[name]) for name in names)])
    tables = [Table("Settings that differ between the trainings", ["key", *names], rows)]
    same = [[key, _short(settings[names[0]].get(key))] for key in keys if key not in differ and key != "seed"]
    first = found[names[0]][0]
    data = first.get("datalist", {})
    facts = [
        *([key, _short(value)] for key, value in first.get("environment", {}).items()),
        ["scans", _short(data.get("scans"))],
        ["checksum of the datalist", str(data.get("sha256"))],
        ["command of the first run", str(first.get("command"))],
    ]
    return [
        *tables,
        Table("Settings that are the same", ["key", "value"], same),
        Table("Environment", ["", "value"], facts),
    ]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


def _label(metric: str) -> str:
    return {"dice": "Dice", "jaccard": "Jaccard", "hd95": "HD95", "asd": "ASD", "nsd": "surface Dice (NSD)"}[metric]
