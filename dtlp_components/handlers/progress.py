# SPDX-License-Identifier: Apache-2.0
"""Progress of a training run: a bar on a terminal, lines with the time left in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from tqdm.auto import tqdm

__all__ = ["TrainingProgress"]


ITERATIONS = 50  # that the speed is measured over: it changes when unlabeled scans join in


class TrainingProgress:
    """
    Iterations done of all, time left, and the loss terms.

    Speed and time left follow the last 50 iterations, with what came between them, such as a validation.

    On a terminal this is one moving bar; elsewhere (a log file, a job scheduler) a line every ``interval`` iterations.
    Ignite's ``ProgressBar`` has one bar per epoch, with the time left of that epoch, also where nothing can move.

    Args:
        output_transform: maps ``state.output`` to the scalars to show, by name.
        interval: iterations between two lines of a log, and between two averages of the terms.
    """

    def __init__(self, output_transform: Callable[[Any], Mapping[str, float]], interval: int = 10) -> None:
        self.output_transform, self.interval = output_transform, max(1, interval)
        self.logger = logging.getLogger("dtlp")
        self.bar: tqdm | None = None
        self.times: deque[float] = deque(maxlen=ITERATIONS + 1)  # of the ends of iterations, after that of a beginning

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self.times.clear())
        # by then, a resumed training knows its iteration, whoever was attached first
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED | Events.TERMINATE, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    @staticmethod
    def _total(engine: Engine) -> int:
        return int(engine.state.max_epochs or 0) * int(engine.state.epoch_length or 0)

    def _begin(self, engine: Engine) -> None:
        if self.times:
            return
        self.times.append(time.monotonic())
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=self._total(engine), initial=engine.state.iteration, desc="train", unit="it", dynamic_ncols=True
            )

    def _update(self, engine: Engine) -> None:
        iteration = engine.state.iteration
        self.times.append(time.monotonic())
        if self.bar is not None:
            self.bar.update()
        if iteration % self.interval and iteration != self._total(engine):
            return
        values = self.output_transform(engine.state.output)
        if self.bar is not None:
            self.bar.set_postfix({"loss": f"{values['loss']:.3f}"})
            return
        total = self._total(engine)
        seconds = (self.times[-1] - self.times[0]) / (len(self.times) - 1)
        terms = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        left = tqdm.format_interval(seconds * (total - iteration))
        self.logger.info(f"{iteration}/{total}  {seconds:.2f} s/it  {left} left  {terms}")

    def _close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._close(engine)
        raise error
