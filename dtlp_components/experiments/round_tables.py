# SPDX-License-Identifier: Apache-2.0
"""What rounds of labeling come to: Dice by number of labels, the area below it, and what more labels may bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..handlers.training_curves import open_axis, plots, save_figure
from ..report.figures import PALETTE
from ..report.scores import Training, compare, read_training
from ..report.statistics import RESAMPLES, bootstrap_interval
from ..run_folder import RunFolder
from ..tables import align, number_of

__all__ = ["area_below", "gain_of_more", "print_rounds"]

MORE = 10  # labels


def area_below(counts: Sequence[int], dice: np.ndarray) -> np.ndarray:
    """
    Mean height of the curve of Dice over the logarithm of the number of labels.

    Args:
        counts: numbers of labels, ascending, ``(rounds,)``.
        dice: scores ``(rounds, …)``.

    Returns:
        ``(…)``.

    Example:
        >>> area_below([4, 8, 16], np.array([70.0, 80.0, 84.0])).item()
        78.5
    """
    steps = np.diff(np.log2(counts))
    middles = (dice[1:] + dice[:-1]) / 2
    return np.asarray(np.tensordot(steps, middles, axes=1) / steps.sum())


def gain_of_more(
    counts: Sequence[int], dice: np.ndarray, more: int = MORE, seed: int = 0
) -> tuple[float, float, float]:
    """
    What more labels may bring: a line of Dice over the logarithm of the number of labels, drawn on.

    Args:
        counts: numbers of labels, ascending.
        dice: scores ``(rounds, seeds, cases)``.
        more: labels beyond the largest number.
        seed: of the bootstrap, over cases and seeds as in ``bootstrap_interval``.

    Returns:
        The gain, and the ends of its 95 % interval.

    Example:
        >>> curve = np.array([70.0, 72.0, 74.0])[:, None, None] + np.zeros((3, 2, 5))
        >>> [round(value, 6) for value in gain_of_more([5, 10, 20], curve, more=20)]
        [2.0, 2.0, 2.0]
    """
    x = np.log2(counts)
    reach = np.log2((counts[-1] + more) / counts[-1])
    # the slope is a weighted sum over rounds, so that a case has one of its own
    weights = (x - x.mean()) / np.square(x - x.mean()).sum() * reach
    gains = np.tensordot(weights, dice, axes=1)  # (seeds, cases)
    low, high = bootstrap_interval(gains, resamples=RESAMPLES, seed=seed)
    return float(gains.mean()), low, high


def print_rounds(
    runs: Mapping[str, Sequence[Sequence[RunFolder]]], counts: Sequence[int], section: str, convention: str, file: Path
) -> None:
    """
    Print the tables and draw the figure.

    Args:
        runs: by strategy, the baseline first: of each round the trainings, one for each seed.
        counts: numbers of labels of the rounds.
        section: that was scored.
        convention: of scoring.
        file: PNG.
    """
    read = {
        name: [read_training(name, found, section, convention) for found in rounds] for name, rounds in runs.items()
    }
    dice = {name: np.stack([training.scores["dice"] for training in rounds]) for name, rounds in read.items()}
    # as `compare` does: a case without a score in one training counts in none
    known = np.isfinite(np.concatenate([values.reshape(-1, values.shape[2]) for values in dice.values()])).all(axis=0)
    head = ["Dice [%] with labels:", *map(str, counts), "area"]
    table = [[*head, "95 % interval", "against " + next(iter(dice)), "95 % interval", "better in", "p (Holm)"]]
    lines, _ = compare([_area(rounds, dice[name], counts) for name, rounds in read.items()])
    dice = {name: values[..., known] for name, values in dice.items()}
    for line, (name, values) in zip(lines, dice.items(), strict=True):
        cells = [name, *(f"{v:.2f}" for v in values.mean(axis=(1, 2))), f"{line.mean:.2f}"]
        cells.append(f"{line.interval[0]:.2f} to {line.interval[1]:.2f}")
        if line is not lines[0]:
            low, high = line.difference_interval
            cells += [f"{line.difference:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{line.better} of {line.cases}"]
            cells.append(f"{line.p:.3f}")
        table.append(cells)
    if len(dice) == 1:
        table = [row[: len(head) + 1] for row in table]
    seeds = next(iter(dice.values())).shape[1]
    print(f"\nSection `{section}`, {number_of(lines[0].cases, 'scan')}, {number_of(seeds, 'seed')}.\n{align(table)}")
    print("Area: mean height of the curve over the logarithm of the number of labels. Intervals: over scans and seeds.")
    for name, values in dice.items():
        gain, low, high = gain_of_more(counts, values)
        says = (
            f"{name}: {MORE} labels beyond {counts[-1]} may bring {gain:+.2f} (95 % interval {low:+.2f} to {high:+.2f})"
        )
        print(says + ("" if low > 0 else "; these runs cannot tell whether there is any gain") + ".")
    save_figure(draw_rounds(dice, counts), file)


def draw_rounds(dice: Mapping[str, np.ndarray], counts: Sequence[int]) -> Any:
    """
    A figure of the curves with their 95 % intervals.

    Args:
        dice: by strategy, ``(rounds, seeds, cases)``.
        counts: numbers of labels.
    """
    plt = plots()
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for i, (name, values) in enumerate(dice.items()):
        x = np.log2(counts) + 0.02 * (i - (len(dice) - 1) / 2)
        means = values.mean(axis=(1, 2))
        ends = np.array([bootstrap_interval(v) for v in values])
        axis.errorbar(
            x, means, yerr=[means - ends[:, 0], ends[:, 1] - means], color=PALETTE[i % len(PALETTE)], capsize=3,
            marker="osDv^"[i % 5], label=name,
        )  # fmt: skip
    axis.set_xticks(np.log2(counts), [str(n) for n in counts])
    axis.set_xlabel("labeled scans")
    axis.set_ylabel("mean Dice [%], with 95 % interval")
    axis.legend(fontsize=8)
    open_axis(axis)
    figure.tight_layout()
    return figure


def _area(rounds: Sequence[Training], dice: np.ndarray, counts: Sequence[int]) -> Training:
    first = rounds[0]
    area = area_below(counts, dice)
    return Training(
        first.name, first.runs, first.cases, {"dice": area, "missed": np.zeros_like(area)}, first.convention
    )
