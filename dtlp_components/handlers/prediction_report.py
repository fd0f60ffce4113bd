# SPDX-License-Identifier: Apache-2.0
"""Says how far an inference run is, what is in each label map, and which scans have none and why."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import MetaKeys
from tqdm.auto import tqdm

from ..data.segmentations import COLOR_TABLE, COMPANIONS, LABEL_MAP_ENDING, TABLE, color_table, printable, read_table
from ..errors import raise_if_any
from ..files import locked, write_text
from ..keys import ScanEvents, ScanKeys
from ..processes import gather, is_first, num_processes
from ..tables import csv_text, time_text
from .signals import SignalWatch

__all__ = ["PredictionReport"]


SECONDS_BETWEEN_LINES = 30.0


class PredictionReport:
    """
    Progress within each scan, a line per label map with the volume of every class, and a table of all of them.

    On a terminal each scan has a bar of its windows with the time left; elsewhere a line every half minute. After every
    scan ``segmentations.csv`` is written to ``prediction_dir``: scan, label map, seconds, scores of quality, voxels and
    ml by class, and what was wrong. Rows of an earlier run stay until their scan is segmented again, those without a
    label map go; then maps of uncertainty and the DICOM Segmentation of that run go too, if this one writes none.

    ``labels.ctbl`` beside it has names and colors of the labels for 3D Slicer.

    Args:
        prediction_dir: folder that ``SaveImaged(savepath_in_metadict=True)`` writes to.
        label_names: names of all classes, the background first; a class without one goes by its number.

    Raises:
        SystemExit: with 128 and the number of the signal, when one (Ctrl-C, SIGTERM, SIGUSR1) asks to stop.
        InputError: at the end of the run, if a scan has no label map or something else was not written, with the reason
            for each; the others are whole.
    """

    def __init__(self, prediction_dir: str, label_names: Sequence[str] = ()) -> None:
        self.prediction_dir, self.label_names = Path(prediction_dir), list(label_names)
        self.rows: dict[str, dict[str, Any]] = {}  # of this run, by scan
        self.segmented: dict[str, bool] = {}  # scan -> whether anything is in its label map
        self.problems: list[str] = []
        self.signals = SignalWatch()
        self.logger = logging.getLogger("dtlp")
        self.bar: tqdm | None = None
        self.started = self.scan_started = self.predicting_since = self.last_line = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start_scan)
        engine.add_event_handler(ScanEvents.WINDOWS_COMPLETED, self._progress)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        engine.add_event_handler(Events.COMPLETED, self.signals.stop_listening)

    def _start(self, engine: Engine) -> None:
        self.problems, self.segmented, self.started = [], {}, time.monotonic()
        self.rows = {}
        if self.label_names:
            self._write_color_table()
        self.signals.listen()

    def _rows_of_others(self) -> dict[str, dict[str, Any]]:
        """Rows of the table that other runs wrote and whose label map is there; that one may have been moved."""
        rows = read_table(self.prediction_dir)
        there = [r for r in rows if (self.prediction_dir / os.path.basename(r["label_map"])).is_file()]
        return {r["scan"]: r for r in there if r["scan"] not in self.rows}

    def _write_color_table(self) -> None:
        file = self.prediction_dir / COLOR_TABLE
        try:
            write_text(file, color_table(self.label_names))
        except OSError as error:
            self.problems.append(f"{file}: cannot be written ({error.strerror}).")

    def _start_scan(self, engine: Engine) -> None:
        self.scan_started = self.predicting_since = self.last_line = time.monotonic()

    def _progress(self, engine: Any) -> None:
        self._stop_if_asked(engine)
        done, total = engine.state.windows
        if done == 0:
            self.predicting_since = self.last_line = time.monotonic()
        count = f"{engine.state.iteration}/{engine.state.epoch_length}"
        if sys.stderr.isatty():
            if self.bar is None:
                self.bar = tqdm(total=total, desc=f"scan {count}", unit="window", dynamic_ncols=True, leave=False)
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if done < total and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            # reading and preprocessing are over, and none of what is left
            left = time_text((now - self.predicting_since) / done * (total - done))
            self.logger.info(f"scan {count}: {done} of {total} windows, {left} left")

    def _stop_if_asked(self, engine: Engine) -> None:
        asked = self.signals.received
        if asked is None:
            return
        self._close_bar()
        self.logger.info(
            f"Stopped by {asked.name} with {len(self.segmented)} of {engine.state.epoch_length} scans segmented; "
            "--skip_existing True goes on with the others."
        )
        self.signals.end(engine)

    def _collect(self, engine: Any) -> None:
        self._close_bar()
        now = time.monotonic()
        count, (output,) = f"{engine.state.iteration}/{engine.state.epoch_length}", engine.state.output
        scan = printable(output[ScanKeys.IMAGE])
        row: dict[str, Any] = {"scan": scan, "seconds": round(now - self.scan_started, 1)}
        if ScanKeys.PROBLEM in output:
            row["problem"] = printable(output[ScanKeys.PROBLEM])
            if ScanKeys.PRED not in output and (earlier := self._rows_of_others().get(scan)):
                row["problem"] += f" {earlier['label_map']} is of an earlier run."
            self.problems.append(row["problem"])
            self.logger.error(f"{count}  failed: {row['problem']}")
        if ScanKeys.PRED in output:
            volumes = self._describe(output, row)
            self.segmented[scan] = bool(volumes)
            left = time_text((now - self.started) / engine.state.iteration * self._to_go(engine))
            self.logger.info(
                f"{count}  {time_text(now - self.scan_started)}, {left} left  {Path(scan).name} -> {row['label_map']}: "
                f"{', '.join(volumes) or 'nothing but background'}{_interval(row)}"
            )
            self._remove_outdated(output)
        self.rows[scan] = row
        self._write()
        engine.state.output = []  # the volumes are written
        self._stop_if_asked(engine)

    def _describe(self, output: dict[str, Any], row: dict[str, Any]) -> list[str]:
        """Fill a row with what is in a label map; returns a text per class that is in it."""
        labels = output[ScanKeys.PRED]
        row["label_map"] = printable(labels.meta[MetaKeys.SAVED_TO])
        row.update({name: round(score, 4) for name, score in output[ScanKeys.QUALITY].items()})
        ml_per_voxel = abs(float(torch.linalg.det(labels.affine[:3, :3]))) / 1000
        volumes = []
        counts = count_voxels(labels)
        for label in range(max(len(counts), len(self.label_names))):
            voxels = counts[label] if label < len(counts) else 0
            name = self.label_names[label] if label < len(self.label_names) else str(label)
            row[f"{name} voxels"], row[f"{name} ml"] = voxels, round(voxels * ml_per_voxel, 3)
            if label and voxels:
                volumes.append(f"{name} {voxels * ml_per_voxel:.4g} ml ({voxels})")
        return volumes

    def _remove_outdated(self, output: dict[str, Any]) -> None:
        """What an earlier run wrote beside the label map that has just been replaced, and this run has not."""
        label_map = Path(output[ScanKeys.PRED].meta[MetaKeys.SAVED_TO])
        for key, ending in COMPANIONS.items():
            file = label_map.with_name(label_map.name.removesuffix(LABEL_MAP_ENDING) + ending)
            if key not in output and file.is_file():
                with contextlib.suppress(OSError):
                    file.unlink()
                    self.logger.info(f"{printable(file)} was of an earlier run's label map: removed")

    @staticmethod
    def _to_go(engine: Any) -> int:
        return int(engine.state.epoch_length or 0) - int(engine.state.iteration)

    def _write(self) -> None:
        file = self.prediction_dir / TABLE
        try:
            with locked(self.prediction_dir):
                # another run may have written meanwhile
                write_text(file, _table([*self._rows_of_others().values(), *self.rows.values()]))
        except OSError as error:  # the scans that are left are to be segmented all the same
            problem = f"{file}: cannot be written ({error.strerror})."
            if problem not in self.problems:
                self.problems.append(problem)
                self.logger.error(problem)

    def _finish(self, engine: Engine) -> None:
        self._collect_shares()
        place, segmented = os.path.abspath(self.prediction_dir), len(self.segmented)
        empty = segmented - sum(self.segmented.values())
        self.logger.info(f"Wrote {segmented} label maps and {TABLE} to {place}")
        if empty > segmented / 2:
            self.logger.warning(
                f"{empty} of {segmented} label maps hold nothing but background. Are these the weights of "
                "this bundle, trained long enough, and are the scans of the kind that it was trained on?"
            )
        if self.problems:
            raise_if_any(
                self.problems, f"Segmented {segmented} of {len(self.rows)} scans; the rest was skipped or is not whole"
            )

    def _collect_shares(self) -> None:
        """What the other processes have done, each of which wrote its own rows into the table."""
        if num_processes() == 1:
            return
        problems: dict[str, None] = {}
        for rows, segmented, others in gather((self.rows, self.segmented, self.problems)):
            self.rows |= rows
            self.segmented |= segmented
            problems |= dict.fromkeys(others)
        self.problems = list(problems)
        if is_first():
            self._write()

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._close_bar()
        self.signals.stop_listening()
        raise error


def _interval(row: dict[str, Any]) -> str:
    """What to expect of a label map, where the network was calibrated."""
    if "dice_low" not in row:
        return ""
    return f"; mean Dice to expect {100 * row['dice_low']:.0f} to {100 * row['dice_high']:.0f} %"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    # columns in the order of the scan that has most
    columns = dict.fromkeys(["scan", "label_map", "seconds"])
    for row in sorted(rows, key=len, reverse=True):
        columns.update(dict.fromkeys(name for name in row if name != "problem"))
    return csv_text(rows, [*columns, "problem"])


def count_voxels(labels: torch.Tensor) -> list[int]:
    """
    Voxels of each label from 0 to the highest, of a label map of whole numbers, plane by plane: counting makes them
    int64.
    """
    planes = labels.as_subclass(torch.Tensor)[0]
    num_labels = int(planes.max()) + 1
    counts = sum(np.bincount(plane.flatten().cpu().numpy(), minlength=num_labels) for plane in planes)
    return [int(count) for count in np.asarray(counts)]
