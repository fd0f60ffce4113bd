# SPDX-License-Identifier: Apache-2.0
"""Progress of a run: lines in a log, one bar on a terminal."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ignite.engine import Engine, Events

from dtlp_components.handlers import progress
from dtlp_components.handlers.progress import TrainingProgress

TERMS = {"loss": 2.5, "deno": 0.75}


class Bar:
    """Stands in for tqdm and remembers what it was told."""

    made: list[Bar]

    def __init__(self, total: int, initial: int, **_: Any) -> None:
        self.total, self.count, self.closed = total, initial, False
        Bar.made.append(self)

    def update(self) -> None:
        self.count += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    Bar.made = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "tqdm", Bar)


def run(
    interval: int,
    epochs: int = 2,
    epoch_length: int = 5,
    start: int = 0,
    fail_at: int | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> None:
    """Train without training; ``start`` is the epoch that a resumed run begins after."""

    def step(engine: Engine, _: Any) -> dict[str, float]:
        if engine.state.iteration == fail_at:
            raise RuntimeError("a broken scan")
        return TERMS

    engine = Engine(step)
    if clock is not None:
        clock.attach(engine)
    TrainingProgress(lambda output: output, interval=interval, **options).attach(engine)

    @engine.on(Events.STARTED)  # last, as in a bundle's configuration
    def resume(engine: Engine) -> None:
        engine.state.epoch, engine.state.iteration = start, start * epoch_length

    engine.run([0] * epoch_length, max_epochs=epochs)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Those of iterations, without the estimate."""
    return [record.message for record in caplog.records if record.name == "dtlp" and "/" in record.message]


def test_log_has_a_line_every_interval_and_one_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=4)
    assert [line.split()[0] for line in lines(caplog)] == ["4/10", "8/10", "10/10"]


def test_line_tells_speed_time_left_and_every_term(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=5)
    assert re.fullmatch(r"5/10  \d+\.\d\d s/it  [\d.e-]+ s left  loss 2\.5000  deno 0\.7500", lines(caplog)[0])


class Clock:
    """Stands in for the clock; ``iteration(number)`` and ``end(number)`` are seconds of one, and after an epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, iteration: Callable[[int], float], end: Callable[[int], float]):
        self.now, self.iteration, self.end = 100.0, iteration, end
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self._iterate)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _iterate(self, engine: Engine) -> None:
        self.now += self.iteration(engine.state.iteration)

    def _end(self, engine: Engine) -> None:
        self.now += self.end(engine.state.epoch)


def test_time_left_of_a_resumed_run_counts_its_own_iterations_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, lambda _: 2.0, lambda _: 0.0)
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=5, epochs=4, start=2, clock=clock)
    # five iterations in ten seconds, and five left: had it counted all fifteen, it would say 0.67 s/it, and had it
    # looked before the checkpoint was read, 15 left
    assert lines(caplog)[0].startswith("15/20  2.00 s/it  10 s left")
    assert lines(caplog)[1].startswith("20/20  2.00 s/it  0 s left")


def test_time_left_follows_the_last_iterations(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, lambda i: 1.0 if i <= 100 else 3.0, lambda _: 0.0)  # unlabeled scans join in
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=25, epochs=4, epoch_length=100, clock=clock)
    speeds = [line.split()[1] for line in lines(caplog)]
    assert speeds == [*["1.00"] * 4, "2.00", *["3.00"] * 11]  # after half of 50, the mean of both
    assert "10 min 00 s left" in lines(caplog)[7]


def test_validations_are_counted_in_the_time_left_and_not_in_the_speed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, lambda _: 1.0, lambda epoch: 1.0 if epoch % 2 else 9.0)
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=1, epochs=8, epoch_length=5, clock=clock)
    assert {line.split()[1] for line in lines(caplog)} == {"1.00"}
    # 29 iterations of 1 s and, at 5 s on average, the ends of the six epochs that are not over
    assert lines(caplog)[10].startswith("11/40  1.00 s/it  59 s left")
    assert lines(caplog)[-1].startswith("40/40  1.00 s/it  0 s left")


def test_second_run_knows_nothing_of_the_first(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, lambda _: 1.0, lambda _: 50.0)
    engine = Engine(lambda *_: TERMS)
    clock.attach(engine)
    TrainingProgress(lambda output: output, interval=1).attach(engine)
    with caplog.at_level(logging.INFO, logger="dtlp"):
        engine.run([0] * 2, max_epochs=2)
        clock.now += 1000
        engine.run([0] * 2, max_epochs=2)
    assert [line.split("s/it")[1].split(" left")[0].strip() for line in lines(caplog)] == [
        "3 s", "2 s", "51 s", "0 s"
    ] * 2  # fmt: skip


def test_estimate_is_said_once_before_the_first_line_and_burn_in_makes_it_a_minimum(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, lambda i: 30.0 if i == 1 else 2.0, lambda _: 5.0)  # the first iteration is no measure
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=5, epochs=4, clock=clock, slower_from=11, validation_every=10)
    said = [record.message for record in caplog.records]
    # 7 iterations to the first validation, 17 to the end
    assert said[0] == (
        "An iteration takes 2 s: the next validation in about 14 s, the end in at least 34 s, not counting validations."
    )
    assert [line.split()[3:5] == ["at", "least"] for line in said[1:]] == [True, True, False, False]


def test_estimate_names_no_validation_where_there_is_none(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, lambda _: 2.0, lambda _: 0.0)
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=5, clock=clock)
    assert caplog.records[0].message == "An iteration takes 2 s: the end in about 14 s, not counting validations."


def test_terminal_gets_one_bar_over_all_epochs_and_the_lines_of_a_log(
    terminal: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=4, epochs=4, start=2)
    (bar,) = Bar.made
    assert (bar.total, bar.count, bar.closed) == (20, 20, True)
    assert [line.split()[0] for line in lines(caplog)] == ["12/20", "16/20", "20/20"]


def test_bar_is_closed_and_the_error_passed_on_when_training_fails(terminal: None) -> None:
    with pytest.raises(RuntimeError, match="a broken scan"):
        run(interval=1, fail_at=3)
    (bar,) = Bar.made
    assert bar.closed
    assert bar.count == 2
