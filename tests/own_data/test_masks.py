# SPDX-License-Identifier: Apache-2.0
"""A folder of masks becomes a label map."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from dtlp_components.own_data.masks import read_masks
from tests.own_data.scans import SHAPE, listed, make, mr, refusal, save, train


def mask(start: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """3 x 4 x 5 voxels, from ``start`` on along z."""
    voxels = np.zeros(shape, np.uint8)
    voxels[3:6, 4:8, start : start + 5] = 255
    return voxels


def patient(folder: Path, seed: int, **masks: np.ndarray) -> Path:
    save(folder / "ct.nii.gz", mr(seed))
    for name, voxels in masks.items():
        save(folder / f"segmentations/{name}.nii.gz", voxels)
    return folder


def test_values_follow_the_order_of_the_structures(tmp_path: Path) -> None:
    folder = patient(tmp_path, 0, liver=mask(2), spleen=mask(9)) / "segmentations"
    found, problems = read_masks(str(folder), ["spleen", "liver"])
    assert not problems
    assert found is not None
    np.testing.assert_array_equal(found[0], 2 * (mask(2) > 0) + (mask(9) > 0))
    assert found[1].values == [0, 1, 2]


def test_masks_that_overlap_are_refused(tmp_path: Path) -> None:
    folder = patient(tmp_path, 0, liver=mask(2), spleen=mask(5)) / "segmentations"
    _, (problem,) = read_masks(str(folder), ["liver", "spleen"])
    assert "got 24 voxels that are also in another (such as liver)" in problem  # 3 * 4 * 2


def test_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    folder = patient(tmp_path, 0, liver=mask(2), spleen=mask(9, (20, 18, 23))) / "segmentations"
    _, (problem,) = read_masks(str(folder), ["liver", "spleen"])
    assert "spleen.nii.gz: expected the grid of the other masks of this scan" in problem
    assert "got another one (shape [20, 18, 23])" in problem


def test_label_maps_are_written_into_the_bundle_and_missing_structures_are_not_drawn(near: Path) -> None:
    patient(near / "total/s1", 1, liver=mask(2), spleen=mask(9))
    patient(near / "total/s2", 2, liver=mask(3))
    bundle = make(labeled="total")
    assert train()["label_names"] == ["background", "liver", "spleen"]
    first, second = listed()["training"]
    assert "labels" not in first
    assert second["labels"] == ["liver"]
    written = nib.load(bundle / first["label"])
    np.testing.assert_array_equal(np.asarray(written.dataobj), (mask(2) > 0) + 2 * (mask(9) > 0))
    np.testing.assert_array_equal(written.affine, nib.load(near / "total/s1/ct.nii.gz").affine)
    # what nobody drew is for the teachers
    assert str(near / "total/s2/ct.nii.gz") in [item["image"] for item in listed()["unlabeled"]]
    assert str(near / "total/s1/ct.nii.gz") not in [item["image"] for item in listed()["unlabeled"]]


def test_names_choose_among_the_structures(near: Path) -> None:
    for i in (1, 2):
        patient(near / f"total/s{i}", i, liver=mask(2), spleen=mask(9), rib=mask(15))
    (near / "names.json").write_text(json.dumps(["background", "kidney"]))
    message = refusal(labeled="total", labels="names.json")
    assert "expected names of masks (liver, rib, spleen), got kidney" in message
    (near / "names.json").write_text(json.dumps(["background", "spleen"]))
    make(labeled="total", labels="names.json")
    assert train()["label_names"] == ["background", "spleen"]
