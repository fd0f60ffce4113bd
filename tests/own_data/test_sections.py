# SPDX-License-Identifier: Apache-2.0
"""Scans of every section: shared folders, domains, and what is drawn for validation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.own_data.scans import cases, label, labeled, listed, make, mr, refusal, save, train, unlabeled


def test_one_folder_in_which_only_some_scans_have_labels(near: Path) -> None:
    unlabeled(near / "site_a/imagesTr", count=2)
    make(unlabeled="site_a")
    assert cases("training") == ["case0.nii.gz", "case1.nii.gz"]
    assert cases("unlabeled") == ["scan0.nii.gz", "scan1.nii.gz"]


def test_folders_of_one_name_become_two_domains(near: Path) -> None:
    labeled(near / "mr/train", seed=60)
    unlabeled(near / "ct/train", seed=70)
    make(labeled="mr/train", unlabeled="ct/train")
    assert {listed()[s][0]["domain"] for s in ("training", "unlabeled")} == {"mr/train", "ct/train"}


def test_validation_share_is_drawn_by_the_seed_alone(near: Path) -> None:
    labeled(near / "ten", count=10)
    drawn = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make(name=name, labeled="ten", validation_share=0.3, seed=seed)
        content = listed(Path(f"bundles/{name}"))
        drawn[name] = [item["image"] for item in content["validation"]]
        assert len(drawn[name]) == 3
        assert content["seed"] == seed
        together = drawn[name] + [item["image"] for item in content["training"]]
        assert sorted(together) == [str(near / f"ten/imagesTr/case{i}.nii.gz") for i in range(10)]
    assert drawn["a"] == drawn["b"] != drawn["c"]


def test_no_unlabeled_scans_are_allowed_with_a_note(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(unlabeled="")
    assert listed()["unlabeled"] == []
    assert train()["batch_size_unlabeled"] == 0
    assert "no unlabeled scans" in capsys.readouterr().out


def test_only_scan_with_a_class_stays_in_training(near: Path) -> None:
    for i in range(5):
        save(near / f"rare/imagesTr/p{i}.nii.gz", mr(i))
        save(near / f"rare/labelsTr/p{i}.nii.gz", label(1, 2) if i == 3 else label(1))
    for seed in range(6):
        make(name=f"b{seed}", labeled="rare", validation_share=0.6, seed=seed)
        drawn = [Path(item["image"]).name for item in listed(Path(f"bundles/b{seed}"))["validation"]]
        assert len(drawn) == 3
        assert "p3.nii.gz" not in drawn


def test_draw_that_nobody_can_be_spared_for_is_refused(near: Path) -> None:
    for i in range(3):
        save(near / f"rare/imagesTr/p{i}.nii.gz", mr(i))
        save(near / f"rare/labelsTr/p{i}.nii.gz", label(i + 1))
    assert "each is the only one with some label" in refusal(labeled="rare", validation_share=0.3)
