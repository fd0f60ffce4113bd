# SPDX-License-Identifier: Apache-2.0
"""A training that fits into a given time: a few iterations are measured, and their number follows."""

# The measurement is a training of its own, in processes of their own and a folder that is thrown away, so that what it
# does cannot change the training: that one is started with --max_iterations, as anybody would.

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks.literals import literal_words
from ..errors import InputError
from ..files import read_object, write_json
from ..run_folder import RunFolder
from ..tables import time_text

__all__ = ["Measured", "choose_length", "iterations_within", "measure", "parse_hours"]

PHASE = 8  # iterations measured before the burn-in ends, and after
WARM_UP = 2  # of them that are left out
MARGIN = 0.985  # of the time: machines get slower rather than faster


@dataclass(frozen=True)
class Measured:
    """
    Seconds of the parts of a training.

    Args:
        start: of everything before the first iteration.
        before: of an iteration before the burn-in ends.
        after: of one after it.
        epoch: of what is done after every epoch.
        validation: of what is done in addition after a validation.
    """

    start: float
    before: float
    after: float
    epoch: float
    validation: float


def parse_hours(text: str) -> float:
    """
    Seconds of a number of hours.

    Raises:
        InputError: if it is no positive number.
    """
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not math.isfinite(hours) or hours <= 0:
        raise InputError(f"--hours: expected a number above 0, such as 8 or 0.5, got {text!r}.")
    return 3600 * hours


def measure(
    files: Sequence[Path], words: Sequence[str], burns_in: bool, checked_inputs: Path, processes: int = 1
) -> Measured:
    """
    Train a few iterations of both phases in a folder that is thrown away.

    Args:
        files: configurations of the training.
        words: keys and values for MONAI's command, without those that are set here.
        burns_in: whether there are two phases.
        checked_inputs: file that keeps what the checks read, so that the training need not read it again.
        processes: that train together.

    Raises:
        SystemExit: if it fails, with what it said last.
    """
    with tempfile.TemporaryDirectory(prefix="dtlp-time-") as folder:
        times, overlay = Path(folder, "times.json"), Path(folder, "measure.json")
        write_json(
            overlay,
            {
                "+train::handlers": [
                    {"_target_": "dtlp_components.handlers.step_times.StepTimes", "file": str(times)},
                ],
                "checks::cache_file": str(checked_inputs.absolute()),
                "burn_in": 0.5 if burns_in else 0.0,
                "max_iterations": 2 * PHASE,
                "iterations_per_epoch": PHASE,
                "val_interval": 2,
                "log_interval": PHASE,
                "mlflow": False,
                "output_dir": str(Path(folder, "run")),
            },
        )
        listed = "[" + ",".join(repr(str(file)) for file in (*files, overlay)) + "]"
        command = ["-m", "monai.bundle", *literal_words(["run", "training", "--config_file", listed, *words])]
        if processes > 1:
            command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *command]
        began = time.monotonic()
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        if done.returncode or not times.is_file():
            print(done.stderr[-3000:], file=sys.stderr, flush=True)
            raise SystemExit(done.returncode or 1)
        return _read(json.loads(times.read_text(encoding="utf-8")), seconds)


def _read(times: Mapping[str, Sequence[float]], seconds: float) -> Measured:
    before, after = (
        sum(times["iterations"][start + WARM_UP : start + PHASE]) / (PHASE - WARM_UP) for start in (0, PHASE)
    )
    first, second = times["epochs"]
    spent = sum(times["iterations"]) + first + second
    return Measured(max(seconds - spent, 0.0), before, after, first, max(second - first, 0.0))


def iterations_within(
    seconds: float, measured: Measured, burn_in: float, epoch_length: int, val_interval: int
) -> tuple[int, int]:
    """
    Epochs, and iterations of each, that a training can do in a time.

    Args:
        seconds: from its start, with everything before the first iteration.
        measured: what its parts take.
        burn_in: share of the iterations that is before the end of the burn-in.
        epoch_length: iterations of an epoch, as nearly as the time allows.
        val_interval: epochs from one validation to the next.

    Returns:
        Both at least 1.

    Raises:
        InputError: if there is no time for one iteration.

    Example:
        >>> iterations_within(100, Measured(10, 0.5, 1.0, 0.0, 0.0), burn_in=0.4, epoch_length=50, val_interval=1)
        (2, 55)
    """
    left = MARGIN * seconds - measured.start
    one = burn_in * measured.before + (1 - burn_in) * measured.after
    one += (measured.epoch + measured.validation / val_interval) / epoch_length
    count = int(left / one)
    if count < 1:
        raise InputError(
            f"--hours: expected more time, since the start takes {time_text(measured.start)} and an iteration "
            f"{one:.1f} s here, got {time_text(seconds)} that are left."
        )
    epochs = max(1, round(count / epoch_length))
    return epochs, count // epochs


def choose_length(
    hours: str, files: Sequence[Path], given: Mapping[str, Any], words: Sequence[str], run: RunFolder, processes: int
) -> list[str]:
    """
    Words that set the length of a training so that it ends when the time is over.

    A training that goes on keeps the length that was chosen when it began.

    Args:
        hours: for all of it, from now.
        files: configurations of the training.
        given: values of ``burn_in``, ``iterations_per_epoch``, ``val_interval`` and ``resume`` of the training.
        words: keys and values for MONAI's command, without those and without those that are set here.
        run: folder of the training.
        processes: that train together.

    Raises:
        InputError: see :py:func:`parse_hours` and :py:func:`iterations_within`.
    """
    began, seconds = time.monotonic(), parse_hours(hours)
    if given["resume"] and (run.last.is_file() or run.previous.is_file()) and run.record.is_file():
        settings = read_object(run.record, "the record of a training").get("settings", {})
        count, epoch_length = settings.get("max_iterations"), settings.get("iterations_per_epoch")
        print(f"The training goes on with the {count} iterations that it began with; --hours does not count.")
        return ["--max_iterations", str(count), "--iterations_per_epoch", str(epoch_length)]
    print(f"Measuring {2 * PHASE} iterations of a training that is thrown away …", flush=True)
    burn_in = float(given["burn_in"])
    measured = measure(files, words, burn_in > 0, run.checked_inputs, processes)
    left = seconds - (time.monotonic() - began)
    epochs, epoch_length = iterations_within(
        left, measured, burn_in, int(given["iterations_per_epoch"]), int(given["val_interval"])
    )
    both = f"{measured.after:.2f} s an iteration"
    if burn_in > 0:
        both = f"{measured.before:.2f} s an iteration in the burn-in and {measured.after:.2f} s after it"
    print(
        f"{both}, {time_text(measured.epoch + measured.validation)} a validation, {time_text(measured.start)} to "
        f"start: {epochs * epoch_length} iterations ({epochs} epochs of {epoch_length}) in the {time_text(left)} that "
        "are left.",
        flush=True,
    )
    return ["--max_iterations", str(epochs * epoch_length), "--iterations_per_epoch", str(epoch_length)]
