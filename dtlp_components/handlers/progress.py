# SPDX-License-Identifier: Apache-2.0
"""Progress of a training run: lines with the time left, and on a terminal a bar below them."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from ignite.engine import Engine, Events
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..tables import time_text

__all__ = ["TrainingProgress"]


ITERATIONS = 50  # that the speed is measured over: it changes when unlabeled scans join in
FIRST = 3  # iterations after which there is an estimate; the first one is slower


class TrainingProgress:
    """
    Iterations done of all, time left, and the loss terms.

    The speed is that of the last 50 iterations. The time left is all others at that speed, and the ends of their
    epochs, with validation and checkpoint, at the mean of those so far.

    There is a line every ``interval`` iterations, and an estimate after the third of a run. A terminal has the same
    lines, with a bar that moves below them. Ignite's ``ProgressBar`` has one bar per epoch, with the time left of that
    epoch, also where nothing can move.

    Args:
        output_transform: maps ``state.output`` to the scalars to show, by name.
        interval: iterations between two lines.
        slower_from: iterations after which unlabeled scans join in; until then the time left is told as a minimum.
        validation_every: iterations from one validation to the next, 0 without.

    Example:
        >>> from ignite.engine import Engine
        >>> engine = Engine(lambda engine, batch: {"loss": 1.0})
        >>> TrainingProgress(lambda output: output, interval=2).attach(engine)
        >>> engine.run([0, 1, 2, 3], max_epochs=1).iteration
        4
    """

    def __init__(
        self,
        output_transform: Callable[[Any], Mapping[str, float]],
        interval: int = 10,
        slower_from: float = 0.0,
        validation_every: int = 0,
    ) -> None:
        self.output_transform, self.interval = output_transform, max(1, interval)
        self.slower_from, self.validation_every = slower_from, validation_every
        self.logger = logging.getLogger("dtlp")
        self.bar: tqdm | None = None
        self.above_the_bar = ExitStack()  # where the log goes as long as there is a bar
        self.seconds: deque[float] = deque(maxlen=ITERATIONS)  # of the last iterations
        self.between: list[float] = []  # seconds from one epoch to the next
        self.last = 0.0  # when the last iteration, or what comes between two epochs, ended

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._forget)
        # by then, a resumed training knows its iteration, whoever was attached first
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED | Events.TERMINATE, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    @staticmethod
    def _total(engine: Engine) -> int:
        return int(engine.state.max_epochs or 0) * int(engine.state.epoch_length or 0)

    def _forget(self) -> None:
        self.seconds.clear()
        self.between.clear()

    def _begin(self, engine: Engine) -> None:
        now = time.monotonic()
        if self.seconds:
            self.between.append(now - self.last)
        elif sys.stderr.isatty():
            self.bar = tqdm(
                total=self._total(engine), initial=engine.state.iteration, desc="train", unit="it", dynamic_ncols=True
            )
            self.above_the_bar.enter_context(logging_redirect_tqdm())
        self.last = now

    def _update(self, engine: Engine) -> None:
        iteration, now = engine.state.iteration, time.monotonic()
        self.seconds.append(now - self.last)
        self.last = now
        if self.bar is not None:
            self.bar.update()
        total = self._total(engine)
        if len(self.seconds) == FIRST and not self.between:
            self._estimate(iteration, total)
        if iteration % self.interval and iteration != total:
            return
        speed = sum(self.seconds) / len(self.seconds)
        terms = "  ".join(f"{name} {value:.4f}" for name, value in self.output_transform(engine.state.output).items())
        left = time_text(speed * (total - iteration) + self._between_left(engine))
        self.logger.info(f"{iteration}/{total}  {speed:.2f} s/it  {self._least(iteration)}{left} left  {terms}")

    def _estimate(self, iteration: int, total: int) -> None:
        """What can be expected by the last two iterations, long before the first validation."""
        speed = sum(list(self.seconds)[1:]) / (FIRST - 1)
        first = ""
        if self.validation_every and iteration + (to_go := -iteration % self.validation_every) <= total:
            first = f"the next validation in about {time_text(speed * to_go)}, "
        self.logger.info(
            f"An iteration takes {time_text(speed)}: {first}the end in {self._least(iteration) or 'about '}"
            f"{time_text(speed * (total - iteration))}, not counting validations."
        )

    def _least(self, iteration: int) -> str:
        return "at least " if iteration < self.slower_from else ""

    def _between_left(self, engine: Engine) -> float:
        """Seconds for the ends of the epochs that are left, this one's included."""
        ends = int(engine.state.max_epochs or 0) - engine.state.epoch + 1
        if engine.state.iteration == self._total(engine) or not self.between:
            return 0.0
        return ends * sum(self.between) / len(self.between)

    def _close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.above_the_bar.close()
            self.bar.close()
            self.bar = None

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._close(engine)
        raise error
