# SPDX-License-Identifier: Apache-2.0
"""TensorBoard and MLflow: records of one run each, which no training depends on."""

from __future__ import annotations

import logging
import math
import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mlflow
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler, TensorBoardStatsHandler
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from ..errors import cause_of
from ..run_folder import RunFolder
from .score_table import origin_of

__all__ = ["MLflowLog", "MLflowScores", "TensorBoardLog"]

LOGGER = logging.getLogger("dtlp")


class TensorBoardLog(TensorBoardStatsHandler):
    """
    MONAI's ``TensorBoardStatsHandler``, for a run that may be resumed: what was logged after the checkpoint that it
    goes on from is not shown twice.

    Args:
        log_dir: folder of this run alone.
        picture: PNG that is shown whenever it was drawn anew.
        kwargs: of MONAI's handler.

    Example:
        >>> import os, tempfile
        >>> from ignite.engine import Engine
        >>> folder = tempfile.TemporaryDirectory()
        >>> engine = Engine(lambda engine, batch: 0.5)
        >>> log = TensorBoardLog(folder.name, output_transform=lambda output: output)
        >>> log.attach(engine)
        >>> _ = engine.run([0, 1], max_epochs=1)
        >>> log.close()
        >>> len(os.listdir(folder.name))
        1
    """

    def __init__(self, log_dir: str, picture: str | None = None, **kwargs: Any) -> None:
        super().__init__(log_dir=log_dir, **kwargs)
        self.picture = None if picture is None else Path(picture)
        self._has_begun, self._drawn = False, 0.0

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        if self.picture is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._show)

    def _show(self, engine: Engine) -> None:
        if self.picture is None or not self.picture.is_file() or self.picture.stat().st_mtime == self._drawn:
            return
        self._drawn = self.picture.stat().st_mtime
        from matplotlib.image import imread

        pixels = imread(self.picture)[:, :, :3]  # without transparency
        self._writer.add_image(self.picture.stem, pixels, engine.state.iteration, dataformats="HWC")

    def _begin(self, engine: Engine) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        if engine.state.iteration > 0:
            # what SummaryWriter(purge_step=) writes, which has to know the step before the checkpoint is read
            step = engine.state.iteration + 1
            self._writer._get_file_writer().add_event(
                Event(step=step, session_log=SessionLog(status=SessionLog.START)), step
            )


class MLflowLog(MLFlowHandler):
    """
    MONAI's ``MLFlowHandler``, whose failures end no training: the first is a warning, then nothing more is recorded.

    A data base may be locked by somebody who looks at it, be damaged or on a full disk, a server may not answer.

    Args:
        kwargs: of MONAI's handler.
    """

    def __init__(self, tracking_uri: str | None = None, **kwargs: Any) -> None:
        self.place, self.failed = tracking_uri, False
        self._try(lambda: _try_sqlite(tracking_uri))
        self._try(lambda: super(MLflowLog, self).__init__(tracking_uri=tracking_uri, **kwargs))

    def attach(self, engine: Engine) -> None:
        if not self.failed:
            super().attach(engine)

    def start(self, engine: Engine) -> None:
        self._try(lambda: super(MLflowLog, self).start(engine))
        self._try(lambda: self._tell(engine))

    def _tell(self, engine: Engine) -> None:
        """Leave the first screen where to look: MLflow 3 opens at a page on which a training does not show."""
        if self.experiment is None or self.experiment_param is None:  # the trainer's record alone has parameters
            return
        page = f"#/experiments/{self.experiment.experiment_id}/runs?workflowType=machine_learning"
        if str(self.place).startswith("http"):
            lines = [f"{str(self.place).rstrip('/')}/{page}"]
        else:
            command = shlex.join(["mlflow", "ui", "--backend-store-uri", str(self.place)])
            lines = [command, f"then http://127.0.0.1:5000/{page}"]
        engine.state.mlflow_page = lines

    def _log_params(self, params: dict[str, Any]) -> None:
        # a resumed run has them already, and MLflow refuses another value
        there: dict[str, str] = (
            {} if self.cur_run is None else self.client.get_run(self.cur_run.info.run_id).data.params
        )
        super()._log_params({name: value for name, value in params.items() if name not in there})

    def iteration_completed(self, engine: Engine) -> None:
        self._try(lambda: super(MLflowLog, self).iteration_completed(engine))

    def epoch_completed(self, engine: Engine) -> None:
        self._try(lambda: super(MLflowLog, self).epoch_completed(engine))

    def complete(self) -> None:
        self._try(super().complete)

    def close(self) -> None:
        self._try(super().close)

    def _try(self, log: Callable[[], Any]) -> None:
        if self.failed:
            return
        try:
            log()
        except Exception as error:  # MLflow and its data base raise many kinds
            self.failed = True
            LOGGER.warning(
                f"MLflow ({self.place}) cannot record this run any more ({cause_of(error)}); training goes on without. "
                "TensorBoard has the same curves."
            )


class MLflowScores:
    """
    Add the scores of an evaluation to the record of the training, under its section and convention.

    MONAI's ``MLFlowHandler`` would begin a record of its own. Where the training has none, nothing is done; where
    MLflow fails, it is said once.

    Args:
        tracking_uri: of MLflow.
        experiment_name: that the training was recorded under.
        model_file: weights in the training's ``models/``, whose ``logs/`` have the name of its record.
        prefix: before the names of scores, such as ``testing/native``.
    """

    def __init__(self, tracking_uri: str, experiment_name: str, model_file: str, prefix: str) -> None:
        self.place, self.experiment_name, self.prefix = tracking_uri, experiment_name, prefix
        self.run, self.model_file = RunFolder.of_weights(model_file), model_file

    def attach(self, engine: Engine) -> None:
        """Attach after whoever computes the scores."""
        engine.add_event_handler(Events.COMPLETED, self.log)

    def log(self, engine: Engine) -> None:
        """Add ``state.metrics``, at the iteration that the weights are of."""
        if not self.run.run_name.is_file() or (self.place.startswith("sqlite") and not self.run.mlflow.is_file()):
            return
        try:
            client = mlflow.MlflowClient(self.place)
            experiment = client.get_experiment_by_name(self.experiment_name)
            origin = origin_of(self.model_file)
            found = [] if experiment is None else client.search_runs([experiment.experiment_id])
            record = next((run for run in found if run.info.run_name == origin["run"]), None)
            if record is None:
                return
            step = origin["iteration"] if isinstance(origin["iteration"], int) else 0
            for metric, value in engine.state.metrics.items():
                if isinstance(value, float) and math.isfinite(value):
                    client.log_metric(record.info.run_id, f"{self.prefix}/{metric}", value, step=step)
        except Exception as error:  # MLflow and its data base raise many kinds
            LOGGER.warning(f"MLflow ({self.place}) cannot record the scores ({cause_of(error)}).")


def _try_sqlite(tracking_uri: str | None) -> None:
    """Open a data base in a file, for which MLflow tries again and again during two minutes."""
    if tracking_uri and tracking_uri.startswith("sqlite"):
        file = unquote(tracking_uri.partition(":///")[2].partition("?")[0])
        with closing(sqlite3.connect(file, timeout=1)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
