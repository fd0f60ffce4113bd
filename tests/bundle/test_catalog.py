# SPDX-License-Identifier: Apache-2.0
"""The list of bundles says what is here, what the recipes have, and whether data and weights are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dtlp_components.bundle.catalog import list_bundles
from dtlp_components.bundle.find import INDEX
from dtlp_components.bundle.render import render, write_bundles


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Function that lists the bundles of an empty folder: cells by name."""
    monkeypatch.chdir(tmp_path)

    def read() -> dict[str, list[str]]:
        list_bundles()
        lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
        starts = [lines[0].index(name) for name in lines[0].split()]
        table = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines[1:]]
        return {name: cells for name, *cells in table}

    return read


def test_bundle_that_is_not_here_is_described_as_it_will_be_rendered(rows) -> None:
    found = rows()
    assert list(found) == list(json.loads(INDEX.read_text()))
    for name, cells in found.items():
        metadata = json.loads(render(name)["configs/metadata.json"])
        modality = metadata["network_data_format"]["inputs"]["image"]["modality"]
        assert cells == ["no", "no data", "no", modality, metadata["task"]]


def test_scans_and_weights_that_are_there_are_seen(rows) -> None:
    write_bundles(["la_10", "phantom_10"])
    datalist = {"training": [{"image": "a"}] * 2, "unlabeled": [{"image": "b"}] * 5, "testing": [{"image": "c"}]}
    Path("data/la").mkdir(parents=True)
    Path("data/la/datalist_10.json").write_text(json.dumps(datalist))
    Path("data/phantom").mkdir()
    Path("data/phantom/datalist_10.json").write_text("{")
    Path("bundles/phantom_10/models").mkdir()
    Path("bundles/phantom_10/models/model.pt").touch()
    found = rows()
    assert list(found)[:2] == ["la_10", "phantom_10"]
    assert found["la_10"][:3] == ["yes", "2:5", "no"]
    assert found["phantom_10"][:3] == ["yes", "unreadable", "yes"]
    assert found["la_5"][:3] == ["no", "no data", "no"]


def test_bundle_of_ones_own_is_listed_with_its_own_list(rows) -> None:
    folder = Path("bundles/mine")
    (folder / "configs").mkdir(parents=True)
    (folder / "configs/inference.json").write_text("{}")
    (folder / "configs/train.json").write_text("{}")
    (folder / "configs/metadata.json").write_text('{"task": "Segmentation of the liver"}')
    (folder / "datalist.json").write_text('{"training": [{"image": "a"}], "unlabeled": []}')
    assert rows()["mine"] == ["yes", "1:0", "no", "", "Segmentation of the liver"]
