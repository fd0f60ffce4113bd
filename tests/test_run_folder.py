# SPDX-License-Identifier: Apache-2.0
"""Places in a run's folder, and its record, which is data whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.errors import InputError
from dtlp_components.run_folder import RunFolder, read_record

ROOT = Path(__file__).parents[1]
RUN = RunFolder("out")


def test_weights_lead_to_their_run() -> None:
    assert RunFolder.of_weights("/a/run/models/model.pt").model_settings == Path("/a/run/logs/model_settings.json")


@pytest.mark.parametrize("workflow", ["common", "train", "evaluate", "inference"])
def test_bundles_spell_the_same_places(workflow: str) -> None:
    text = (ROOT / f"dtlp_components/recipes/base/{workflow}.json").read_text(encoding="utf-8")
    places = {
        "models/model.pt": RUN.model,
        "predictions": RUN.predictions,
        "logs/checked_inputs.json": RUN.checked_inputs,
        "logs/tensorboard": RUN.tensorboard,
        "mlruns.db": RUN.mlflow_database,
    }
    found = {part.split("'")[0] for part in text.split("'/")[1:]}
    for place in found - {"imagesTs", "datalist.json"}:
        assert Path("out", place) == places[place]


def test_docs_name_every_place() -> None:
    text = (ROOT / "docs/bundles.md").read_text(encoding="utf-8")
    for place in (
        RUN.model,
        RUN.last,
        RUN.best,
        RUN.model_settings,
        RUN.run_name,
        RUN.checked_inputs,
        RUN.pseudo_labels,
    ):
        assert f"`{place.relative_to('out')}" in text, place


RECORD = {"features": 16, "norm": "group", "spacing_mm": [1.0, 1.0, 2.5], "image_shortcut": False}


def test_record_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model_settings.json"
    file.write_text(json.dumps(RECORD))
    assert read_record(file) == RECORD


ATTACKS: list[tuple[Any, str]] = [
    ({"run": ["$__import__('os').system('touch BROKEN')"]}, "got the key 'run'"),
    ({"initialize": ["$__import__('os').system('touch BROKEN')"]}, "got the key 'initialize'"),
    ({"network_def": {"_target_": "os.system", "command": "touch BROKEN"}}, "got the key 'network_def'"),
    ({"imports": ["$import os"]}, "got the key 'imports'"),
    ({"features": "$__import__('os').system('touch BROKEN')"}, "features: expected an integer from 1"),
    ({"features": {"_target_": "os.system", "command": "touch BROKEN"}}, "features: expected"),
    ({"norm": " $__import__('os').system('touch BROKEN')"}, "norm: expected one of"),
    ({"norm": "\u00a0$__import__('os').system('touch BROKEN')"}, "norm: expected one of"),
    ({"norm": "@run"}, "norm: expected one of"),
    ({"preprocessing_variant": "%other.json"}, "preprocessing_variant: expected one of"),
    ({"spacing_mm": ["$1", 1, 1]}, "spacing_mm: expected a list of 3 numbers"),
    ({"patch_size": "$[16, 16, 32]"}, "patch_size: expected a list of 3 integers"),
    ({"features": True}, "features: expected"),
    ({"features": 1e400}, "features: expected"),
    ({"features": -1}, "features: expected"),
    ({"+features": 16}, r"got the key '\+features'"),
    ({"train::trainer::max_epochs": 1}, "got the key 'train::trainer::max_epochs'"),
    (["features"], "expected a JSON object"),
    ("[" * 100_000, "cannot be read as JSON"),
    ("{features: 16}", "cannot be read as JSON"),
    ("\x00", "cannot be read as JSON"),
    ('{"features": 16}' + " " * 2**21, "expected the settings of a training, got a file of"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), ATTACKS, ids=range(len(ATTACKS)))
def test_record_that_is_no_record_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "model_settings.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=rf"model_settings\.json: (?s:.)*{message}"):
        read_record(file)
    assert not (tmp_path / "BROKEN").exists()


def test_folder_in_the_place_of_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_record(tmp_path)
