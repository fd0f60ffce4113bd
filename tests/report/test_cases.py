# SPDX-License-Identifier: Apache-2.0
"""What a training says of a scan: found by what the run recorded; a real one is trained here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dtlp_components.errors import InputError
from dtlp_components.handlers.score_table import case_names
from dtlp_components.report.cases import BINS, CasePredictor, _calibration, told_places
from dtlp_components.run_folder import RunFolder
from tests.bundles.test_workflows import PHANTOM, run, workflow

OVER = {"output_dir": "x", "dataset_dir": "$__import__('os').system('touch evil')", "datalist": "@dataset_dir"}


def test_calibration_counts_voxels_that_somebody_calls_foreground() -> None:
    student = torch.tensor([[0.95, 0.38, 0.28, 0.97], [0.05, 0.62, 0.72, 0.03]]).view(2, 4, 1, 1)
    prediction = student.argmax(dim=0)  # background, 1, 1, background
    reference = torch.tensor([0, 1, 0, 1]).view(4, 1, 1)
    voxels, right, confidence = _calibration(student, prediction, reference)
    assert voxels.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 1]  # the first voxel does not count
    assert right.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert confidence[[6, 7, 9]].tolist() == pytest.approx([0.62, 0.72, 0.97])
    assert len(voxels) == BINS


def test_path_of_a_record_is_no_expression(tmp_path: Path) -> None:
    place = RunFolder(tmp_path)
    place.logs.mkdir()
    place.record.write_text(json.dumps({"overrides": OVER, "settings": {"batch_size_unlabeled": 0}}))
    assert told_places(place) == {"batch_size_unlabeled": 0}
    place.record.write_text(json.dumps({"overrides": {"dataset_dir": "scans/a"}}))
    assert told_places(place) == {"batch_size_unlabeled": 1, "dataset_dir": "scans/a"}
    assert told_places(RunFolder(tmp_path / "none")) == {}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dtlp", "uamt", "supervised"])
def test_training_of_every_kind_can_be_shown(method: str, tiny_dataset: Path, tmp_path: Path) -> None:
    overlay = "" if method == "dtlp" else f"methods/{method}"
    run(workflow(PHANTOM, "train", tiny_dataset, tmp_path / "run", overlay=overlay))
    # the bundle as it was trained here: with the classes of the tiny scans
    bundle = Path(shutil.copytree(PHANTOM / "configs", tmp_path / "bundle/configs")).parent
    for file in (bundle / "configs").glob("*.json"):
        content = json.loads(file.read_text())
        if "label_names" in content:
            content["label_names"] = ["background", "first", "second"]
            file.write_text(json.dumps(content))
    data = str(tiny_dataset)
    predictor = CasePredictor(str(bundle), str(tmp_path / "run"), data, f"{data}/datalist.json")
    assert predictor.section == "testing"
    assert predictor.names == ["testing_0"]
    case = predictor.predict(0)
    assert case.image.shape == case.reference.shape == case.entropy.shape == (20, 18, 22)
    assert case.spacing == (1.0, 1.0, 1.0)
    shown = {*case.labels, *case.same}
    expected = {
        "dtlp": {"student", "diffusion", "difficulty", "first_teacher", "mean_teacher", "ensemble"},
        "uamt": {"student", "mean_teacher"},
        "supervised": {"student"},
    }[method]
    assert shown == expected == set(case.dice)
    # the exported model is the moving average, so that one panel would be there twice
    assert case.same[:1] == ([] if method == "supervised" else ["mean_teacher"])
    assert set(np.unique(case.reference)) <= {0, 1, 2}


@pytest.mark.slow
def test_section_without_labels_or_scans_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    run(workflow(PHANTOM, "train", tiny_dataset, tmp_path / "run", overlay="methods/supervised"))
    data = str(tiny_dataset)
    with pytest.raises(InputError, match="section `unlabeled`: expected scans with labels, got 3 scans without"):
        CasePredictor(str(PHANTOM), str(tmp_path / "run"), data, f"{data}/datalist.json", "unlabeled")
    lists = tmp_path / "list.json"
    lists.write_text(json.dumps({"training": [{"image": "a", "label": "b"}]}))
    with pytest.raises(
        InputError, match=r"expected scans in section testing or validation, .* Choose another section with"
    ):
        CasePredictor(str(PHANTOM), str(tmp_path / "run"), data, str(lists))


def test_scans_have_the_names_of_the_tables_of_scores() -> None:
    predictor = CasePredictor.__new__(CasePredictor)
    predictor.items = [{"image": f"/data/{case}/image.nii.gz"} for case in ("a", "b")]
    assert predictor.names == case_names([item["image"] for item in predictor.items]) == ["a/image", "b/image"]
