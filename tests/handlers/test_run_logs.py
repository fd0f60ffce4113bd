# SPDX-License-Identifier: Apache-2.0
"""Records that end no training, and show nothing twice."""

from __future__ import annotations

import logging
import shlex
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dtlp_components import MLflowLog, MLflowScores, TensorBoardLog
from dtlp_components.run_folder import RunFolder


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
        **{
            "tracking_uri": place, "experiment_name": "e", "run_name": "r", "output_transform": lambda output: output,
            "close_on_complete": True, **kwargs,
        }
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


def evaluated(folder: Path, name: str = "mine", place: str = "") -> None:
    """An evaluation of the training's weights."""
    evaluator = Engine(lambda engine, batch: None)
    evaluator.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update({"dice": 81.5, "nsd": float("nan")})
    )
    place = place or f"sqlite:///{folder / 'mlruns.db'}"
    MLflowScores(place, "e", str(folder / "models/model.pt"), "testing/native").attach(evaluator)
    evaluator.run([0], max_epochs=1)


def trained(folder: Path, name: str = "mine") -> MlflowClient:
    log, trainer = mlflow(f"sqlite:///{folder / 'mlruns.db'}", run_name=name), engine()
    log.attach(trainer)
    trainer.run([0] * 3, max_epochs=1)
    run = RunFolder(folder)
    run.logs.mkdir()
    run.run_name.write_text(name)
    run.exported.write_text('{"iteration": 40}')
    return MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")


def test_scores_go_to_the_record_of_the_training_at_the_iteration_of_its_weights(tmp_path: Path) -> None:
    client = trained(tmp_path)
    evaluated(tmp_path)
    (record,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    (dice,) = client.get_metric_history(record.info.run_id, "testing/native/dice")
    assert (dice.value, dice.step) == (81.5, 40)
    assert "testing/native/nsd" not in record.data.metrics


def test_weights_without_a_record_are_scored_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluated(tmp_path)  # a downloaded model
    assert not (tmp_path / "mlruns.db").exists()
    client = trained(tmp_path)
    RunFolder(tmp_path).run_name.write_text("another")
    evaluated(tmp_path)
    (record,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert "testing/native/dice" not in record.data.metrics
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and r.name == "dtlp"]
    (tmp_path / "mlruns.db").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    evaluated(tmp_path)
    assert caplog.text.count("cannot record the scores") == 1


def test_parameters_are_logged_once_and_the_page_to_open_is_left_for_the_first_screen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = f"sqlite:///{tmp_path / 'mlruns.db'}"
    with caplog.at_level(logging.INFO, logger="dtlp"):
        for value in (1, 2):  # a resumed run may have other values, which MLflow refuses
            log, trainer = mlflow(place, close_on_complete=False, experiment_param={"seed": value}), engine()
            log.attach(trainer)
            trainer.run([0], max_epochs=1)
    client = MlflowClient(place)
    records = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert records[-1].data.params["seed"] == "1"
    assert "cannot record" not in caplog.text
    assert trainer.state.mlflow_page == [
        shlex.join(["mlflow", "ui", "--backend-store-uri", place]),
        "then http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning",
    ]


def test_picture_is_shown_whenever_it_was_drawn_anew(tmp_path: Path) -> None:
    picture = tmp_path / "progress.png"
    log = TensorBoardLog(str(tmp_path / "tb"), picture=str(picture), output_transform=lambda output: output)
    trainer = engine()
    log.attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED(once=2))
    def draw() -> None:
        Image.new("RGBA", (8, 6), "red").save(picture)

    shown: list[int] = []
    add = log._writer.add_image
    log._writer.add_image = lambda tag, pixels, step, **kwargs: (shown.append(step), add(tag, pixels, step, **kwargs))
    trainer.run([0], max_epochs=4)
    assert shown == [3]  # drawn after the handler had looked at the second epoch's end
