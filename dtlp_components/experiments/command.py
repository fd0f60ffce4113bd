# SPDX-License-Identifier: Apache-2.0
"""``python -m dtlp_components experiment``: train variants of a bundle with several seeds, score and compare them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..errors import InputError
from ..files import read_object, write_json, write_text
from ..metrics.conventions import CONVENTIONS
from ..report.compare import compare_runs
from ..report.scores import fraction_note
from ..tables import number_of
from .folds import DATALIST
from .plan import Experiment, PlannedRun, find_experiment, read_experiment
from .round_tables import print_rounds
from .rounds import Rounds, by_strategy, read_rounds, run_rounds
from .runner import Runner, is_done, refuse_other_settings
from .slurm import array_script

__all__ = ["run_experiment"]

RECORD = "experiment.json"


def run_experiment(
    experiment: str,
    *,
    output: str = "",
    dataset_dir: str = "",
    datalist: str = "",
    fraction: float = 1.0,
    jobs: int = 1,
    only: int = -1,
    slurm: str = "",
    bundle: str = "",
) -> None:
    """
    Train every variant of an experiment with every seed, evaluate them, and print a comparison.

    An experiment is a JSON file: a bundle, variants (a method, an overlay, values of keys), seeds, sections to score.
    Those of the paper's tables come with the package and are given by name, without a path. Finished runs are not
    repeated, so the same command resumes an interrupted experiment; failed runs are listed at the end and do not stop
    the others.

    A file with `strategies` and `labels` is run in rounds instead: train on the first labels, choose the next scans
    with each strategy as `dtlp next` does, reveal their labels, train again.

    Args:
        experiment: the file, or the name of an experiment that comes with the package.
        output: folder for the runs; by default, experiments/NAME.
        dataset_dir: folder of the scans, if not the bundle's own.
        datalist: the lists of scans, if not the bundle's own.
        fraction: train this part of the iterations, such as 0.1, to see what is worth the rest; every table says so.
        jobs: how many runs at a time; each has a GPU of its own if there are any.
        only: number of the one run to do, from 0, as an array job does; no table then.
        slurm: write the script of an array job to this file, a task for each run, and train nothing.
        bundle: folder or name of the bundle, if not the file's.

    Raises:
        InputError: if the file is not an experiment, a folder has runs of other settings, or a run failed.
    """
    file = find_experiment(experiment)
    rounds = read_rounds(file, float(fraction), bundle)
    plan = rounds.experiment if rounds else read_experiment(file, float(fraction), bundle)
    if plan.convention not in CONVENTIONS:
        raise InputError(f"{file}: convention: expected one of {', '.join(CONVENTIONS)}, got {plan.convention!r}.")
    if jobs < 1:
        raise InputError(f"--jobs: expected an integer of at least 1, got {jobs}.")
    name = file.stem if plan.fraction == 1 else f"{file.stem}_fraction_{plan.fraction:g}"
    folder = Path(output) if output else Path("experiments") / name
    places = {key: value for key, value in (("dataset_dir", dataset_dir), ("datalist", datalist)) if value}
    if rounds:
        if slurm or only >= 0:
            raise InputError(f"--slurm, --only: expected neither for {file}, whose rounds depend on each other.")
        _run_rounds(rounds, folder, places, jobs)
        return
    runs = plan.runs(folder, places)
    refuse_other_settings(runs)
    if only >= len(runs):
        raise InputError(f"--only: expected the number of a run, from 0 to {len(runs) - 1}, got {only}.")
    if slurm:
        _write_slurm(slurm, name, len(runs), folder, experiment, places, plan.fraction)
        return
    _write_record(plan, file.stem, folder, runs)

    runner = Runner(jobs, list(range(torch.cuda.device_count())))
    if only >= 0:
        runner.run(runs[only : only + 1])
    else:
        runner.run_alone(folder, runs)
        _print_tables(plan, runs)
    runner.raise_if_failed()


def _run_rounds(rounds: Rounds, folder: Path, places: dict[str, str], jobs: int) -> None:
    plan = rounds.experiment
    chains = run_rounds(rounds, folder, places, jobs, list(range(torch.cuda.device_count())))
    print(f"\n{plan.title}")
    if said := fraction_note(plan.fraction):
        print(said)
    runs = {
        strategy: [[chain.runs[i].run for chain in found] for i in range(len(rounds.labels))]
        for strategy, found in by_strategy(chains)
    }
    counts = [len(read_object(run.run.root / DATALIST)["training"]) for run in chains[0].runs]
    for section in plan.sections:
        picture = folder / f"rounds_{section}.png"
        print_rounds(runs, counts, section, plan.convention, picture)
        print(f"Curves: {os.path.abspath(picture)}")


def _print_tables(plan: Experiment, runs: list[PlannedRun]) -> None:
    print(f"\n{plan.title}")
    if said := fraction_note(plan.fraction):
        print(said)
    by_variant = {
        variant.name: [run for run in runs if run.variant.name == variant.name and is_done(run)]
        for variant in plan.variants
    }
    for variant, found in by_variant.items():
        if len(found) < len(plan.seeds):
            print(f"{variant}: {len(found)} of {number_of(len(plan.seeds), 'seed')} finished.")
    there = [f"{name}={','.join(str(run.run.root) for run in found)}" for name, found in by_variant.items() if found]
    for section in plan.sections if there else []:
        compare_runs(*there, section=section, convention=plan.convention)


def _write_record(plan: Experiment, name: str, folder: Path, runs: list[PlannedRun]) -> None:
    """What the report needs to know of the runs that lie beside it."""
    variants: dict[str, list[str]] = {}
    for run in runs:
        variants.setdefault(run.variant.name, []).append(str(run.run.root.relative_to(folder)))
    record = {
        "name": name,
        "title": plan.title,
        "bundle": str(plan.bundle),
        "fraction": plan.fraction,
        "sections": plan.sections,
        "convention": plan.convention,
        "variants": {variant.name: variants[variant.name] for variant in plan.variants},
    }
    write_json(folder / RECORD, record)


def _write_slurm(
    script: str, name: str, count: int, folder: Path, experiment: str, places: dict[str, str], fraction: float
) -> None:
    words = [experiment, "--output", str(folder)]
    for key, value in places.items():
        words += [f"--{key}", os.path.abspath(value)]
    if fraction < 1:
        words += ["--fraction", f"{fraction:g}"]
    logs = os.path.abspath(folder)
    os.makedirs(logs, exist_ok=True)
    write_text(Path(script), array_script(name, count, os.getcwd(), logs, words))
    print(f"{script}: {count} tasks. Submit with: sbatch {script}")
    print("When all tasks are done, run the same command without --slurm to print the tables.")
