# SPDX-License-Identifier: Apache-2.0
"""What a training says before its first iteration, after each validation, and at its end."""

from __future__ import annotations

import logging
import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from ..data.datalists import scored_section
from ..keys import DatalistKeys
from ..processes import num_processes
from ..run_folder import RunFolder
from ..tables import indented, number_of, time_text
from .run_record import RunRecord

__all__ = ["TrainingScreens"]

LOGGER = logging.getLogger("dtlp")
METRIC = "val_mean_dice"
NEAR_ZERO = 0.05  # of the mean Dice


class TrainingScreens:
    """
    Say in words what is trained on what, for how long and where to look; how each validation went; and what comes next.

    Attach after the validation, and in the first process alone. The network and the lists are looked at, not used.

    Args:
        record: of the training, with its settings, the keys that the command line set, and what computes.
        output_dir: of the run.
        bundle: folder of the bundle.
        network: the student.
        scans: items by section.
        datalist: file with the lists; empty where a server gives the scans.
        dataset_dir: folder of the scans.
        burn_in: iterations before unlabeled scans join in.
        validator: whose ``state.metrics`` have the mean Dice; ``None`` without a section for it.
    """

    def __init__(
        self,
        record: RunRecord,
        output_dir: str,
        bundle: str,
        network: nn.Module,
        scans: Mapping[str, Sequence[Mapping[str, Any]]],
        datalist: str,
        dataset_dir: str,
        burn_in: float = 0.0,
        validator: Any | None = None,
    ) -> None:
        self.settings: Mapping[str, Any] = record.content["settings"]
        self.overrides: Mapping[str, Any] = record.content["overrides"]
        self.environment: Mapping[str, Any] = record.content["environment"]
        self.run, self.bundle = RunFolder(os.path.abspath(output_dir)), Path(bundle)
        self.network, self.scans = network, scans
        self.datalist, self.dataset_dir = datalist, dataset_dir
        self.burn_in, self.validator = burn_in, validator
        self.has_begun, self.started, self.started_at = False, 0.0, 0
        self.last: tuple[float, int] | None = None  # Dice and iteration of the last validation

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._forget)
        # by then, a resumed training knows its iteration, whoever was attached first
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.settings["val_interval"]), self._validated)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _forget(self) -> None:
        self.has_begun, self.last = False, None

    def _begin(self, engine: Engine) -> None:
        if self.has_begun:
            return
        self.has_begun = True
        self.started, self.started_at = time.monotonic(), engine.state.iteration
        rows = [*self._what(), *self._how_long(engine), *self._where(engine)]
        LOGGER.info("What is trained, and where to look:\n" + indented(rows))

    def _what(self) -> list[list[str]]:
        values, method = self.settings, self.settings["method"]
        names = [str(name) for name in values["label_names"]]
        weights = sum(weight.numel() for weight in self.network.parameters())
        counts = {section: len(items) for section, items in self.scans.items()}
        how = f"{method} ({'docs/explanation/method.md' if method == 'dtlp' else 'docs/how-to/compare-methods.md'})"
        channels = f", {values['in_channels']} channels" if values.get("in_channels", 1) > 1 else ""
        learner = "the student, a V-Net"
        if not counts["unlabeled"]:
            how, learner = "supervised, on the labeled scans alone", "a V-Net"
        return [
            ["method", how],
            ["network", f"{learner}: {values['features']} features, {weights / 1e6:.2g} million weights"],
            ["patches", f"{_by(values['patch_size'])} voxels of {_by(values['spacing_mm'])} mm{channels}"],
            ["classes", f"{', '.join(names[1:])}; background" if names else f"{values['num_classes']}"],
            [
                "scans",
                f"{counts['labeled']} labeled, {counts['unlabeled']} unlabeled, {counts['validation']} for validation, "
                f"in {self._place()}",
            ],
            ["computes on", self._computer()],
        ]

    def _place(self) -> str:
        """The smallest folder that all scans are in."""
        images = [os.path.abspath(item[DatalistKeys.IMAGE]) for items in self.scans.values() for item in items]
        return os.path.commonpath([os.path.dirname(image) for image in images])

    def _computer(self) -> str:
        device, threads = self.environment["device"], self.environment["threads"]
        text = device if device != "CPU" else f"CPU, {number_of(threads, 'thread')}"
        if num_processes() > 1:
            text = f"{text}, in {num_processes()} processes"
        return f"{text}, in {'half precision' if self.settings['amp'] else 'float32'} (--amp)"

    def _how_long(self, engine: Engine) -> list[list[str]]:
        epoch_length, epochs = int(engine.state.epoch_length or 0), int(engine.state.max_epochs or 0)
        total, done = epochs * epoch_length, engine.state.iteration
        length = f"{total} iterations in {epochs} epochs"
        if done:
            length += f", {done} of them done"
        if self.scans["unlabeled"] and self.burn_in > done:
            length += f"; after {math.ceil(self.burn_in)}, unlabeled scans are used too, and iterations take longer"
        every = self.settings["val_interval"] * epoch_length
        if self.validator is None:
            checks = (
                "none: section `validation` of the datalist is empty. Move a few labeled scans into it, or make the "
                "bundle with `dtlp new … --validation_share 0.2`"
            )
        elif every > total:
            checks = f"none: the training ends before iteration {every}. Lower --val_interval or --iterations_per_epoch"
        else:
            checks = f"every {every} iterations, next after iteration {(done // every + 1) * every}"
        return [["length", length], ["validation", checks]]

    def _where(self, engine: Engine) -> list[list[str]]:
        run = self.run
        rows = [
            ["run folder", str(run.root)],
            ["curves", f"{run.progress}, updated at each validation"],
            ["TensorBoard", shlex.join(["tensorboard", "--logdir", str(run.tensorboard)])],
        ]
        page: list[str] = getattr(engine.state, "mlflow_page", [])
        rows += [["" if i else "MLflow", line] for i, line in enumerate(page)]
        return [
            *rows,
            ["stop", "Ctrl-C: training finishes the current iteration and writes a checkpoint"],
            ["resume", "the same command with --resume True"],
        ]

    def _validated(self, engine: Engine) -> None:
        if self.validator is None or METRIC not in self.validator.state.metrics:
            return
        dice, iteration = float(self.validator.state.metrics[METRIC]), engine.state.iteration
        self.last = dice, iteration
        best, at = self._best(engine)
        place = "the best so far" if at == iteration else f"best {best:.3f} at iteration {at}"
        LOGGER.info(f"Validation after iteration {iteration}: mean Dice {dice:.3f}, {place}.")

    def _best(self, engine: Engine) -> tuple[float, int]:
        """Dice of the best validation and its iteration, of an earlier run as well if this one goes on with it."""
        state = self.validator.state  # type: ignore[union-attr]  # who calls has seen that there is one
        return float(state.best_metric), int(state.best_metric_epoch) * int(engine.state.epoch_length or 0)

    def _end(self, engine: Engine) -> None:
        seconds = time.monotonic() - self.started
        count = engine.state.iteration - self.started_at
        rows: list[list[str]] = []
        if self.last is not None:
            best, at = self._best(engine)
            dice, iteration = self.last
            rows.append(["mean Dice", f"best {best:.3f} at iteration {at}, last {dice:.3f} at iteration {iteration}"])
            if best < NEAR_ZERO:
                rows.append(["", self._why_zero()])
        else:
            rows.append(["mean Dice", "unknown: there was no validation"])
        # where a server gives the scans, there is no list to score
        section = scored_section(self.datalist) if self.datalist and os.path.isfile(self.datalist) else ""
        rows += [["evaluate", self._evaluate(section)]] if section else []
        rows += [["segment", self._segment()]]
        LOGGER.info(f"Done: {count} iterations in {time_text(seconds)}.\n" + indented(rows))

    def _why_zero(self) -> str:
        return (
            "A Dice near 0 usually means that labels are not aligned with their scans or have other values than the "
            f"bundle's {self.settings['num_classes']} classes (docs/get-started/own-scans.md), too few iterations "
            "(most bundles need hundreds), or a --learning_rate that is too high (docs/reference/bundles.md)."
        )

    def _evaluate(self, section: str) -> str:
        # keys of the training that an evaluation needs as well, with the values that they came to
        values = {"dataset_dir": self.dataset_dir, "datalist": self.datalist, "output_dir": str(self.run.root)}
        words = [word for key, value in values.items() if key in self.overrides for word in (f"--{key}", value)]
        if section != DatalistKeys.TESTING:
            words += ["--eval_section", section]
        return shlex.join(["dtlp", "evaluate", str(self.bundle), *words])

    def _segment(self) -> str:
        """With a scan that no label was learned from, if there is one; any other may stand in its place."""
        items = [*self.scans["validation"], *self.scans["unlabeled"], *self.scans["labeled"]]
        scan = str(items[0][DatalistKeys.IMAGE])
        weights = [] if self.run.root == self.bundle.absolute() else ["--model_file", str(self.run.model)]
        return shlex.join(["dtlp", "segment", str(self.bundle), scan, str(self.run.predictions), *weights])


def _by(sides: Sequence[float]) -> str:
    return " × ".join(f"{side:.4g}" for side in sides)
