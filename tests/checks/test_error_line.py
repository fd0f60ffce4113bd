# SPDX-License-Identifier: Apache-2.0
"""Errors that nobody has foreseen, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from dtlp_components.checks.error_line import error_line
from dtlp_components.checks.key_table import key_table
from dtlp_components.checks.settings import Settings

CONFIG = {
    "features": 0,
    "outer": {"_target_": "torch.nn.Linear", "given": "@inner"},
    "inner": {"_target_": "torch.nn.GroupNorm", "num_groups": 3, "num_channels": "@features"},
    "share": "$1 / @features",
    "run": ["$1 / 0"],
}


def line(key: str, **values: object) -> str:
    with pytest.raises(Exception) as error:  # noqa: PT011 - MONAI wraps them in kinds of its own
        ConfigParser({**CONFIG, **values}).get_parsed_content(key)
    return error_line(error.value)


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("outer", {"features": 4}, "Cannot continue: --inner: ValueError: num_channels"),
        ("outer", {"features": 3}, "Cannot continue: --outer: TypeError: Linear.__init__() got an unexpected keyword"),
        ("share", {}, "Cannot continue: --share: ZeroDivisionError: division by zero."),
        ("run", {}, "Cannot continue: ZeroDivisionError: division by zero."),
    ],
)
def test_line_has_the_key_and_what_the_component_said(key: str, values: dict[str, int], expected: str) -> None:
    assert line(key, **values).startswith(expected)


def test_own_error_is_told_as_it_is() -> None:
    assert error_line(ValueError("one\ntwo")) == "Cannot continue: ValueError: one."


PROGRAM = """
import sys
from dtlp_components.checks.settings import Settings
Settings({{}}, [sys.argv[0], {words}], error_file={file!r}).check()
raise {error}
"""


def end_of(tmp_path: Path, words: str, error: str, file: str) -> subprocess.CompletedProcess[str]:
    text = PROGRAM.format(words=words, file=file, error=error)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=tmp_path)


def test_process_ends_with_one_line_and_the_traceback_is_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run/logs/error.txt"
    done = end_of(tmp_path, "'run'", "ValueError('a reason')", str(file))
    assert done.returncode == 1
    assert done.stderr == f"Cannot continue: ValueError: a reason. The traceback is in {file}\n"
    assert file.read_text().startswith("Traceback (most recent call last):")
    assert "a reason" in file.read_text()


@pytest.mark.parametrize(("words", "name"), [("'other'", "error.txt"), ("'run'", "file/error.txt")])
def test_traceback_is_shown_by_other_programs_and_where_it_cannot_be_kept(
    tmp_path: Path, words: str, name: str
) -> None:
    (tmp_path / "file").touch()
    done = end_of(tmp_path, words, "ValueError('a reason')", str(tmp_path / name))
    assert done.returncode == 1
    assert "Traceback (most recent call last):" in done.stderr


def test_keyboard_interrupt_is_one_line(tmp_path: Path) -> None:
    done = end_of(tmp_path, "'run'", "KeyboardInterrupt", str(tmp_path / "error.txt"))
    assert done.stderr == "\nInterrupted.\n"
    assert done.returncode not in (0, 1)
    assert not (tmp_path / "error.txt").exists()


def test_closed_pipe_ends_a_process_silently(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    text = PROGRAM.format(
        words="'run'", file=str(tmp_path / "error.txt"), error="print('x' * 100_000) or ValueError('not reached')"
    )
    done = subprocess.run([sys.executable, "-c", text], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
    assert not (tmp_path / "error.txt").exists()


def test_this_process_keeps_its_hook() -> None:
    before = sys.excepthook
    Settings({}, ["pytest", "run"]).check()  # without a file
    assert sys.excepthook is before


def test_gpu_without_memory_is_told_with_what_to_change() -> None:
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        except torch.OutOfMemoryError as error:
            raise RuntimeError("wrapped by an engine") from error
    except RuntimeError as error:
        line = error_line(error)
    assert line.startswith(
        "The GPU's memory is too small for this training (CUDA out of memory. Tried to allocate 2.00"
    )
    for key in ("amp", "gradient_checkpointing", "batch_size_labeled", "accumulation_steps", "patch_size", "features"):
        assert f"--{key}" in line
        assert key in key_table()
    assert "\n" not in line


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "The GPU's memory is too small for a scan of this size (CUDA"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors"), "The GPU's memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "The GPU's memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "The computer's memory"),
        (MemoryError(), "The computer's memory is too small for a scan of this size (MemoryError)"),
    ],
)
def test_scan_that_is_too_large_is_told_with_keys_of_segmenting(error: Exception, start: str) -> None:
    line = error_line(error, trains=False)
    assert line.startswith(start)
    assert "--batch_size_labeled" not in line
    assert "--window_batch_size 1" in line
    assert "window_batch_size" in key_table()


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
        "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to write to file </torch_7_8_9>: No "
        "space left on device (28)",
    ],
)
def test_want_of_shared_memory_has_many_words(text: str) -> None:
    assert "--shm-size" in error_line(RuntimeError(text))


def test_other_errors_get_no_advice_on_memory() -> None:
    assert error_line(RuntimeError("shape mismatch")) == "Cannot continue: RuntimeError: shape mismatch."


def test_loading_process_that_was_killed_is_told_with_the_way_out() -> None:
    line = error_line(RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."))
    assert line.startswith(
        "A process that loads scans was killed (DataLoader worker (pid 7) is killed by signal: Bus error"
    )
    assert "--num_workers" in line
    assert "--shm-size" in line
