# SPDX-License-Identifier: Apache-2.0
"""Confidence that can be believed: a temperature for probabilities, and an interval for the Dice of a new scan."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from ..errors import InputError
from ..files import read_object, sha256
from ..run_folder import RunFolder

__all__ = [
    "Calibration",
    "calibrated_run",
    "checksum_of_weights",
    "conformal_margins",
    "fit_temperature",
    "load_calibration",
    "tempered",
]

TEMPERATURES = (0.05, 20.0)  # between which the best is looked for
LEAST_SCANS = 20  # with fewer, no 90 % interval of two sides can be kept


def fit_temperature(logits: Tensor, label: Tensor) -> float:
    """
    Temperature ``T`` for which ``softmax(z / T)`` has the least cross entropy with the labels (Guo et al. 2017).

    Above 1 it makes a network less sure, below 1 surer; the most probable class stays.

    Args:
        logits: of voxels that the network was not trained on, ``(N, C)``.
        label: their class indices ``(N,)`` int64.

    Example:
        >>> logits = torch.tensor([[4.0, -4.0]]).expand(100, 2)  # says 99.97 %
        >>> label = (torch.arange(100) >= 80).long()  # and is right in 80 %
        >>> temperature = fit_temperature(logits, label)
        >>> round(float(torch.softmax(logits[0] / temperature, dim=0)[0]), 3)
        0.8
    """
    precise = logits.double()

    def cross_entropy(log_temperature: float) -> float:
        return float(F.cross_entropy(precise / math.exp(log_temperature), label))

    low, high = (math.log(bound) for bound in TEMPERATURES)
    found = minimize_scalar(cross_entropy, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """
    ``softmax(z / T)`` of probabilities that are ``softmax(z)``, along their first axis, same shape.

    Args:
        probabilities: ``(C, …)``, summing to 1 over ``C``.
        temperature: ``T``; 1 changes nothing.
    """
    if temperature == 1:
        return probabilities
    return torch.softmax(probabilities.clamp_min(1e-12).log() / temperature, dim=0)


def conformal_margins(expected: Sequence[float], dice: Sequence[float], coverage: float = 0.9) -> tuple[float, float]:
    """
    How far below and above its expected Dice a new scan's Dice may lie (split conformal prediction, Vovk et al. 2005)::

        P(expected - below <= Dice <= expected + above) >= coverage

    if the new scan is exchangeable with these: drawn from the same scanners and patients. Each margin is the
    ``ceil((n + 1) (1 + coverage) / 2)``-th smallest of the differences on its side, so nothing is assumed of their
    distribution.

    Args:
        expected: Dice that the network expects of scans it was not trained on.
        dice: what it was.
        coverage: of the interval.

    Returns:
        Both margins; one may be negative, if the network is always too sure, or never sure enough.

    Raises:
        InputError: if there are too few scans for such an interval.
    """
    count = len(expected)
    rank = math.ceil((count + 1) * (1 + coverage) / 2)
    if rank > count or count < LEAST_SCANS:
        raise InputError(
            f"an interval with {100 * coverage:g} % coverage needs at least "
            f"{max(LEAST_SCANS, math.ceil((1 + coverage) / (1 - coverage)))} labeled scans that were not used for "
            f"training, got {count}."
        )
    below = sorted(e - d for e, d in zip(expected, dice, strict=True))[rank - 1]
    above = sorted(d - e for e, d in zip(expected, dice, strict=True))[rank - 1]
    return below, above


@dataclass(frozen=True)
class Calibration:
    """
    What was fitted for one network.

    Args:
        temperature: of its probabilities.
        weights: of which weights, as :py:func:`checksum_of_weights` gives it.
        section: of the datalist.
        scans: in it.
        below: margin of the interval, or ``None`` if the scans were too few.
        above: likewise.
        coverage: of the interval.
    """

    temperature: float
    weights: str
    section: str
    scans: int
    below: float | None = None
    above: float | None = None
    coverage: float = 0.9

    @classmethod
    def of(cls, content: Mapping[str, Any], source: str) -> Calibration:
        """
        From what :py:meth:`content` gave.

        Raises:
            InputError: if it is something else.
        """
        numbers = {key: content.get(key) for key in ("temperature", "below", "above", "coverage")}
        fine = all(
            (value is None and key in ("below", "above"))
            or (isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value))
            for key, value in numbers.items()
        )
        if not fine or not TEMPERATURES[0] <= float(numbers["temperature"] or 0) <= TEMPERATURES[1]:
            raise InputError(f"{source}: expected a file written by `dtlp calibrate`, got {numbers}; calibrate again.")
        return cls(
            **{key: None if value is None else float(value) for key, value in numbers.items()},  # type: ignore[arg-type]
            weights=str(content.get("weights", "")),
            section=str(content.get("section", "")),
            scans=int(content.get("scans", 0)),
        )

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def interval(self, expected: float) -> tuple[float, float] | None:
        """Least and largest Dice to expect, within 0 and 1; ``None`` if there were too few scans to say."""
        if self.below is None or self.above is None:
            return None
        return min(max(expected - self.below, 0.0), 1.0), max(min(expected + self.above, 1.0), 0.0)


def calibrated_run(model_file: str | os.PathLike[str], others: Sequence[str | os.PathLike[str]] = ()) -> RunFolder:
    """
    Where the calibration of a model lies: the run of its weights, or, of models that are averaged, the cross-validation
    that their runs are in.

    Args:
        model_file: weights in a run's ``models/``.
        others: weights of further models whose probabilities are averaged with these.
    """
    run = RunFolder.of_weights(model_file)
    return RunFolder(run.root.parent) if others else run


def checksum_of_weights(model_file: str | os.PathLike[str], others: Sequence[str | os.PathLike[str]] = ()) -> str:
    """sha256 of a file of weights; of several that are averaged, of their checksums in the order of the files."""
    checksums = [sha256(Path(file)) for file in (model_file, *others)]
    return hashlib.sha256("".join(checksums).encode()).hexdigest() if others else checksums[0]


def load_calibration(model_file: str, others: Sequence[str] = ()) -> Calibration | None:
    """
    What ``dtlp calibrate`` found for these weights (:py:func:`calibrated_run`); ``None`` if it was not run.

    A file that is of other weights, such as those of an earlier training, does not count, which the log says.

    Args:
        model_file: weights in a run's ``models/``.
        others: weights of further models whose probabilities are averaged with these.

    Raises:
        InputError: if the file is damaged.
    """
    file = calibrated_run(model_file, others).calibration
    if not file.is_file():
        return None
    found = Calibration.of(read_object(file, "a file written by `dtlp calibrate`"), str(file))
    if found.weights != checksum_of_weights(model_file, others):
        logging.getLogger("dtlp").warning(
            f"{file} belongs to other weights than {', '.join([model_file, *others])}: probabilities are not "
            "calibrated. Run dtlp calibrate again."
        )
        return None
    return found
