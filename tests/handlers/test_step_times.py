# SPDX-License-Identifier: Apache-2.0
"""Seconds of iterations, with the wait for their batches, and of what comes after an epoch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events

from dtlp_components.handlers import step_times
from dtlp_components.handlers.step_times import StepTimes


def test_iterations_and_epochs_are_timed_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(step_times.time, "monotonic", lambda: now)

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    class SlowData:
        """Three batches, each of which takes a second to come."""

        def __iter__(self) -> Iterator[int]:
            for batch in range(3):
                wait(1)
                yield batch

        def __len__(self) -> int:
            return 3

    def step(engine: Engine, batch: Any) -> None:
        wait(2 if engine.state.epoch == 1 else 5)

    engine = Engine(step)
    engine.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda: wait(30))
    StepTimes(str(tmp_path / "times.json")).attach(engine)
    engine.run(SlowData(), max_epochs=2)
    times = json.loads((tmp_path / "times.json").read_text())
    assert times == {"iterations": [3.0] * 3 + [6.0] * 3, "epochs": [0.0, 30.0]}
