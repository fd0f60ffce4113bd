# SPDX-License-Identifier: Apache-2.0
"""Layouts of folders in which scans and labels are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.errors import InputError
from dtlp_components.keys import DatalistKeys
from dtlp_components.own_data.find import find_scans
from tests.own_data.scans import cases, label, labeled, listed, make, mr, refusal, save, train


def test_images_and_labels_in_capital_letters_belong_together(tmp_path):
    for name in ("A.NII.GZ", "A_seg.NII.GZ", "b_image.Nii", "b_label.nii"):
        (tmp_path / name).touch()
    found = find_scans(str(tmp_path), DatalistKeys.TRAINING).scans
    assert [(scan.case, Path(scan.image).name, Path(scan.label).name) for scan in found] == [
        ("A", "A.NII.GZ", "A_seg.NII.GZ"),
        ("b", "b_image.Nii", "b_label.nii"),
    ]


def test_images_tr_and_labels_tr(near: Path) -> None:
    make()
    assert listed()["training"][1] == {
        "image": str(near / "site_a/imagesTr/case1.nii.gz"),
        "label": str(near / "site_a/labelsTr/case1.nii.gz"),
        "domain": "site_a",
    }
    assert listed()["unlabeled"][0] == {"image": str(near / "site_b/scan0.nii.gz"), "domain": "site_b"}


def test_images_and_labels_and_uncompressed_files(near: Path) -> None:
    for i in range(2):
        save(near / f"other/images/p{i}.nii", mr(20 + i))
        save(near / f"other/labels/p{i}_seg.nii.gz", label(1, 2))
    make(labeled="other")
    assert cases("training") == ["p0.nii", "p1.nii"]
    assert [Path(item["label"]).name for item in listed()["training"]] == ["p0_seg.nii.gz", "p1_seg.nii.gz"]


def test_images_and_labels_in_one_folder(near: Path) -> None:
    for i in range(2):
        save(near / f"flat/p{i}_image.nii.gz", mr(20 + i))
        save(near / f"flat/p{i}_label.nii.gz", label(1, 2))
    make(labeled="flat")
    assert cases("training") == ["p0_image.nii.gz", "p1_image.nii.gz"]
    assert [Path(item["label"]).name for item in listed()["training"]] == ["p0_label.nii.gz", "p1_label.nii.gz"]


def nnunet(folder: Path, **content: Any) -> Path:
    for i in range(2):
        save(folder / f"imagesTr/brain_{i}_0000.nii.gz", mr(20 + i))
        save(folder / f"labelsTr/brain_{i}.nii.gz", label(1, 2))
    names = {"labels": {"background": 0, "tumor": 1, "oedema": 2}, "channel_names": {"0": "T1"}}
    (folder / "dataset.json").write_text(json.dumps({**names, **content}))
    return folder


def test_nnunet_raw_with_its_label_names(near: Path) -> None:
    nnunet(near / "Dataset001")
    make(labeled="Dataset001")
    assert cases("training") == ["brain_0_0000.nii.gz", "brain_1_0000.nii.gz"]
    assert train()["label_names"] == ["background", "tumor", "oedema"]


def test_datalist_with_a_domain_of_its_own(near: Path) -> None:
    items = [{"image": f"imagesTr/case{i}.nii.gz", "label": f"labelsTr/case{i}.nii.gz"} for i in range(2)]
    items[0]["domain"] = "scanner 7"
    (near / "site_a/list.json").write_text(json.dumps({"training": items, "labels": {"1": "a", "2": "b"}}))
    make(labeled="site_a/list.json")
    assert [item["domain"] for item in listed()["training"]] == ["scanner 7", "site_a"]
    assert train()["label_names"] == ["background", "a", "b"]
    with pytest.raises(InputError, match=r"expected items in `unlabeled`, got items only in \['training'\]"):
        make(name="other", unlabeled="site_a/list.json")


def test_validation_and_testing_have_folders_of_their_own(near: Path) -> None:
    for role, seed in (("Val", 30), ("Ts", 40)):
        save(near / f"site_b/images{role}/v.nii.gz", mr(seed))
        save(near / f"site_b/labels{role}/v.nii.gz", label(1))
    make(validation="site_b", testing="site_b")
    assert [len(listed()[s]) for s in ("training", "unlabeled", "validation", "testing")] == [2, 3, 1, 1]
    assert listed()["validation"][0]["label"] == str(near / "site_b/labelsVal/v.nii.gz")
    assert listed()["testing"][0]["image"] == str(near / "site_b/imagesTs/v.nii.gz")


def test_labels_of_unlabeled_scans_are_never_opened(near: Path) -> None:
    labeled(near / "site_c", seed=50)
    for file in (near / "site_c/labelsTr").iterdir():
        file.write_bytes(b"whoever reads this fails")
    make(unlabeled="site_c")
    assert all(set(item) == {"image", "domain"} for item in listed()["unlabeled"])


def test_labels_of_acdc_and_of_the_liver_challenge_belong_to_their_images(tmp_path: Path) -> None:
    for name in ("p1_frame01", "p1_frame01_gt", "volume-3", "segmentation-3", "img0007", "label0007"):
        (tmp_path / f"{name}.nii.gz").touch()
    found = find_scans(str(tmp_path), DatalistKeys.TRAINING).scans
    assert [(Path(scan.image).name, Path(scan.label or "").name) for scan in found] == [
        ("img0007.nii.gz", "label0007.nii.gz"),
        ("p1_frame01.nii.gz", "p1_frame01_gt.nii.gz"),
        ("volume-3.nii.gz", "segmentation-3.nii.gz"),
    ]


def test_label_maps_among_unlabeled_images_are_named(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("scan0_gt", "segmentation-1", "scan1_mask"):
        save(near / f"site_b/{name}.nii.gz", label(1, 2))
    make()
    assert cases("unlabeled") == ["scan0.nii.gz", "scan1.nii.gz", "scan2.nii.gz"]
    assert "3 files (scan0_gt.nii.gz, scan1_mask.nii.gz, segmentation-1.nii.gz) are named like label maps" in (
        capsys.readouterr().out
    )


def test_label_map_with_the_name_of_an_image_is_refused_by_its_values(near: Path) -> None:
    save(near / "site_b/scan9.nii.gz", label(1, 2))
    assert "scan9.nii.gz: expected an image, got only the values [0, 1, 2], as in a label map" in refusal()


def test_volumes_of_other_formats_are_counted_and_named(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.nrrd", "b.mha", "c.mhd", "d.IMG", "e.mgz"):
        (near / "site_b" / name).touch()
    make()
    assert "5 files (a.nrrd, b.mha, c.mhd, …) are in unsupported formats" in capsys.readouterr().out
