# SPDX-License-Identifier: Apache-2.0
"""The scripts of docs/how-to/cluster.md, run with stand-ins for SLURM's commands, and torchrun as they start it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.together import free_port

ROOT = Path(__file__).parents[1]
SCRIPTS = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", (ROOT / "docs/how-to/cluster.md").read_text(), re.S)
ONE_NODE, SEVERAL_NODES, ARRAY = SCRIPTS
BIN = Path(sys.executable).parent


def run_script(folder: Path, script: str, *, nodes: int = 1, **commands: str) -> subprocess.Popen[str]:
    """A script in a folder, with commands that are shell scripts of a line."""
    (folder / "bin").mkdir()
    for name, text in commands.items():
        file = folder / "bin" / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(folder / "bin"), str(BIN), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": "here",
        "SLURM_LOCALID": "0",  # of the task, which is torchrun
        "SLURM_STEP_NUM_TASKS": str(nodes),
        "SLURM_ARRAY_TASK_ID": "2",
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(["bash", "-c", script], cwd=folder, text=True, stdout=pipe, stderr=pipe, env=environment)


def test_job_that_slurm_stops_is_queued_again(tmp_path: Path) -> None:
    training = "trap 'echo checkpoint > saved; exit 143' TERM; echo $@ > started; while :; do sleep 0.1; done"
    process = run_script(tmp_path, ONE_NODE, dtlp=training, scontrol="echo $@ > again")
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "again").read_text().split() == ["requeue", "7"]
    words = (tmp_path / "started").read_text().split()
    assert words == ["train", "la_5", "--gpus", "4", "--output_dir", "runs/la_5", "--resume", "auto"]


@pytest.mark.parametrize("code", [0, 1])
def test_job_that_ends_is_not_queued_again(tmp_path: Path, code: int) -> None:
    process = run_script(tmp_path, ONE_NODE, dtlp=f"exit {code}", scontrol="echo $@ > again")
    process.communicate(timeout=30)
    assert process.returncode == code
    assert not (tmp_path / "again").exists()


def test_seeds_of_an_array_have_folders_of_their_own(tmp_path: Path) -> None:
    run_script(tmp_path, ARRAY, dtlp="echo $@ > started").communicate(timeout=30)
    words = (tmp_path / "started").read_text().split()
    assert words == ["train", "la_5", "--seed", "2", "--output_dir", "runs/la_5/seed_2", "--resume", "auto"]


@pytest.mark.slow
def test_two_nodes_train_one_model(tmp_path: Path, tiny_dataset: Path) -> None:
    """Both on this machine, with one process each on the CPU."""
    settings = {
        **tiny.FACTS, **tiny.TRAINING, "max_iterations": 2, "dataset_dir": str(tiny_dataset),
        "datalist": str(tiny_dataset / "datalist.json"),
    }  # fmt: skip
    (tmp_path / "args.json").write_text(json.dumps(settings))
    changes = {
        "--nproc_per_node 4": "--nproc_per_node 1 --local_addr 127.0.0.1",
        "$first:29500": f"$first:{free_port()}",
        "bundles/la_5": f"{ROOT}/bundles/la_5",
        "--resume auto": "--args_file args.json",
    }
    script = SEVERAL_NODES
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    both = '"$@" > first.log 2>&1 & "$@" > second.log 2>&1; code=$?; wait $! && exit $code'
    process = run_script(tmp_path, script, nodes=2, srun=both, scontrol="echo 127.0.0.1")
    process.communicate(timeout=240)
    logs = [(tmp_path / f"{name}.log").read_text() for name in ("first", "second")]
    assert process.returncode == 0, logs
    assert sum("A step takes 2 batches: 2 processes" in log for log in logs) == 1
    assert (tmp_path / "runs/la_5/models/model.pt").is_file()
