# SPDX-License-Identifier: Apache-2.0
"""torchrun in the place of a command: how many processes, and what it ends with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dtlp_components.bundle.launch import become_torchrun, count_processes
from dtlp_components.errors import InputError

LAUNCH = "from dtlp_components.bundle.launch import become_torchrun; become_torchrun(2, ['{script}', 'a word'])"


@pytest.mark.parametrize("gpus", ["0", "-1", "two", "1.5", ""])
def test_number_of_processes_that_is_none_is_refused(gpus: str) -> None:
    with pytest.raises(InputError, match=f"--gpus: expected an integer from 1, got {gpus!r}"):
        count_processes(gpus)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert count_processes("2") == 2
    with pytest.raises(InputError, match="expected at most 2, the number of GPUs here, got 3"):
        count_processes(3)


def test_processes_on_the_cpu_are_said_to_be(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert count_processes(1) == 1
    assert capsys.readouterr().err == ""
    assert count_processes(2) == 2
    assert "No GPU is here: 2 processes share the CPU." in capsys.readouterr().err


@pytest.mark.parametrize(("said", "code"), [("terminated", 128 + signal.SIGTERM), ("failed", 3)])
def test_ends_with_what_ended_the_processes(monkeypatch: pytest.MonkeyPatch, said: str, code: int) -> None:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import ProcessFailure, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    failure = ProcessFailure(local_rank=1, pid=1, exitcode=3, error_file="<N/A>")
    errors = {
        "terminated": SignalException("told", signal.SIGTERM),
        "failed": ChildFailedError("training", {1: failure}),
    }

    def fail(words: list[str]) -> None:
        raise errors[said]

    monkeypatch.setattr(run, "main", fail)
    with pytest.raises(SystemExit) as end:
        become_torchrun(2, ["script.py"])
    assert end.value.code == code


def launch(folder: Path, script: str) -> subprocess.Popen[str]:
    (folder / "script.py").write_text("import os, sys, time\nrank = os.environ['RANK']\n" + script)
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH.format(script=folder / "script.py")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_processes_get_their_numbers_and_words(tmp_path: Path) -> None:
    process = launch(tmp_path, "print(f'{rank} of {os.environ[\"WORLD_SIZE\"]} got {sys.argv[1:]}', flush=True)\n")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "$ torchrun --standalone --nproc_per_node 2" in out
    assert sorted(line for line in out.splitlines() if "got" in line) == [f"{i} of 2 got ['a word']" for i in range(2)]


@pytest.mark.slow
def test_failure_of_one_ends_all_with_its_code_and_no_traceback_of_the_launcher(tmp_path: Path) -> None:
    process = launch(tmp_path, "sys.exit('what went wrong') if rank == '1' else time.sleep(100)\n")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "what went wrong" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_signal_ends_with_its_code(tmp_path: Path) -> None:
    process = launch(tmp_path, "open(sys.path[0] + '/started' + rank, 'w')\ntime.sleep(100)\n")
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("started*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
