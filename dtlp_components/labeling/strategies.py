# SPDX-License-Identifier: Apache-2.0
"""Ways to choose the scans to label next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..metrics.uncertainty import DISPUTED
from .opinions import ScanOpinion

__all__ = ["BY_TEACHERS", "STRATEGIES", "Choice", "choose_scans"]

STRATEGIES = ("random", "disagreement", "diverse", "mixed")
BY_TEACHERS = ("disagreement", "mixed")  # which need networks that can disagree
# of `mixed`: for each scan to choose, so many of the most disputed ones are candidates (Yang et al. 2017 take 16 of 4)
CANDIDATES = 4


@dataclass(frozen=True)
class Choice:
    """
    A scan to label.

    Args:
        index: in the opinions.
        reason: a sentence.
    """

    index: int
    reason: str


def choose_scans(
    strategy: str,
    opinions: Sequence[ScanOpinion],
    labeled: Sequence[ScanOpinion],
    count: int,
    seed: int = 0,
) -> list[Choice]:
    """
    Choose scans to label, the most useful first.

    - ``random``: drawn.
    - ``disagreement``: those on whose predicted foreground the teachers disagree most, in bits. Where a scan has no
      predicted foreground, the model has missed everything, and it comes first.
    - ``diverse``: those whose features are farthest from every labeled scan and every scan chosen before (greedy
      k-center; Sener and Savarese 2018), features standardized over all scans.
    - ``mixed``: the same among the ``4 count`` scans of most disagreement (Yang et al. 2017, *Suggestive Annotation*).

    Args:
        strategy: one of these.
        opinions: of the scans to choose from.
        labeled: of the scans that have labels.
        count: how many; all if there are fewer.
        seed: of ``random``.

    Raises:
        InputError: if there is no such strategy, or it needs teachers that the training did not have.

    Example:
        >>> scans = [ScanOpinion(f"{i}.nii.gz", {DISPUTED: i / 10}, {"liver": i / 10}, [float(i)]) for i in range(4)]
        >>> [choice.index for choice in choose_scans("disagreement", scans, [], 2)]
        [3, 2]
        >>> [choice.index for choice in choose_scans("diverse", scans[1:], scans[:1], 2)]
        [2, 0]
    """
    if strategy not in STRATEGIES:
        raise InputError(f"--strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}.")
    count = min(count, len(opinions))
    if strategy == "random":
        drawn = np.random.RandomState(seed).permutation(len(opinions))[:count]
        return [Choice(int(i), "drawn at random") for i in drawn]
    if strategy == "diverse":
        return _k_center(range(len(opinions)), opinions, labeled, count)
    if any(opinion.scores and DISPUTED not in opinion.scores for opinion in opinions):
        raise InputError(
            f"--strategy {strategy}: expected a training run with teachers, whose disagreement it uses, got one with "
            "only labeled scans or with a method that has only one teacher. --strategy diverse and random need no "
            "teachers."
        )
    disputed = sorted(range(len(opinions)), key=lambda i: -_disputed(opinions[i]))
    if strategy == "disagreement":
        return [Choice(i, _dispute(opinions[i])) for i in disputed[:count]]
    candidates = sorted(disputed[: CANDIDATES * count])
    return [
        Choice(choice.index, f"{_dispute(opinions[choice.index])}; {choice.reason}")
        for choice in _k_center(candidates, opinions, labeled, count)
    ]


def _disputed(opinion: ScanOpinion) -> float:
    return opinion.scores.get(DISPUTED, np.inf)


def _dispute(opinion: ScanOpinion) -> str:
    if not opinion.scores:
        return "only background is predicted"
    worst = max(opinion.by_class, key=lambda name: opinion.by_class[name])
    return f"teachers disagree by {opinion.scores[DISPUTED]:.3f} bits, most on {worst} ({opinion.by_class[worst]:.3f})"


def _k_center(
    candidates: Sequence[int], opinions: Sequence[ScanOpinion], labeled: Sequence[ScanOpinion], count: int
) -> list[Choice]:
    features = np.array([opinion.features for opinion in (*opinions, *labeled)], float)
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    # so that distances do not depend on the number of channels
    pool, known = features[: len(opinions)] / np.sqrt(features.shape[1]), features[len(opinions) :]
    known = known / np.sqrt(features.shape[1])
    left, chosen = list(candidates), []
    if len(known):
        nearest = np.linalg.norm(pool[:, None] - known[None], axis=2).min(axis=1)
    else:  # begin in the middle
        first = min(left, key=lambda i: float(np.linalg.norm(pool[i])))
        chosen.append(Choice(first, "closest to the mean of all scans, since none has a label yet"))
        left.remove(first)
        nearest = np.linalg.norm(pool - pool[first], axis=1)
    while left and len(chosen) < count:
        farthest = max(left, key=lambda i: float(nearest[i]))
        what = "labeled or already chosen scan" if chosen else "labeled scan"
        chosen.append(Choice(farthest, f"unlike every {what}: distance {nearest[farthest]:.2f} to the nearest"))
        left.remove(farthest)
        nearest = np.minimum(nearest, np.linalg.norm(pool - pool[farthest], axis=1))
    return chosen
