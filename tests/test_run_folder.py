# SPDX-License-Identifier: Apache-2.0
"""A run's folder: Python, JSON and the documentation name the same places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from dtlp_components.data.segmentations import COLOR_TABLE, COMPANIONS, LABEL_MAP_ENDING, TABLE
from dtlp_components.run_folder import RunFolder, mlflow_address

ROOT = Path(__file__).parents[1]
BASE = ROOT / "dtlp_components/recipes/base"
RUN = RunFolder("")
PLACES = {getattr(RUN, name) for name, value in vars(RunFolder).items() if isinstance(value, property)}
FILES = {
    *PLACES,
    *(place("<section>", "<convention>") for place in (RUN.cases_csv, RUN.summary_csv, RUN.summary_json)),
    *(RUN.kept(file, "<date>") for file in (RUN.last, RUN.previous, RUN.best, RUN.model)),
    *(RUN.predictions / f"<scan>{ending}" for ending in (LABEL_MAP_ENDING, *COMPANIONS.values())),
    RUN.predictions / TABLE,
    RUN.predictions / COLOR_TABLE,
    RUN.picture("<scan>"),
}


def written_in_json() -> list[str]:
    """What the workflows put behind ``@output_dir``."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(BASE.glob("*.json"))]
    return [place for text in texts for place in re.findall(r"@output_dir\)? \+ '/([^']+)'", text)]


def test_places_in_json_are_those_of_python() -> None:
    places = {Path(place) for place in written_in_json()}
    assert {RUN.model, RUN.predictions, RUN.checked_inputs, RUN.tensorboard} <= places <= PLACES


@pytest.mark.parametrize("name", ["run", "run%201", "run#1", "run?mode=ro", "a b"])
def test_mlflow_finds_its_data_base_whatever_the_folder_is_named(name: str, tmp_path: Path) -> None:
    url = make_url(mlflow_address(str(tmp_path / name)))
    assert url.database == str(tmp_path / name / "mlruns.db")
    assert not url.query


def test_table_of_the_documentation_has_the_places_of_python() -> None:
    text = (ROOT / "docs/reference/bundles.md").read_text(encoding="utf-8")
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
