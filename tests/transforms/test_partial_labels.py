# SPDX-License-Identifier: Apache-2.0
"""Open voxels of label maps: marked, and left out of scores."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

from dtlp_components import LeaveOutOpenVoxelsd, MarkOpenVoxelsd
from dtlp_components.data.partial_labels import open_classes
from dtlp_components.metrics.conventions import CONVENTIONS
from dtlp_components.metrics.segmentation_scores import segmentation_scores

NAMES = ["background", "liver", "spleen"]
ITEMS = [{"labels": ("liver",)}, {"labels": ("spleen",)}]
TABLE = open_classes(ITEMS, NAMES, 9)  # [all], background or liver, background or spleen


def label(*values: int) -> MetaTensor:
    return MetaTensor(torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1), affine=2 * np.eye(4))


def test_background_of_a_scan_in_which_not_all_was_drawn_is_open() -> None:
    mark = MarkOpenVoxelsd("label", NAMES, 9, TABLE)
    assert TABLE == [[0, 1, 2], [0, 1], [0, 2]]
    for item, row in zip(ITEMS, (2, 1), strict=True):
        marked = mark({"label": label(0, 1, 2, 9), **item})
        assert marked["label"].flatten().tolist() == [-1 - row, 1, 2, -1]
        assert "labels" not in marked
    assert mark({"label": label(0, 1, 9)})["label"].flatten().tolist() == [0, 1, -1]


def test_marking_keeps_the_grid_and_the_original() -> None:
    given = label(0, 9)
    marked = MarkOpenVoxelsd("label", NAMES, 9, TABLE)({"label": given})["label"]
    assert given.flatten().tolist() == [0, 9]
    torch.testing.assert_close(marked.affine, given.affine)


def test_without_a_table_nothing_is_marked_and_a_missing_label_is_no_fault() -> None:
    given = {"label": label(0, 9)}
    assert MarkOpenVoxelsd("label", NAMES)(given)["label"] is given["label"]
    assert MarkOpenVoxelsd("label", NAMES, 9, TABLE, allow_missing_keys=True)({"image": 1}) == {"image": 1}


def test_what_nobody_drew_is_left_out_and_a_drawn_class_counts_as_wrong_elsewhere() -> None:
    """Only the liver was drawn: a spleen may be one, a liver in the background is wrong."""
    leave_out = LeaveOutOpenVoxelsd(["pred", "label"], TABLE)
    maps = leave_out({"pred": label(0, 1, 2, 1, 2, 1), "label": label(-3, -3, -3, 1, 1, -1)})
    assert maps["pred"].flatten().tolist() == [0, 1, 0, 1, 0, 0]
    assert maps["label"].flatten().tolist() == [0, 0, 0, 1, 1, 0]


def test_class_that_nobody_drew_has_no_score_and_the_others_have_theirs() -> None:
    pred, true = label(0, 1, 2, 1, 2), label(-3, -3, -3, 1, -3)
    maps = LeaveOutOpenVoxelsd(["pred", "label"], TABLE)({"pred": pred, "label": true})
    scores = segmentation_scores(maps["pred"][0], maps["label"][0], 3, [2.0] * 3, CONVENTIONS["native"], 1.0)
    np.testing.assert_allclose(scores.dice, [2 * 1 / (2 + 1) * 100, np.nan])
