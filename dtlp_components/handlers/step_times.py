# SPDX-License-Identifier: Apache-2.0
"""What the iterations of a training take, one by one, and what comes between its epochs."""

from __future__ import annotations

import time
from pathlib import Path

from ignite.engine import Engine, Events

from ..files import write_json
from ..processes import is_first

__all__ = ["StepTimes"]


class StepTimes:
    """
    Write seconds into a JSON file at the end of every epoch: ``iterations``, each from asking for its batch to its end,
    and ``epochs``, each from the end of its last iteration to the end of all that the other handlers do then. Ignite's
    ``BasicTimeProfiler`` gives sums and means of a whole run alone. Attach it last.

    Args:
        file: its place; of several processes, the first writes.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.iterations: list[float] = []
        self.epochs: list[float] = []
        self._begin = self._end = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._take)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self) -> None:
        self._begin = time.monotonic()

    def _take(self) -> None:
        self._end = time.monotonic()
        self.iterations.append(self._end - self._begin)

    def _write(self) -> None:
        self.epochs.append(time.monotonic() - self._end)
        if is_first():
            write_json(self.file, {"iterations": self.iterations, "epochs": self.epochs})
