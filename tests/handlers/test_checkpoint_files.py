# SPDX-License-Identifier: Apache-2.0
"""Files of a training: random states, names of what is kept. What a run does with them is in test_checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dtlp_components.handlers.checkpoint_files import keep_earlier, write_checkpoint
from dtlp_components.run_folder import RunFolder


def test_runs_of_one_second_are_all_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for number in range(4):
        write_checkpoint({"number": number}, run.model)
        os.utime(run.model, (1e9, 1e9))
        keep_earlier(run, in_use=False)
    kept = sorted(run.checkpoints.glob("model-*.pt"))
    assert [torch.load(file, weights_only=True)["number"] for file in kept] == [1, 2, 3, 0]
    assert not run.model.exists()


def test_weights_in_use_stay_beside_the_copy_that_is_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_checkpoint({"number": 0}, run.model)
    keep_earlier(run, in_use=True)
    (kept,) = run.checkpoints.glob("model-*.pt")
    assert kept.read_bytes() == run.model.read_bytes()


def test_same_content_makes_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_checkpoint({"weight": torch.arange(3)}, tmp_path / name / "model.pt")
    assert (tmp_path / "a/model.pt").read_bytes() == (tmp_path / "b/model.pt").read_bytes()


def test_write_that_fails_leaves_both_checkpoints(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_checkpoint({"number": 0}, run.last, run.previous)
    write_checkpoint({"number": 1}, run.last, run.previous)
    with pytest.raises(TypeError):
        write_checkpoint({"number": (i for i in "ab")}, run.last, run.previous)  # type: ignore[dict-item]
    numbers = [torch.load(file, weights_only=True)["number"] for file in (run.previous, run.last)]
    assert numbers == [0, 1]
    assert sorted(file.name for file in run.checkpoints.iterdir()) == ["last.pt", "previous.pt"]
