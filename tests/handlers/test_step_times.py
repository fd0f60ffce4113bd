# SPDX-License-Identifier: Apache-2.0
"""Seconds of iterations, with the wait for their batches, and of what comes after an epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events

from dtlp_components.handlers.step_times import StepTimes


class SlowData:
    """Three batches, each of which takes a tenth of a second to come."""

    def __iter__(self) -> Iterator[int]:
        for batch in range(3):
            time.sleep(0.1)
            yield batch

    def __len__(self) -> int:
        return 3


def test_iterations_and_epochs_are_timed_apart(tmp_path: Path) -> None:
    def step(engine: Engine, batch: Any) -> None:
        time.sleep(0.05 if engine.state.epoch == 1 else 0.15)

    engine = Engine(step)
    engine.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda: time.sleep(0.3))
    StepTimes(str(tmp_path / "times.json")).attach(engine)
    engine.run(SlowData(), max_epochs=2)
    times = json.loads((tmp_path / "times.json").read_text())
    assert times["iterations"] == pytest.approx([0.15] * 3 + [0.25] * 3, abs=0.04)
    assert times["epochs"] == pytest.approx([0.0, 0.3], abs=0.04)
