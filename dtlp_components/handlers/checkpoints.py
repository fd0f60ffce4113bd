# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: everything needed to go on, and the student's weights for everybody else."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from ..errors import InputError
from ..files import claim, release, write_json, write_text
from ..processes import highest, is_first, num_processes, same_for_all
from ..run_folder import RunFolder, in_use_sentence
from .checkpoint_files import compare_trainings, keep_earlier, load_checkpoint, write_checkpoint
from .signals import SignalWatch

__all__ = ["TrainingCheckpoint", "run_name"]


def run_name(name: str, output_dir: str, resume: bool | str) -> str:
    """
    Name of a training in MLflow: ``name``, the time of the start and four random digits, or, on resume, the one that is
    on record.

    MONAI's ``MLFlowHandler`` goes on with any unfinished record of the same name, such as a killed training has left.

    Args:
        name: beginning of the name.
        output_dir: of the run, whose :py:class:`TrainingCheckpoint` has recorded the name.
        resume: whether a training is to go on.
    """
    file = RunFolder(output_dir).run_name
    if resume and file.is_file():
        return file.read_text(encoding="utf-8")
    # two runs may begin in one second
    return f"{name}_{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


# keys that say how a training is run and watched, not what it learns
MAY_CHANGE = frozenset(
    {
        "accumulation_steps", "allow_changes", "cache_rate", "checkpoint_interval", "checkpoint_minutes",
        "cudnn_benchmark", "gradient_checkpointing", "log_interval", "mlflow", "monitor_cases", "num_workers", "resume",
        "tf32", "window_batch_size", "window_overlap",
    }
)  # fmt: skip


BATCHES = "processes × accumulation_steps"


class TrainingCheckpoint:
    """
    Write ``checkpoints/last.pt``, ``checkpoints/best.pt`` and ``models/model.pt``; resume from the first.

    - ``last.pt``: every object of ``objects``, the random states, iteration, epoch and best validation metric; also
      written when a signal (Ctrl-C, SIGTERM, SIGUSR1) ends the run. ``previous.pt`` is the one before.
    - ``best.pt``: the exported model's plain state dict at the best validation so far.
    - ``models/model.pt``: the same kind of file; ``selection`` says whether of the last or the best iteration.
    - ``logs/model_settings.json``: the numbers that evaluation and inference need to be told alike.
    - ``logs/exported.json``: the iteration that the weights in ``model.pt`` are of.
    - ``logs/run_name.txt``: what :py:func:`run_name` returns on resume.

    Ignite's ``Checkpoint`` and MONAI's ``CheckpointSaver`` keep neither random states nor the position in the data, nor
    a plain file of weights under a name that stays.

    A file is written under another name and moved into place, so it is whole or not there. Attach this handler last:
    what runs after it in the same event is not part of the checkpoint.

    Args:
        output_dir: holds ``checkpoints/`` and ``models/``.
        objects: what has a ``state_dict`` and is needed to go on, by name.
        exported_model: module whose state dict is ``model.pt``: the student or its moving average.
        trainer_loaders: endless loaders, told where to begin on resume; ``None`` entries are ignored.
        validator: evaluator whose ``best_metric`` decides on ``best.pt``, or ``None``.
        interval: epochs from one checkpoint to the next; the last epoch always writes one.
        minutes: that have to be over as well since the last one was written, or the training started.
        resume: go on from ``last.pt`` if there is one, ``"auto"`` without a warning if there is none; else an earlier
            run's files are kept under another name.
        selection: ``last`` or ``best``.
        allow_changes: go on with other ``values`` and ``scans`` than before, which the log names.
        settings: numbers that must not change on resume, by name.
        values: of the keys of the configuration; they must not change either, but for those in ``MAY_CHANGE``.
        scans: items with the path of an ``image`` by section; each must stay where it is, named by file and folder. One
            that moved between training and validation is refused whatever ``allow_changes`` says.
        model_settings: the same, and those that the weights can only be used with, which are recorded.
        run_name: of this training; not recorded if ``None``.
        in_use: somebody segments with ``models/model.pt`` meanwhile (MONAI Label): an earlier one stays in its place,
            beside the copy that is kept, until there is a newer one.

    Raises:
        ValueError: if ``selection`` has another value.
    """

    def __init__(
        self,
        output_dir: str,
        objects: Mapping[str, Any],
        exported_model: nn.Module,
        trainer_loaders: tuple[Any, ...] = (),
        validator: Any | None = None,
        interval: int = 1,
        minutes: float = 0.0,
        resume: bool | str = False,
        allow_changes: bool = False,
        selection: str = "last",
        settings: Mapping[str, Any] | None = None,
        model_settings: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        scans: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
        run_name: str | None = None,
        in_use: bool = False,
    ) -> None:
        if selection not in ("last", "best"):
            raise ValueError(f"selection must be 'last' or 'best', got {selection!r}.")
        self.run = RunFolder(output_dir)
        self.objects = dict(objects)
        self.exported_model = exported_model
        self.loaders = [loader for loader in trainer_loaders if loader is not None]
        self.validator, self.interval, self.resume, self.selection = validator, interval, resume, selection
        self.model_settings = dict(model_settings or {})
        kept = {name: value for name, value in (values or {}).items() if name not in MAY_CHANGE}
        self.settings = {**kept, **(settings or {}), **self.model_settings}
        # the optimizer's state brings its learning rate along: another one would be recorded and not used
        self.fixed = {*(settings or {}), *self.model_settings, *({"learning_rate"} & kept.keys())}
        self.allow_changes = allow_changes
        # not whole paths: a run may go on where the data lie elsewhere
        self.scans = {
            section: sorted("/".join(Path(item["image"]).parts[-2:]) for item in items)
            for section, items in (scans or {}).items()
        }
        self.run_name = run_name
        self.in_use = in_use
        self.signals = SignalWatch()
        self.logger = logging.getLogger("dtlp")
        self._best_epoch_written = 0
        self.minutes, self._written = minutes, 0.0

    def attach(self, engine: Engine) -> None:
        """Resume at the start of ``engine`` and write at the end of its epochs."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.stop_if_asked)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.stop_if_asked)
        engine.add_event_handler(Events.COMPLETED, self.signals.stop_listening)
        engine.add_event_handler(Events.COMPLETED, self._release)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._release_and_raise)

    def start(self, engine: Engine) -> None:
        """Resume, or put an earlier run's files aside; from now on, a signal ends the run between two iterations."""
        # made by the trainer, after its handlers, so a config cannot name them among the objects
        trainer: Any = engine
        self.objects |= {"scaler": trainer.grad_scaler, "random": trainer.random_streams}
        self.settings[BATCHES] = num_processes() * trainer.random_streams.count
        self.fixed.add(BATCHES)
        if same_for_all(self._prepare):
            self._load(engine)
        if is_first():
            write_json(self.run.model_settings, self.model_settings)
            if self.run_name is not None:
                write_text(self.run.run_name, self.run_name)
        self._written = time.monotonic()
        self.signals.listen()

    def _prepare(self) -> bool:
        """Take the folder; whether there is a training in it to go on with. The first process alone does it."""
        if holder := claim(self.run.lock):
            raise InputError(in_use_sentence(self.run, holder))
        goes_on = bool(self.resume) and (self.run.last.is_file() or self.run.previous.is_file())
        if goes_on and not self.run.last.is_file():  # the process was killed between two renames
            os.replace(self.run.previous, self.run.last)
        if not goes_on:
            if self.resume is True:
                self.logger.warning(
                    f"Nothing to resume: {self.run.last} does not exist. Training starts from the beginning."
                )
            keep_earlier(self.run, self.in_use)
        return goes_on

    def _release(self) -> None:
        release(self.run.lock)

    def _release_and_raise(self, engine: Engine, error: BaseException) -> None:
        self._release()
        raise error

    def stop_if_asked(self, engine: Engine) -> None:
        """
        End the run after the iteration in which a signal came, with a checkpoint to go on from.

        Raises:
            SystemExit: with 128 and the number of the signal, as a shell says it.
        """
        # a signal may have reached one process alone, or one earlier than another
        asked = highest(self.signals.received or 0)
        epoch_ends = engine.state.iteration % (engine.state.epoch_length or 1) == 0
        if not asked or (epoch_ends and engine.last_event_name == Events.ITERATION_COMPLETED):
            return  # the end of the epoch, with its validation and weights, comes before the stop
        self._write_last(engine)
        self.logger.info(
            f"Stopped by {Signals(asked).name} after iteration {engine.state.iteration}; "
            "--resume True goes on from here."
        )
        self.signals.end(engine, asked)

    def save(self, engine: Engine) -> None:
        """Write what is due at the end of this epoch."""
        state = engine.state
        is_last = state.epoch == state.max_epochs
        self._save_best(state.epoch, state.iteration)
        if not is_last and (state.epoch % self.interval or not self._is_time()):
            return
        never_validated = is_last and self._best_epoch_written < 1
        if self.selection == "last" or self.validator is None or never_validated:
            self._export(state.iteration)
        self._write_last(engine)
        if is_last:
            self.logger.info(f"Student's weights: {os.path.abspath(self.run.model)}")

    def _is_time(self) -> bool:
        """Whether a checkpoint is due by the clock, which is the first process's."""
        return self.minutes == 0 or same_for_all(lambda: time.monotonic() - self._written >= 60 * self.minutes)

    def _write_last(self, engine: Engine) -> None:
        """Everything that is needed to go on, between two iterations."""
        content = {name: item.state_dict() for name, item in self.objects.items()}
        content["progress"] = {
            "iteration": engine.state.iteration,
            "epoch": engine.state.iteration // (engine.state.epoch_length or 1),  # whole ones
            "best_metric": float(self.validator.state.best_metric) if self.validator is not None else -1.0,
            "best_metric_epoch": int(self.validator.state.best_metric_epoch) if self.validator is not None else -1,
            "settings": self.settings,
            "scans": self.scans,
        }
        write_checkpoint(content, self.run.last, self.run.previous)
        self._written = time.monotonic()

    def _save_best(self, epoch: int, iteration: int) -> None:
        if self.validator is None:
            return
        best_epoch = int(self.validator.state.best_metric_epoch)
        # the evaluator counts its own epochs on the trainer's clock, see monai.engines.Evaluator.run(global_epoch)
        if best_epoch > self._best_epoch_written and best_epoch == epoch:
            self._best_epoch_written = best_epoch
            write_checkpoint(_exported_state(self.exported_model), self.run.best)
            if self.selection == "best":
                self._export(iteration)

    def _export(self, iteration: int) -> None:
        write_checkpoint(_exported_state(self.exported_model), self.run.model)
        if is_first():
            write_json(self.run.exported, {"iteration": iteration})

    def _load(self, engine: Engine) -> None:
        content = load_checkpoint(self.run)
        progress = content["progress"]
        now = {"settings": self.settings, "scans": self.scans}
        compare_trainings(self.run.last, progress, now, self.fixed, self.allow_changes)
        for name, item in self.objects.items():
            if name in content:  # an earlier version kept no scaler
                item.load_state_dict(content[name])
        engine.state.iteration, engine.state.epoch = progress["iteration"], progress["epoch"]
        if self.validator is not None:
            self.validator.state.best_metric = progress["best_metric"]
            self.validator.state.best_metric_epoch = progress["best_metric_epoch"]
            self._best_epoch_written = progress["best_metric_epoch"]
        for loader in self.loaders:
            loader.start_at(progress["iteration"])
        self.logger.info(f"Resumed {self.run.last} after iteration {progress['iteration']}.")


def _exported_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
