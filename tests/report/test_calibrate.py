# SPDX-License-Identifier: Apache-2.0
"""``dtlp calibrate``: what it writes is what ``segment`` uses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dtlp_components.deploy.segment import segment_scans
from dtlp_components.errors import InputError
from dtlp_components.metrics import calibration as metrics
from dtlp_components.report.calibrate import calibrate_model
from dtlp_components.run_folder import RunFolder
from tests.bundles.test_workflows import PHANTOM, run, workflow


@pytest.mark.slow
def test_segment_says_between_what_the_dice_is_to_be_expected(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = RunFolder(tmp_path / "run")
    run(workflow(PHANTOM, "train", tiny_dataset, place.root, overlay="methods/supervised"))
    lists = json.loads((tiny_dataset / "datalist.json").read_text())
    lists["held_back"] = [*lists["training"], *lists["validation"], *lists["testing"]]
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    given = {"dataset_dir": str(tiny_dataset), "datalist": str(tmp_path / "lists.json"), "section": "held_back"}

    calibrate_model(str(PHANTOM), str(place.root), **given)
    assert "No interval: an interval with 90 % coverage needs at least 20" in capsys.readouterr().out
    assert json.loads(place.calibration.read_text())["below"] is None
    assert place.calibration_curve.is_file()

    monkeypatch.setattr(metrics, "LEAST_SCANS", 3)
    written = calibrate_model(str(PHANTOM), str(place.root), coverage=0.3, **given)
    assert written == place.calibration
    found = json.loads(written.read_text())
    assert found["scans"] == len(lists["held_back"])

    scan = str(tiny_dataset / lists["testing"][0]["image"])
    segment_scans(str(PHANTOM), scan, str(tmp_path / "out"), str(place.model), device="cpu")
    with open(tmp_path / "out" / "segmentations.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["expected_dice"]
    expected = float(row["expected_dice"])
    for column, bound in (("dice_low", expected - found["below"]), ("dice_high", expected + found["above"])):
        assert float(row[column]) == pytest.approx(min(max(bound, 0), 1), abs=1e-3)


@pytest.mark.parametrize("section", ["training", "unlabeled"])
def test_scans_that_were_trained_on_are_refused(section: str) -> None:
    with pytest.raises(InputError, match=f"--section: expected labeled scans .*, got '{section}'"):
        calibrate_model(str(PHANTOM), section=section)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90])
def test_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(InputError, match=r"--coverage: expected a number between 0 and 1, got"):
        calibrate_model(str(PHANTOM), coverage=coverage)
