# SPDX-License-Identifier: Apache-2.0
"""Says which label maps an inference run wrote, and where; a run that wrote none is an error."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import ImageMetaKey, MetaKeys
from monai.utils.enums import CommonKeys as Keys

from ..errors import InputError

__all__ = ["PredictionReport"]


class PredictionReport:
    """
    Log one line per written label map and a summary.

    Args:
        prediction_dir: folder that ``SaveImaged(savepath_in_metadict=True)`` writes to.
    """

    def __init__(self, prediction_dir: str) -> None:
        self.prediction_dir = Path(prediction_dir)
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
        output: Any = engine.state.output  # decollated by MONAI
        for item in output:
            meta = item[Keys.PRED].meta
            if MetaKeys.SAVED_TO in meta:
                self.written.append(Path(meta[MetaKeys.SAVED_TO]))
                spent = time.monotonic() - self.started
                scan = Path(meta[ImageMetaKey.FILENAME_OR_OBJ])
                self.logger.info(f"{len(self.written)}/{total}  {spent:.1f} s  {scan.name} -> {self.written[-1]}")

    def _finish(self, engine: Engine) -> None:
        if not self.written:
            raise InputError(f"No label map was written to {os.path.abspath(self.prediction_dir)}.")
        self.logger.info(f"Wrote {len(self.written)} label maps to {os.path.abspath(self.prediction_dir)}")
