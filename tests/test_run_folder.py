# SPDX-License-Identifier: Apache-2.0
"""A run's folder: Python, JSON and the documentation name the same places; its record is data, whoever wrote it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.data.segmentations import LABEL_MAP_ENDING, TABLE
from dtlp_components.errors import InputError
from dtlp_components.handlers.prediction_report import COMPANIONS
from dtlp_components.run_folder import RunFolder, read_record

ROOT = Path(__file__).parents[1]
BASE = ROOT / "dtlp_components/recipes/base"
RUN = RunFolder("")
PLACES = {getattr(RUN, name) for name, value in vars(RunFolder).items() if isinstance(value, property)}
FILES = {
    *PLACES,
    *(place("<section>") for place in (RUN.cases_csv, RUN.summary_csv, RUN.summary_json)),
    *(RUN.kept(file, "<date>") for file in (RUN.last, RUN.best, RUN.model)),
    *(RUN.predictions / f"<scan>{ending}" for ending in (LABEL_MAP_ENDING, *COMPANIONS.values())),
    RUN.predictions / TABLE,
    RUN.picture("<scan>"),
}


def written_in_json() -> list[str]:
    """What the workflows put behind ``@output_dir``."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(BASE.glob("*.json"))]
    return [place for text in texts for place in re.findall(r"@output_dir\)? \+ '/([^']+)'", text)]


def test_places_in_json_are_those_of_python() -> None:
    places = {Path(place) for place in written_in_json()}
    assert {RUN.model, RUN.predictions, RUN.checked_inputs, RUN.tensorboard, RUN.mlflow} <= places <= PLACES


def test_table_of_the_documentation_has_the_places_of_python() -> None:
    text = (ROOT / "docs/bundles.md").read_text(encoding="utf-8")
    part = text.split("## What a run writes\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    documented = set()
    for cell in cells:
        first, *others = (Path(name) for name in re.findall(r"`([^`]+)`", cell))
        documented.add(first)
        for (
            other
        ) in others:  # `.json` and `…_disagreement.nii.gz` go on from the first, `best-<date>.pt` lies beside it
            name = str(other)
            if name.startswith("."):
                documented.add(first.with_suffix(name))
            elif name.startswith("…"):
                documented.add(first.with_name(f"<scan>{name[1:]}"))
            else:
                documented.add(other if other in PLACES else first.with_name(name))
    folders = {RUN.models, RUN.checkpoints, RUN.logs, RUN.evaluation, RUN.predictions}
    assert documented == FILES - folders


def test_weights_lead_to_the_folder_of_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    assert RunFolder.of_weights("model.pt").root == tmp_path
    assert RunFolder.of_weights(RunFolder(tmp_path).model).model_settings == tmp_path / "logs/model_settings.json"


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
    (["features"], "expected the settings of a training, got list"),
    ("[" * 100_000, "is not JSON"),
    ("{features: 16}", "is not JSON"),
    ("\x00", "is not JSON"),
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
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path)
