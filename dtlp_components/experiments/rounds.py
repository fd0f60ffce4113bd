# SPDX-License-Identifier: Apache-2.0
"""Rounds of labeling, simulated: train on a few labels, choose the next scans, reveal their labels, train again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.datalists import datalist, load_datalist
from ..errors import InputError
from ..files import read_object, write_json
from ..keys import DatalistKeys as Keys
from ..labeling.pool import find_pool
from ..labeling.strategies import STRATEGIES, choose_scans
from ..run_folder import RunFolder
from .folds import DATALIST, checksum_of, find_places
from .plan import Experiment, PlannedRun, read_experiment
from .runner import Runner, is_done, refuse_other_settings

__all__ = ["Chain", "Rounds", "read_rounds", "run_rounds"]

KEYS = ("strategies", "labels", "pool", "held_out")
START = "start"


@dataclass(frozen=True)
class Rounds:
    """
    An experiment of rounds.

    Args:
        experiment: with one variant, which every round trains.
        strategies: that are compared, the baseline first.
        labels: numbers of labeled scans, ascending; shares of all of them where they are fractions.
        pool: scans that take part, drawn with seed 0; all if 0.
        held_out: of the labeled scans, drawn first, to score on as ``testing``; 0 takes the datalist's own.
    """

    experiment: Experiment
    strategies: list[str]
    labels: list[float]
    pool: int = 0
    held_out: int = 0

    def counts(self, available: int, where: str) -> list[int]:
        """
        Numbers of labeled scans.

        Raises:
            InputError: if there are fewer, or two rounds have the same number.
        """
        counts = [round(n * available) if isinstance(n, float) and n <= 1 else int(n) for n in self.labels]
        if counts[-1] > available or counts[0] < 1 or sorted(set(counts)) != counts:
            raise InputError(
                f"labels: expected increasing numbers of scans from 1 to the {available} labeled ones in {where}, got "
                f"{counts}."
            )
        return counts


@dataclass(frozen=True)
class Chain:
    """
    The rounds of a strategy and a seed.

    Args:
        strategy: how scans are chosen.
        seed: of the first scans and of every training.
        chosen: numbers of the labeled scans in the pool, in the order in which they were chosen.
        runs: a training for each round.
    """

    strategy: str
    seed: int
    chosen: tuple[int, ...]
    runs: tuple[PlannedRun, ...] = ()


def read_rounds(file: Path, fraction: float, bundle: str = "") -> Rounds | None:
    """
    Read an experiment's file that has strategies; ``None`` if it has none.

    Raises:
        InputError: if a key or value is none that it may have.
    """
    content = read_object(file, "an experiment")
    if "strategies" not in content:
        return None
    experiment = read_experiment(file, fraction, bundle, KEYS)
    strategies, labels = content["strategies"], content.get("labels")
    if not isinstance(strategies, list) or not strategies or any(name not in STRATEGIES for name in strategies):
        raise InputError(f"{file}: strategies: expected a list of {', '.join(STRATEGIES)}, got {strategies!r}.")
    if not isinstance(labels, list) or len(labels) < 2 or any(type(n) not in (int, float) or n <= 0 for n in labels):
        raise InputError(f"{file}: labels: expected at least two numbers of labeled scans, got {labels!r}.")
    sizes = {key: content.get(key, 0) for key in ("pool", "held_out")}
    for key, size in sizes.items():
        if type(size) is not int or size < 0:
            raise InputError(f"{file}: {key}: expected a number of scans of at least 0, got {size!r}.")
    if len(experiment.variants) > 1:
        raise InputError(
            f"{file}: variants: expected only one together with strategies, got {len(experiment.variants)}."
        )
    return Rounds(experiment, list(dict.fromkeys(strategies)), labels, **sizes)


def run_rounds(rounds: Rounds, folder: Path, places: Mapping[str, str], jobs: int, gpus: Sequence[int]) -> list[Chain]:
    """
    Train every round of every strategy and seed; what is done is not done again.

    Args:
        rounds: the plan.
        folder: for all runs.
        places: ``dataset_dir`` and ``datalist``, where they are not the bundle's own.
        jobs: trainings at a time.
        gpus: numbers of the GPUs.

    Returns:
        Chains that were trained and scored to their end.

    Raises:
        InputError: if there are too few scans, or a training failed.
    """
    plan = rounds.experiment
    where = find_places(plan.train_files()[0], places.get("datalist", ""), places.get("dataset_dir", ""))
    scans = {"dataset_dir": str(where["dataset_dir"])}
    base, pool = _lists(rounds, where)
    counts = rounds.counts(len(pool), str(where["datalist"]))
    chains = []
    for seed in plan.seeds:
        order = np.random.RandomState(seed).permutation(len(pool)).tolist()
        chains += [Chain(strategy, seed, tuple(order[: counts[0]])) for strategy in rounds.strategies]
    runner = Runner(jobs, gpus)
    for number, count in enumerate(counts):
        if number:
            chains = [_choose(chain, count, pool, scans, plan) for chain in chains]
        planned = [_plan_round(chain, number, count, base, pool, folder, scans, plan) for chain in chains]
        chains = [chain for chain, _ in planned]
        # the first round is the same for all strategies
        rounds_now = {chain.runs[-1].run.root: (chain.runs[-1], lists) for chain, lists in planned}
        runs = [run for run, _ in rounds_now.values()]
        refuse_other_settings(runs)
        for root, (_, lists) in rounds_now.items():
            root.mkdir(parents=True, exist_ok=True)
            write_json(root / DATALIST, lists)
        print(f"\nRound {number + 1} of {len(counts)}: {count} labeled scans.", flush=True)
        runner.run_alone(folder, runs)
        runner.raise_if_failed()
    return [chain for chain in chains if all(is_done(run) for run in chain.runs)]


def _lists(rounds: Rounds, where: Mapping[str, Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The datalist with what is scored, and the labeled scans that take part, with absolute paths."""
    file, scans = str(where["datalist"]), str(where["dataset_dir"])
    content = {section: load_datalist(file, section, scans) for section in (Keys.VALIDATION.value, Keys.TESTING.value)}
    labeled = load_datalist(file, Keys.TRAINING.value, scans)
    order = np.random.RandomState(0).permutation(len(labeled)).tolist()
    if rounds.held_out:
        content[Keys.TESTING.value] = [labeled[i] for i in order[: rounds.held_out]]
        order = order[rounds.held_out :]
    if rounds.pool:
        order = order[: rounds.pool]
    return {"labels": read_object(file).get("labels", {}), **content}, [labeled[i] for i in sorted(order)]


def _plan_round(
    chain: Chain, number: int, count: int, base: Mapping[str, Any], pool: Sequence[Mapping[str, Any]], root: Path,
    places: Mapping[str, str], plan: Experiment,
) -> tuple[Chain, dict[str, Any]]:  # fmt: skip
    """The chain with the training of a round, and the list that it trains on."""
    name = START if number == 0 else chain.strategy
    folder = root / name / f"seed_{chain.seed}" / f"labels_{count}"
    labeled = set(chain.chosen)
    lists = datalist(
        base["labels"],
        training=[pool[i] for i in sorted(labeled)],
        # a scan without a label is trained on as one
        unlabeled=[item for i, item in enumerate(pool) if i not in labeled],
        validation=base[Keys.VALIDATION.value],
        testing=base[Keys.TESTING.value],
    )
    where = {**places, "datalist": str(folder / DATALIST)}
    run = plan.run(plan.variants[0], chain.seed, RunFolder(folder), where)
    # other scans are another training
    files = {**run.files, "datalist": checksum_of(lists)}
    run = replace(run, variant=replace(run.variant, name=f"{name}, {count} labels"), files=files)
    return replace(chain, runs=(*chain.runs, run)), lists


def _choose(
    chain: Chain, count: int, pool: Sequence[Mapping[str, Any]], places: Mapping[str, str], plan: Experiment
) -> Chain:
    """The chain with scans for the next round, chosen by what the last training says."""
    if chain.strategy == "random":
        order = np.random.RandomState(chain.seed).permutation(len(pool)).tolist()
        return replace(chain, chosen=tuple(order[:count]))
    left, last = [i for i in range(len(pool)) if i not in chain.chosen], chain.runs[-1].run
    found = find_pool(
        str(plan.bundle), str(last.root), datalist=str(last.root / DATALIST), dataset_dir=places["dataset_dir"]
    )
    print(f"{chain.strategy}, seed {chain.seed}: choosing {count - len(chain.chosen)} of {len(left)} scans", flush=True)
    opinions, problems = found.opinions([*found.unlabeled, *found.labeled], last.next_scans / "opinions.json")
    if problems:
        raise InputError("\n".join(problems))
    candidates, labeled = ([opinions[pool[i][Keys.IMAGE]] for i in numbers] for numbers in (left, chain.chosen))
    choices = choose_scans(chain.strategy, candidates, labeled, count - len(chain.chosen), chain.seed)
    return replace(chain, chosen=(*chain.chosen, *(left[choice.index] for choice in choices)))


def by_strategy(chains: Sequence[Chain]) -> Iterator[tuple[str, list[Chain]]]:
    """Chains of every strategy, in the order of the seeds."""
    for strategy in dict.fromkeys(chain.strategy for chain in chains):
        yield strategy, [chain for chain in chains if chain.strategy == strategy]
