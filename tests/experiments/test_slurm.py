# SPDX-License-Identifier: Apache-2.0
"""The script of an array job."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dtlp_components.experiments.slurm import array_script


def test_there_is_a_task_for_each_run_and_each_runs_its_own() -> None:
    script = array_script("la", 27, "/home/me", "/home/me/out", ["table_2_la_5", "--output", "out"])
    assert "#SBATCH --array=0-26\n" in script
    assert "#SBATCH --requeue\n" in script
    last = script.strip().splitlines()[-1]
    assert last.startswith("exec ")
    assert last.endswith('-m dtlp_components experiment table_2_la_5 --output out --only "$SLURM_ARRAY_TASK_ID"')


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_shell_reads_names_with_spaces_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "my runs; touch x"
    folder.mkdir()
    script = array_script("a b", 2, str(folder), str(folder), ["my file.json", "--output", "$HOME/`id`"])
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$PWD" "$@"\n')
    python.chmod(0o755)
    lines = script.splitlines()
    lines[-1] = "exec " + str(python) + " -m" + lines[-1].partition(" -m")[2]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=True,
        env={"SLURM_ARRAY_TASK_ID": "7", "PATH": "/bin"},
    )
    assert done.stdout.splitlines() == [
        str(folder), "-m", "dtlp_components", "experiment", "my file.json", "--output", "$HOME/`id`", "--only", "7"
    ]  # fmt: skip
    assert list(folder.iterdir()) == []
