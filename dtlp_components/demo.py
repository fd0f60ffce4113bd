# SPDX-License-Identifier: Apache-2.0
"""The whole way in minutes: drawn volumes, two trainings, their scores, a segmented scan, a picture and a report."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .bundle.find import find_bundle
from .bundle.run_monai import run_monai_here
from .datasets.phantom import write_phantom
from .files import read_object
from .keys import DatalistKeys
from .report.command import write_report
from .report.picture import write_picture
from .run_folder import RunFolder, mlflow_address
from .tables import indented, time_text

__all__ = ["run_demo"]

BUNDLE = "phantom_10"
# Steps and their share of the time, measured; of the whole there is no telling before the first is over
STEPS = {
    "Draw 40 abdomens": 0.06,
    "Train on the labeled scans alone": 0.2,
    "Score that": 0.01,
    "Train on the labeled and the unlabeled scans (DTLP)": 0.68,
    "Score that too": 0.01,
    "Segment a scan": 0.01,
    "Draw pictures and a report": 0.03,
}
DURATION = "about 4 minutes on two free CPU cores"


def run_demo(output: str = "demo") -> None:
    """
    Draw the phantom, train `phantom_10` on it without and with the unlabeled scans, score both, segment a scan.

    Trainings, evaluations and inference are the commands that a user would type; they are printed before they run. All
    run in this process, since importing MONAI takes longer than some of them.

    Args:
        output: folder for data and results.

    Raises:
        InputError: if something is in the way of one of the commands.
    """
    data = Path(output, "data")
    alone, dtlp = RunFolder(Path(output, "labeled_only")), RunFolder(Path(output, BUNDLE))
    print(
        "This draws CT-like abdomens with six organs, trains a network on the 3 labeled ones alone, then with 25 "
        f"unlabeled ones as well, and compares the two on 8 others: {DURATION}. Everything goes to "
        f"{os.path.abspath(output)}.",
        flush=True,
    )
    clock, bundle = _Clock(), find_bundle(BUNDLE)
    configs = bundle / "configs"

    def run(run_id: str, config: str, folder: RunFolder, *words: str) -> Callable[[], None]:
        common = ["--dataset_dir", str(data), "--output_dir", str(folder.root)]
        return lambda: run_monai_here(["run", run_id, "--config_file", str(configs / config), *common, *words])

    clock.step(lambda: write_phantom(str(data)))
    for folder, words in ((alone, ["--batch_size_unlabeled", "0"]), (dtlp, [])):
        clock.step(run("training", "train.json", folder, *words))
        clock.step(run("evaluating", "evaluate.json", folder))
    scan = min((data / "imagesTs").glob("*.nii.gz"))
    clock.step(run("run", "inference.json", dtlp, "--input", str(scan)))
    page = dtlp.root / "report.html"
    picture = clock.step(lambda: _draw(bundle, data, alone, dtlp, page))
    pack = shlex.join(["dtlp", "pack", str(bundle), "packed", "--run_dir", str(dtlp.root)])
    mlflow = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", mlflow_address(str(dtlp.root))]
    shown = [
        ["picture", str(picture)],
        ["report", str(page)],
        ["curves", str(dtlp.progress)],
        ["scores", str(dtlp.cases_csv(DatalistKeys.TESTING))],
        ["label map", str(dtlp.predictions)],
        ["weights", str(dtlp.model)],
        ["MLflow", shlex.join(mlflow)],
        ["", "then http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"],
        ["hand it on", pack],
    ]
    print(f"\nDone in {time_text(clock.seconds)}. {_verdict(alone, dtlp)}\nWhat there is to open:\n{indented(shown)}")


class _Clock:
    """Says which step it is and how long the others will take, by what those that are over have taken."""

    def __init__(self) -> None:
        self.started, self.done = time.monotonic(), 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def step(self, do: Callable[[], Any]) -> Any:
        """Do the next of ``STEPS``."""
        over = sum(list(STEPS.values())[: self.done])
        left = f", about {time_text(self.seconds / over * (1 - over))} left" if self.done else ""
        print(f"\n[{self.done + 1}/{len(STEPS)}] {list(STEPS)[self.done]}{left}", flush=True)
        self.done += 1
        return do()


def _draw(bundle: Path, data: Path, alone: RunFolder, dtlp: RunFolder, page: Path) -> Path:
    picture = write_picture(str(bundle), str(data), str(dtlp.root))
    runs = (f"labeled only={alone.root}", f"DTLP={dtlp.root}")
    write_report(*runs, output=str(page), bundle=str(bundle), dataset_dir=str(data), calibration_cases=3)
    return picture


def _verdict(alone: RunFolder, dtlp: RunFolder) -> str:
    """What the two trainings say, and how little that is."""
    before, after = (_mean_dice(run) for run in (alone, dtlp))
    gain = after - before
    way = "more" if gain >= 0 else "less"
    return (
        f"Mean Dice of 8 unseen scans: {before:.1f} % from the labeled scans alone, {after:.1f} % with the unlabeled "
        f"ones, {abs(gain):.1f} points {way}. One seed on drawn organs: an example, not a measurement."
    )


def _mean_dice(run: RunFolder) -> float:
    return float(read_object(run.summary_json(DatalistKeys.TESTING), "a summary of scores")["mean"]["dice"])
