# SPDX-License-Identifier: Apache-2.0
"""What scores are worth, against scipy and scikit-learn's definitions on numbers made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.labeling.judge import judge_scores, print_judgment


def test_score_that_follows_the_dice_is_perfect_and_its_opposite_is_not() -> None:
    dice = np.array([0.5, 0.7, 0.85, 0.9])
    found = judge_scores({"confidence": dice, "foreground_entropy": dice}, dice)
    assert found["confidence"] == pytest.approx((1.0, 1.0))
    assert found["foreground_entropy"] == pytest.approx((-1.0, 0.0))


def test_area_counts_pairs_of_a_good_and_a_bad_one() -> None:
    dice, score = np.array([0.5, 0.7, 0.9, 0.95]), np.array([0.6, 0.8, 0.7, 0.9])
    assert judge_scores({"expected_dice": score}, dice)["expected_dice"][1] == pytest.approx(3 / 4)


def test_area_of_good_ones_alone_is_none() -> None:
    found = judge_scores({"confidence": np.array([0.1, 0.2, 0.3])}, np.array([0.9, 0.95, 0.9]))
    assert math.isnan(found["confidence"][1])


def test_map_with_nothing_in_it_is_judged_the_worst(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = np.zeros((6, 6, 6), np.uint8)
    label[2:4, 2:4, 2:4] = 1
    rows, labels = [], {}
    for name, drawn in (("right", label), ("half", label * (np.arange(6) < 3)), ("empty", label * 0)):
        for kind, voxels in (("seg", drawn), ("label", label)):
            nib.save(nib.Nifti1Image(voxels.astype(np.uint8), np.eye(4)), tmp_path / f"{name}_{kind}.nii.gz")
        scores = {"right": 0.9, "half": 0.6}.get(name)
        rows.append({"image": name, "label_map": f"x/{name}_seg.nii.gz", **({"confidence": scores} if scores else {})})
        labels[name] = str(tmp_path / f"{name}_label.nii.gz")
    print_judgment(rows, labels, 2, tmp_path)
    printed = capsys.readouterr().out
    assert "3 scans with a reference: mean Dice 55.6, 2 below 80." in printed
    assert [line.split() for line in printed.splitlines() if line.startswith("confidence")] == [
        ["confidence", "1.00", "1.00"]
    ]
    assert (tmp_path / "judged.csv").read_text().splitlines()[3].startswith("empty,0.0,0.0,0.0,inf")
