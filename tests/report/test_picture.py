# SPDX-License-Identifier: Apache-2.0
"""The picture of one scan; test_figures.py has what is on it, and tests/bundles draws one of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtlp_components.errors import InputError
from dtlp_components.report import picture
from dtlp_components.report.picture import write_picture
from tests.report.test_figures import case


class Predictor:
    """A training with two scans."""

    section, items, label_names = "validation", [1, 2], ["background", "liver"]

    def __init__(self, *places: str) -> None:
        self.places = places
        self.asked: list[int] = []

    def predict(self, index: int) -> object:
        self.asked.append(index)
        return case()


def test_run_without_a_checkpoint_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"No checkpoint at {tmp_path}/checkpoints/last\.pt: train first"):
        write_picture("no bundle", "no data", str(tmp_path))


def test_picture_is_written_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(picture, "CasePredictor", Predictor)
    file = tmp_path / "new" / "scan.png"
    assert write_picture("mine", file=str(file), plane="axial", case=1) == file
    assert file.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in file.parent.iterdir()] == ["scan.png"]
    assert str(file) in capsys.readouterr().out


def test_scan_or_plane_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "CasePredictor", Predictor)
    with pytest.raises(
        InputError, match="--case: expected the number of a scan in section `validation`, from 0 to 1, got 2"
    ):
        write_picture("mine", case=2)
    with pytest.raises(InputError, match="--plane: expected one of axial, coronal, sagittal, got 'top'"):
        write_picture("mine", plane="top")
