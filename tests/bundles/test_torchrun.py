# SPDX-License-Identifier: Apache-2.0
"""A bundle under torchrun: the files of a training, an evaluation and an inference are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundles/phantom_10/configs"
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def monai(run_id: str, config: str, launcher: list[str], **values: Any) -> str:
    """The README's command, started by torchrun if asked; what it printed."""
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, *launcher, "-m", "monai.bundle", "run", run_id]
    done = subprocess.run(
        [*command, "--config_file", str(CONFIGS / f"{config}.json"), *words],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a training in two processes, and of one that accumulates two batches."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        **tiny.FACTS, **tiny.TRAINING, "max_iterations": 4, "iterations_per_epoch": 2, "burn_in": 0.25,
        "dataset_dir": tiny_dataset, "datalist": tiny_dataset / "datalist.json",
    }  # fmt: skip
    logs = {
        "two": monai("training", "train", TWO, output_dir=folder / "two", **settings),
        "one": monai("training", "train", [], output_dir=folder / "one", accumulation_steps=2, **settings),
    }
    for name, text in logs.items():
        (folder / f"{name}.log").write_text(text)
    return {name: folder / name for name in logs}


def test_two_processes_train_what_one_does_that_accumulates(runs: dict[str, Path]) -> None:
    for name in ("models/model.pt", "logs/losses.csv", "logs/pseudo_labels.csv"):
        assert (runs["two"] / name).read_bytes() == (runs["one"] / name).read_bytes(), name


def test_only_the_first_process_writes_and_speaks(runs: dict[str, Path]) -> None:
    files = {
        name: sorted(
            str(file.relative_to(run)) for file in run.rglob("*") if file.is_file() and "tensorboard" not in str(file)
        )
        for name, run in runs.items()
    }
    assert files["two"] == files["one"]
    events = {name: len(list(run.rglob("events.out.tfevents*"))) for name, run in runs.items()}
    assert events["two"] == events["one"]
    log = runs["two"].with_suffix(".log").read_text()
    for sentence in ("A step takes 2 batches: 2 processes", "Training on", "Student's weights:", "4/4 "):
        assert log.count(sentence) == 1, sentence


@pytest.mark.parametrize("section", ["testing", "validation"])
def test_two_processes_score_what_one_does(
    runs: dict[str, Path], tiny_dataset: Path, tmp_path: Path, section: str
) -> None:
    """Also where there is one scan for both."""
    common = {
        **tiny.CLASSES, "device": "cpu", "eval_section": section, "mlflow": False, "dataset_dir": tiny_dataset,
        "datalist": tiny_dataset / "datalist.json", "model_file": runs["one"] / "models/model.pt",
    }  # fmt: skip
    for name, launcher in (("two", TWO), ("one", [])):
        log = monai("evaluating", "evaluate", launcher, output_dir=tmp_path / name, **common)
        assert log.count("Scores of section") == 1
    tables = [sorted((tmp_path / name / "evaluation").glob("*.csv")) for name in ("two", "one")]
    assert [file.name for file in tables[0]] == [file.name for file in tables[1]]
    assert len(tables[0]) == 2
    for mine, theirs in zip(*tables, strict=True):
        assert mine.read_text() == theirs.read_text()


def test_error_of_all_is_told_once(tmp_path: Path) -> None:
    words = ["--dataset_dir", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--device", "cpu"]
    command = ["-m", "monai.bundle", "run", "training", "--config_file", str(CONFIGS / "train.json"), *words]
    done = subprocess.run(
        [sys.executable, *TWO, *command],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("datalist not found: ") == 1
