# SPDX-License-Identifier: Apache-2.0
"""Voxels that nobody labeled, and scans in which not every class was drawn."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.own_data.scans import label, listed, make, mr, refusal, run, save, train

IGNORE = 3


def ignoring(near: Path, ignore: int = IGNORE, values: tuple[int, int] = (1, 2)) -> Path:
    """nnU-Net's layout; the upper quarter of the first scan's label is to be ignored."""
    for i in range(2):
        voxels = label(*values)
        if i == 0:
            voxels[..., 16:] = ignore
        save(near / f"raw/imagesTr/p{i}_0000.nii.gz", mr(30 + i))
        save(near / f"raw/labelsTr/p{i}.nii.gz", voxels)
    names = {"background": 0, "tumor": values[0], "edema": values[1], "ignore": ignore}
    (near / "raw/dataset.json").write_text(json.dumps({"labels": names, "channel_names": {"0": "T1"}}))
    return near / "raw"


def partly(near: Path, *drawn: list[str] | None) -> Path:
    """A datalist; the second class is missing where it was not drawn."""
    items = []
    for i, names in enumerate(drawn):
        voxels = label(1, 2)
        if names is not None and "edema" not in names:
            voxels[voxels == 2] = 0
        save(near / f"cohort/p{i}.nii.gz", mr(30 + i))
        save(near / f"cohort/p{i}_seg.nii.gz", voxels)
        items.append({"image": f"p{i}.nii.gz", "label": f"p{i}_seg.nii.gz", **({"labels": names} if names else {})})
    content = {"labels": {"0": "background", "1": "tumor", "2": "edema"}, "training": items}
    (near / "cohort/list.json").write_text(json.dumps(content))
    return near / "cohort/list.json"


def test_nnunets_ignore_is_no_class_and_the_teachers_get_the_scan(
    near: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ignoring(near)
    make(labeled="raw")
    assert train()["label_names"] == ["background", "tumor", "edema"]
    assert train()["ignore_label"] == IGNORE
    assert listed()["unlabeled"][-1] == {"image": str(near / "raw/imagesTr/p0_0000.nii.gz"), "domain": "raw"}
    assert len(listed()["unlabeled"]) == 3 + 1
    assert (
        "1 of 2 labeled scans contain voxels marked to be ignored, up to 27% of a scan" in capsys.readouterr().out
    )  # 6 of 22 slices


def test_value_to_ignore_may_be_given_and_remapped(near: Path) -> None:
    ignoring(near, ignore=255, values=(10, 20))
    (near / "raw/dataset.json").unlink()
    bundle = make(labeled="raw", ignore_label=255, remap=True)
    assert train()["num_classes"] == train()["ignore_label"] == 3
    written = np.asarray(nib.load(bundle / listed()["training"][0]["label"]).dataobj)
    assert sorted(np.unique(written)) == [0, 1, 2, 3]
    assert (written[..., 16:] == 3).all()


def test_without_unlabeled_scans_nobody_fills_the_open_voxels(near: Path) -> None:
    ignoring(near)
    make(labeled="raw", unlabeled="")
    assert listed()["unlabeled"] == []


def test_partly_labeled_scans_keep_their_labels_in_the_list(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(labeled=str(partly(near, None, ["tumor"])))
    first, second = listed()["training"]
    assert "labels" not in first
    assert second["labels"] == ["tumor"]
    assert "In 1 of 2 labeled scans, nobody annotated edema" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["edem"], "`labels`: expected class names (background, tumor, edema), got 'edem'"),
        (["edema"], "expected only the structures that `labels` of its item lists (edema), got 'tumor'"),
        ([], "`labels`: expected a list with the names of the annotated classes"),
    ],
)
def test_labels_that_contradict_the_scan_are_refused(near: Path, names: list[str], message: str) -> None:
    file = partly(near, None, ["tumor"])
    content = json.loads(file.read_text())
    content["training"][1]["labels"] = names
    file.write_text(json.dumps(content))
    assert message in refusal(labeled=str(file))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ignored", "partly"])
def test_bundle_with_open_voxels_trains_and_is_scored_without_them(near: Path, kind: str) -> None:
    where = str(ignoring(near)) if kind == "ignored" else str(partly(near, ["tumor"], ["tumor", "edema"]))
    bundle = make(labeled=where, features=4, max_iterations=2)
    run(bundle, "train", near / "out", mlflow=False, ddim_steps=1, burn_in=0.0, ramp_up=0.0)
    assert all(torch.isfinite(v).all() for v in torch.load(near / "out/models/model.pt", weights_only=True).values())
    run(bundle, "evaluate", near / "out", eval_section="training")
    summary = json.loads((near / "out/evaluation/training_native_summary.json").read_text())
    counts = {name: scores["n"] for name, scores in summary["classes"].items()}
    # a class that nobody drew has no score there
    assert counts == {"tumor": 2, "edema": 2 if kind == "ignored" else 1}
