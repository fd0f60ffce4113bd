# SPDX-License-Identifier: Apache-2.0
"""The record of a training."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from dtlp_components import __version__
from dtlp_components.files import sha256
from dtlp_components.handlers.run_record import RunRecord, RunRecordKeeper

SCANS = {
    "labeled": [{"image": "/data/a.nii.gz"}],
    "unlabeled": [{"image": "/data/b.nii.gz"}, {"image": "/data/c.nii.gz"}],
}


def record(folder: Path, scans: Any = SCANS, **settings: Any) -> RunRecord:
    datalist = folder / "list.json"
    datalist.write_text('{"training": []}')
    values = {"seed": 3, "patch_size": (16, 32, 16), "weights": {"kd": 0.1}, **settings}
    return RunRecord(str(folder), "mine_seed3", values, {"seed": 3}, str(datalist), scans, torch.device("cpu"))


def train(kept: RunRecord, start: int = 0, stop: int = 2, fail: bool = False) -> dict[str, Any]:
    """Epochs of two iterations; what the file says at the end."""
    trainer = Engine(lambda engine, batch: None)

    @trainer.on(Events.STARTED)
    def resume() -> None:
        trainer.state.epoch, trainer.state.iteration = start, 2 * start

    RunRecordKeeper(kept).attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED)
    def broken() -> None:
        if fail:
            raise RuntimeError("broken")

    if fail:
        with pytest.raises(RuntimeError):
            trainer.run([0, 0], max_epochs=stop)
    else:
        trainer.run([0, 0], max_epochs=stop)
    content: dict[str, Any] = json.loads(kept.file.read_text())
    return content


def test_record_says_what_was_trained_how_on_what_and_by_what(tmp_path: Path) -> None:
    content = train(record(tmp_path))
    assert content["name"] == "mine_seed3"
    assert shlex.split(content["command"])[2:] == sys.argv[1:]
    assert content["overrides"] == {"seed": 3}
    assert content["settings"] == {"seed": 3, "patch_size": [16, 32, 16], "weights": {"kd": 0.1}}
    assert content["datalist"]["scans"] == {"labeled": 1, "unlabeled": 2}
    assert content["datalist"]["sha256"] == sha256(tmp_path / "list.json")
    environment = content["environment"]
    assert environment["dtlp_components"] == __version__
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert content["resumed"] == []
    assert content["started"] <= content["finished"]
    assert content["iteration"] == 4
    assert content["cost"]["seconds"] >= 0
    assert 0.05 < content["cost"]["peak_memory_gb"] < 100


def test_training_that_failed_is_not_finished(tmp_path: Path) -> None:
    content = train(record(tmp_path), fail=True)
    assert content["finished"] is None
    assert content["iteration"] == 2


def test_resume_is_added_with_what_is_other_and_the_start_is_kept(tmp_path: Path) -> None:
    first = train(record(tmp_path), stop=1)
    content = train(record(tmp_path, num_workers=2), start=1, stop=3)
    assert content["started"] == first["started"]
    assert content["settings"] == first["settings"]
    (resumed,) = content["resumed"]
    assert resumed["iteration"] == 2
    assert resumed["settings"]["num_workers"] == 2
    assert "environment" not in resumed
    assert content["iteration"] == 6
    assert content["cost"]["seconds"] >= first["cost"]["seconds"]


def test_checksum_of_the_scans_is_of_their_names_and_sections_wherever_they_lie(tmp_path: Path) -> None:
    def digest(scans: Any) -> str:
        return str(record(tmp_path, scans).content["datalist"]["scans_sha256"])

    elsewhere = {
        section: [{"image": f"/mnt/{Path(i['image']).name}"} for i in items] for section, items in SCANS.items()
    }
    moved = {"labeled": SCANS["unlabeled"], "unlabeled": SCANS["labeled"]}
    assert digest(elsewhere) == digest(SCANS)
    assert digest(moved) != digest(SCANS)


def test_parameters_are_short_texts_under_names_that_mlflow_takes(tmp_path: Path) -> None:
    parameters = record(tmp_path, label_names=["x" * 900]).parameters
    assert parameters["seed"] == "3"
    assert parameters["scans.unlabeled"] == "2"
    assert all(len(value) <= 500 for value in parameters.values())
    assert not [name for name in parameters if ":" in name]
