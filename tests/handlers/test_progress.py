# SPDX-License-Identifier: Apache-2.0
"""Progress of a run: lines in a log, one bar on a terminal."""

from __future__ import annotations

import logging
import re
import sys
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
        self.total, self.count, self.shown, self.closed = total, initial, [], False
        Bar.made.append(self)

    def update(self) -> None:
        self.count += 1

    def set_postfix(self, values: dict[str, str]) -> None:
        self.shown.append(values)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    Bar.made = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "tqdm", Bar)


def run(interval: int, epochs: int = 2, epoch_length: int = 5, start: int = 0, fail_at: int | None = None) -> None:
    """Train without training; ``start`` is the epoch that a resumed run begins after."""

    def step(engine: Engine, _: Any) -> dict[str, float]:
        if engine.state.iteration == fail_at:
            raise RuntimeError("a broken scan")
        return TERMS

    engine = Engine(step)

    TrainingProgress(lambda output: output, interval=interval).attach(engine)

    @engine.on(Events.STARTED)  # last, as in a bundle's configuration
    def resume(engine: Engine) -> None:
        engine.state.epoch, engine.state.iteration = start, start * epoch_length

    engine.run([0] * epoch_length, max_epochs=epochs)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "dtlp"]


def test_log_has_a_line_every_interval_and_one_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=4)
    assert [line.split()[0] for line in lines(caplog)] == ["4/10", "8/10", "10/10"]


def test_line_tells_speed_time_left_and_every_term(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=5)
    assert re.fullmatch(r"5/10  \d+\.\d\d s/it  \d\d:\d\d left  loss 2\.5000  deno 0\.7500", lines(caplog)[0])


def test_time_left_of_a_resumed_run_counts_its_own_iterations_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(100, 200, 2))  # at the start and at each iteration
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=5, epochs=4, start=2)
    # five iterations in ten seconds, and five left: had it counted all fifteen, it would say 0.67 s/it, and had it
    # looked before the checkpoint was read, 15 left
    assert lines(caplog)[0].startswith("15/20  2.00 s/it  00:10 left")
    assert lines(caplog)[1].startswith("20/20  2.00 s/it  00:00 left")


def test_time_left_follows_the_last_iterations(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0 if now < 100 else 3.0  # unlabeled scans join in
        return now

    monkeypatch.setattr(progress.time, "monotonic", clock)
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=100, epochs=4, epoch_length=100)
    speeds = [line.split()[1] for line in lines(caplog)]
    assert speeds == ["1.04", "3.00", "3.00", "3.00"]
    assert "10:00 left" in lines(caplog)[1]


def test_terminal_gets_one_bar_over_all_epochs_instead_of_lines(
    terminal: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(interval=4, epochs=4, start=2)
    (bar,) = Bar.made
    assert (bar.total, bar.count, bar.closed) == (20, 20, True)
    assert bar.shown == [{"loss": "2.500"}] * 3  # at 12, 16 and 20
    assert lines(caplog) == []


def test_bar_is_closed_and_the_error_passed_on_when_training_fails(terminal: None) -> None:
    with pytest.raises(RuntimeError, match="a broken scan"):
        run(interval=1, fail_at=3)
    (bar,) = Bar.made
    assert bar.closed
    assert bar.count == 2
