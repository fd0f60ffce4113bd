# SPDX-License-Identifier: Apache-2.0
"""Cross-validation: every labeled scan is left out once, patients stay together, and segment averages the models."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.bundle.trained import FOLDS, fold_models
from dtlp_components.deploy.segment import segment_scans
from dtlp_components.errors import InputError
from dtlp_components.experiments.folds import OUT_OF_FOLD, deal_folds, train_folds
from dtlp_components.report.calibrate import calibrate_model
from tests import tiny
from tests.bundles.test_workflows import PHANTOM


def scans(count: int, patients: int = 0) -> list[dict[str, str]]:
    found = [{"image": f"{i}.nii.gz", "label": f"{i}_label.nii.gz"} for i in range(count)]
    return [{**item, "patient": str(i % patients)} for i, item in enumerate(found)] if patients else found


def test_every_labeled_scan_is_validated_on_once_and_trained_on_otherwise() -> None:
    lists = {"training": scans(7), "validation": [{"image": "v.nii.gz", "label": "w"}], "unlabeled": [{"image": "u"}]}
    folds = deal_folds({**lists, "testing": scans(2), "labels": {"0": "background"}}, 3, 0, "list")
    everything = {item["image"] for item in [*lists["training"], *lists["validation"]]}
    held = [{item["image"] for item in fold["validation"]} for fold in folds]
    assert sorted(len(part) for part in held) == [2, 3, 3]
    assert set().union(*held) == everything
    for fold, part in zip(folds, held, strict=True):
        assert {item["image"] for item in fold["training"]} == everything - part
        assert fold["unlabeled"] == lists["unlabeled"]
        assert fold["testing"] == scans(2)
        assert fold["labels"] == {"0": "background"}


def test_scans_of_a_patient_stay_together_and_the_seed_deals() -> None:
    folds = deal_folds({"training": scans(12, patients=4)}, 2, 0, "list")
    held = [{item["patient"] for item in fold["validation"]} for fold in folds]
    assert not held[0] & held[1]
    assert folds == deal_folds({"training": scans(12, patients=4)}, 2, 0, "list")
    others = [deal_folds({"training": scans(12, patients=4)}, 2, seed, "list") for seed in range(1, 8)]
    assert any(other != folds for other in others)


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(InputError, match=r"--folds 5: expected at most .*, got only 4 patients in some/list\.json"):
        deal_folds({"training": scans(12, patients=4)}, 5, 0, "some/list.json")


@pytest.mark.parametrize("words", [["--folds", "1"], ["--folds", "two"], ["--jobs", "0"], ["--seed=-1"]], ids=str)
def test_numbers_out_of_range_are_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match=f"{words[0].partition('=')[0]}: expected an integer of at least"):
        train_folds(str(PHANTOM), *words)


def test_missing_datalist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"datalist not found: .*nothing\.json"):
        train_folds(str(PHANTOM), "--datalist", str(tmp_path / "nothing.json"), "--output_dir", str(tmp_path))


@pytest.mark.slow
def test_folds_are_trained_scored_and_averaged(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "folds"
    # supervised refuses keys of the unlabeled scans
    keys = {key: value for key, value in {**tiny.FACTS, **tiny.TRAINING}.items() if key != "ddim_steps"}
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    given = [
        "--folds", "2", "--output_dir", str(place), "--method", "supervised", "--dataset_dir", str(tiny_dataset),
        "--datalist", str(tiny_dataset / "datalist.json"), *words,
    ]  # fmt: skip
    train_folds(str(PHANTOM), *given)
    said = capsys.readouterr().out
    assert "Dice [%], out of fold" in said
    with open(place / OUT_OF_FOLD, newline="") as stream:
        rows = list(csv.DictReader(stream))
    lists = json.loads((tiny_dataset / "datalist.json").read_text())
    assert len(rows) == len(lists["training"]) + len(lists["validation"])
    assert {row["fold"] for row in rows} == {"fold_1", "fold_2"}
    assert len(fold_models(place)) == 2

    train_folds(str(PHANTOM), *given)
    assert "2 runs, 2 of them already done." in capsys.readouterr().out
    with pytest.raises(InputError, match="got a run with other settings"):
        train_folds(str(PHANTOM), *given, "--features", "8")

    scan = tiny_dataset / lists["testing"][0]["image"]
    segment_scans(str(PHANTOM), str(scan), str(tmp_path / "out"), str(place), device="cpu", **tiny.CLASSES)
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 1
    assert "dice_low" not in (tmp_path / "out" / "segmentations.csv").read_text()

    monkeypatch.setattr("dtlp_components.metrics.calibration.LEAST_SCANS", 3)
    for more in ({"section": "testing"}, {"datalist": "mine.json"}):
        with pytest.raises(InputError, match="expected neither --datalist nor --section with a cross-validation"):
            calibrate_model(str(PHANTOM), str(place), **more)
    written = json.loads(calibrate_model(str(PHANTOM), str(place), coverage=0.3).read_text())
    assert written["scans"] == len(rows)
    # each scan by the model that did not see it, as in the table
    reached = np.mean([float(row["dice"]) for row in rows])
    assert f"Mean Dice {reached:.1f} %" in capsys.readouterr().out
    segment_scans(str(PHANTOM), str(scan), str(tmp_path / "again"), str(place), device="cpu", **tiny.CLASSES)
    with open(tmp_path / "again" / "segmentations.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    low = float(row["expected_dice"]) - written["below"]
    assert float(row["dice_low"]) == pytest.approx(min(max(low, 0), 1), abs=1e-3)


def test_folder_without_folds_or_with_unfinished_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a weights file, or the output folder of dtlp folds"):
        segment_scans(str(PHANTOM), str(tmp_path), str(tmp_path / "out"), str(tmp_path))
    (tmp_path / FOLDS).write_text(json.dumps({"folds": ["fold_1"]}))
    with pytest.raises(InputError, match=r"model\.pt: no such file; expected the weights of every fold"):
        fold_models(tmp_path)
    (tmp_path / FOLDS).write_text(json.dumps({"folds": [1]}))
    with pytest.raises(InputError, match="expected the names of the folds"):
        fold_models(tmp_path)
