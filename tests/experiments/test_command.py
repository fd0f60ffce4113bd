# SPDX-License-Identifier: Apache-2.0
"""The command: what it refuses, writes and prints; a real experiment is stopped and goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.errors import InputError
from dtlp_components.experiments.command import run_experiment
from dtlp_components.experiments.runner import Runner
from dtlp_components.run_folder import RunFolder
from tests import tiny

EXPERIMENT: dict[str, Any] = {
    "title": "Tiny",
    "bundle": "bundles/phantom_10",
    # the phantom's classes, of which the tiny scans have three
    "overrides": {
        **{key: value for key, value in tiny.TRAINING.items() if key not in ("ddim_steps",)},
        "features": 4, "patch_size": [16, 32, 32], "spacing_mm": [1.0, 1.0, 1.0], "max_iterations": 2,
        "iterations_per_epoch": 1, "device": "cpu",
    },
    "variants": {"labeled only": {"method": "supervised"}, "mean teacher": {"method": "mean_teacher"}},
    "seeds": [0],
    "sections": ["testing"],
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(EXPERIMENT))
    return path


def test_script_of_an_array_job_is_written_and_nothing_is_trained(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("trained"))
    run_experiment(
        str(file), output=str(tmp_path / "out"), fraction=0.5, dataset_dir="scans", slurm=str(tmp_path / "a.sh")
    )
    script = (tmp_path / "a.sh").read_text()
    assert "--array=0-1\n" in script
    assert f"--output {tmp_path / 'out'} --dataset_dir {Path('scans').absolute()} --fraction 0.5 --only" in script
    assert f"sbatch {tmp_path / 'a.sh'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"jobs": 0}, "--jobs: expected an integer of at least 1, got 0"),
        ({"only": 2}, "--only: expected the number of a run, from 0 to 1, got 2"),
        ({"fraction": 2.0}, "--fraction: expected a number greater than 0 and at most 1, got 2.0"),
    ],
)
def test_wrong_flag_is_refused_before_anything_is_written(
    file: Path, tmp_path: Path, flags: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        run_experiment(str(file), output=str(tmp_path / "out"), **flags)
    assert not (tmp_path / "out").exists()


def test_unknown_convention_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps({**EXPERIMENT, "convention": "mine"}))
    with pytest.raises(InputError, match="convention: expected one of native, genericssl, uamt, got 'mine'"):
        run_experiment(str(tmp_path / "e.json"), output=str(tmp_path / "out"))


def command(file: Path, data: Path, output: Path) -> list[str]:
    return [
        sys.executable, "-m", "dtlp_components", "experiment", str(file), "--output", str(output),
        "--dataset_dir", str(data), "--datalist", str(data / "datalist.json"),
    ]  # fmt: skip


@pytest.mark.slow
def test_experiment_that_was_stopped_goes_on_and_ends_with_the_tables_of_one_that_was_not(
    file: Path, tmp_path: Path, tiny_dataset: Path
) -> None:
    whole = subprocess.run(command(file, tiny_dataset, tmp_path / "whole"), capture_output=True, text=True, check=True)
    cut = subprocess.Popen(command(file, tiny_dataset, tmp_path / "cut"), stdout=subprocess.PIPE, text=True)
    first = RunFolder(tmp_path / "cut/labeled_only/seed_0")
    while not first.last.is_file():  # the first training has a checkpoint
        assert cut.poll() is None
        time.sleep(0.05)
    cut.send_signal(signal.SIGTERM)
    cut.communicate(timeout=120)
    assert cut.returncode == 128 + signal.SIGTERM
    rest = subprocess.run(command(file, tiny_dataset, tmp_path / "cut"), capture_output=True, text=True, check=True)

    def table(printed: str) -> str:
        return printed[printed.index("\nTiny") :]

    assert table(rest.stdout) == table(whole.stdout)
    for variant in ("labeled_only", "mean_teacher"):
        ends = [
            RunFolder(tmp_path / name / variant / "seed_0").cases_csv("testing").read_text()
            for name in ("cut", "whole")
        ]
        assert ends[0] == ends[1]
    record = json.loads((tmp_path / "whole/experiment.json").read_text())
    assert record["variants"] == {"labeled only": ["labeled_only/seed_0"], "mean teacher": ["mean_teacher/seed_0"]}
