# SPDX-License-Identifier: Apache-2.0
"""Says which label maps an inference run wrote, and where; a run that wrote none is an error."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys

from ..errors import InputError

__all__ = ["PredictionReport"]


class PredictionReport:
    """
    Log one line per written label map and a summary.

    Args:
        prediction_dir: folder that ``SaveImaged`` writes to.
        postfix: what ``SaveImaged`` appends to a scan's name.
    """

    def __init__(self, prediction_dir: str, postfix: str = "seg") -> None:
        self.prediction_dir, self.postfix = Path(prediction_dir), postfix
        self.written: list[Path] = []
        self.started = 0.0
        self.logger = logging.getLogger("dtlp")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self.written, self.started = [], time.monotonic()

    def _collect(self, engine: Engine) -> None:
        total = engine.state.epoch_length
        batch: Any = engine.state.batch  # decollated by MONAI
        for item in batch:
            scan = Path(item[Keys.IMAGE].meta["filename_or_obj"])
            name = scan.name.removesuffix(".gz").removesuffix(".nii")
            file = self.prediction_dir / f"{name}_{self.postfix}.nii.gz"
            if file.is_file():
                self.written.append(file)
                spent = time.monotonic() - self.started
                self.logger.info(f"{len(self.written)}/{total}  {spent:.1f} s  {scan.name} -> {file}")

    def _finish(self, engine: Engine) -> None:
        if not self.written:
            raise InputError(f"No label map was written to {os.path.abspath(self.prediction_dir)}.")
        self.logger.info(f"Wrote {len(self.written)} label maps to {os.path.abspath(self.prediction_dir)}")
