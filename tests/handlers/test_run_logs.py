# SPDX-License-Identifier: Apache-2.0
"""Records that end no training, and show nothing twice."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dtlp_components import MLflowLog, TensorBoardLog


def engine(loss: float = 1.0) -> Engine:
    return Engine(lambda engine, batch: {"loss": torch.tensor(loss)})


def tensorboard(folder: Path, start: int, stop: int) -> None:
    """Iterations `start` + 1 to `stop`, as a resumed run has them."""
    trainer = engine()
    TensorBoardLog(str(folder), output_transform=lambda output: output).attach(trainer)

    @trainer.on(Events.STARTED)
    def resume() -> None:
        trainer.state.iteration, trainer.state.epoch = start, start // 5

    trainer.run([0] * 5, max_epochs=stop // 5, epoch_length=5)


def steps(folder: Path) -> list[int]:
    events = EventAccumulator(str(folder), purge_orphaned_data=True)
    events.Reload()
    return [event.step for event in events.Scalars("loss")]


def test_steps_after_the_checkpoint_are_not_shown_twice(tmp_path: Path) -> None:
    tensorboard(tmp_path, 0, 15)
    assert steps(tmp_path) == [*range(1, 16)]
    tensorboard(tmp_path, 10, 20)  # killed after 15, resumed from 10
    assert steps(tmp_path) == [*range(1, 21)]


def mlflow(place: str, **kwargs: Any) -> MLflowLog:
    return MLflowLog(
        tracking_uri=place, experiment_name="e", run_name="r", output_transform=lambda output: output,
        close_on_complete=True, **kwargs,
    )  # fmt: skip


def run(log: MLflowLog) -> int:
    trainer = engine()
    log.attach(trainer)
    return int(trainer.run([0] * 3, max_epochs=2).iteration)


def test_record_has_every_iteration(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path / 'mlruns.db'}"
    assert run(mlflow(place)) == 6
    client = MlflowClient(place)
    (record,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert [metric.step for metric in client.get_metric_history(record.info.run_id, "loss")] == [1, 2, 3, 4, 5, 6]


def damaged(folder: Path) -> str:
    (folder / "mlruns.db").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    return f"sqlite:///{folder / 'mlruns.db'}"


def a_folder(folder: Path) -> str:
    (folder / "mlruns.db").mkdir()
    return f"sqlite:///{folder / 'mlruns.db'}"


def nobody(folder: Path) -> str:
    return "http://127.0.0.1:9"


@pytest.mark.parametrize("place", [damaged, a_folder, nobody])
def test_training_goes_on_without_its_record_and_it_is_said_once(
    tmp_path: Path, place: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert run(mlflow(place(tmp_path))) == 6
    warnings = [r.getMessage() for r in caplog.records if r.name == "dtlp" and r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "cannot record this run any more" in warnings[0]


def test_record_that_is_locked_later_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mlruns.db"
    log, trainer = mlflow(f"sqlite:///{file}"), engine()
    log.attach(trainer)

    @trainer.on(Events.ITERATION_STARTED(once=3))
    def gone() -> None:
        connection = sqlite3.connect(file)
        connection.execute("DROP TABLE metrics")
        connection.commit()
        connection.close()

    assert trainer.run([0] * 3, max_epochs=2).iteration == 6
    assert caplog.text.count("cannot record this run any more") == 1
