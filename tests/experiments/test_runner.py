# SPDX-License-Identifier: Apache-2.0
"""Runs: once each, on from where they were stopped, side by side, failed ones by name; with a stand-in for MONAI."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.errors import InputError
from dtlp_components.experiments import runner as module
from dtlp_components.experiments.plan import PlannedRun, Variant
from dtlp_components.experiments.runner import Runner, is_done, settings_problem
from dtlp_components.run_folder import RunFolder

# notes what it was told; where there is a file `fail`, it fails, where there is `wait`, it waits for a signal
STAND_IN = """
import json, os, pathlib, signal, sys, time
words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--output_dir") + 1])
log = folder.parents[1] / "calls.txt"
with open(log, "a") as file:
    file.write(json.dumps({"words": words, "threads": os.environ.get("OMP_NUM_THREADS"),
                           "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "at": time.time()}) + "\\n")
if (folder.parents[1] / "fail").exists() and "broken" in str(folder) and words[1] == "training":
    print("one line", "learning_rate: too large", sep="\\n")
    sys.exit(3)
if (folder.parents[1] / "wait").exists():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (folder.parents[1] / "waiting").touch()
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    popen = module.subprocess.Popen

    def started(words: list[str], **kwargs: Any) -> Any:
        assert words[:3] == [sys.executable, "-m", "monai.bundle"]
        return popen([sys.executable, str(script), *words[3:]], **kwargs)

    monkeypatch.setattr(module.subprocess, "Popen", started)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def planned(folder: Path, name: str = "usual", seed: int = 0, features: int = 4, digest: str = "1") -> PlannedRun:
    run = RunFolder(folder / name / f"seed_{seed}")
    where = ["--output_dir", str(run.root)]
    return PlannedRun(
        Variant(name), seed, run,
        ["run", "training", "--config_file", "train.json", *where, "--features", str(features), "--seed", str(seed)],
        {"testing": ["run", "evaluating", *where, "--eval_section", "testing"]},
        {"train.json": digest},
    )  # fmt: skip


def calls(folder: Path) -> list[dict[str, Any]]:
    file = folder / "calls.txt"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def kinds(folder: Path) -> list[str]:
    return [call["words"][1] for call in calls(folder)]


def test_run_is_trained_then_scored_and_never_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = [planned(tmp_path, seed=seed) for seed in (0, 1)]
    Runner().run(runs)
    assert kinds(tmp_path) == ["training", "evaluating"] * 2
    assert calls(tmp_path)[0]["words"][-2:] == ["--resume", "True"]
    assert all(is_done(run) for run in runs)
    Runner().run(runs)
    assert len(calls(tmp_path)) == 4
    printed = capfd.readouterr().out
    assert "[2/2] usual, seed 1: done in 0." in printed
    assert "2 runs, 2 of them already done." in printed


def test_training_that_was_done_is_not_repeated_for_a_score_that_is_missing(tmp_path: Path) -> None:
    run = planned(tmp_path)
    Runner().run([run])
    run.evaluations["validation"] = [*run.evaluations["testing"][:-1], "validation"]
    assert not is_done(run)
    Runner().run([run])
    assert kinds(tmp_path) == ["training", "evaluating", "evaluating"]
    assert calls(tmp_path)[-1]["words"][-1] == "validation"


def test_failed_run_is_named_with_its_last_line_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    runs = [planned(tmp_path, name) for name in ("broken", "usual")]
    runner = Runner()
    runner.run(runs)
    assert [is_done(run) for run in runs] == [False, True]
    (sentence,) = runner.failed
    assert sentence.startswith("broken, seed 0: learning_rate: too large (full log: ")
    (tmp_path / "fail").unlink()
    again = Runner()
    again.run(runs)
    assert again.failed == []
    assert all(is_done(run) for run in runs)
    assert kinds(tmp_path) == ["training", "training", "evaluating", "training", "evaluating"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_handed_on_nothing_new_begins_and_the_next_start_goes_on(tmp_path: Path, number: int) -> None:
    (tmp_path / "wait").touch()
    runs = [planned(tmp_path, seed=seed) for seed in (0, 1)]

    def send() -> None:
        while not (tmp_path / "waiting").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    started = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        Runner().run(runs)
    thread.join()
    assert ended.value.code == 128 + number
    assert time.monotonic() - started < 30
    assert kinds(tmp_path) == ["training"]
    assert not runs[1].run.root.exists()
    (tmp_path / "wait").unlink()
    Runner().run(runs)
    assert kinds(tmp_path) == ["training", "training", "evaluating", "training", "evaluating"]


def test_jobs_run_side_by_side_with_a_gpu_or_a_share_of_the_cores_each(tmp_path: Path) -> None:
    Runner(jobs=2, gpus=[4, 5]).run([planned(tmp_path / "gpu", seed=seed) for seed in range(4)])
    assert {call["gpu"] for call in calls(tmp_path / "gpu")} == {"4", "5"}
    Runner(jobs=2).run([planned(tmp_path / "cpu", seed=seed) for seed in range(2)])
    threads = {call["threads"] for call in calls(tmp_path / "cpu")}
    assert threads == {str(max(1, (os.cpu_count() or 1) // 2))}
    Runner(jobs=1).run([planned(tmp_path / "one")])
    assert calls(tmp_path / "one")[0]["threads"] is None


def test_folder_with_other_settings_is_refused_by_what_differs(tmp_path: Path) -> None:
    assert settings_problem(planned(tmp_path)) is None
    Runner().run([planned(tmp_path)])
    assert settings_problem(planned(tmp_path)) is None
    assert "--features was 4, is 8" in str(settings_problem(planned(tmp_path, features=8)))
    assert "train.json was changed" in str(settings_problem(planned(tmp_path, digest="2")))


def test_state_that_is_none_is_refused(tmp_path: Path) -> None:
    run = planned(tmp_path)
    run.run.logs.mkdir(parents=True)
    run.run.experiment.write_text('{"training": 3}')
    with pytest.raises(InputError, match="expected the state of a run, got something else"):
        is_done(run)
