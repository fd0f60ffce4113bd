# SPDX-License-Identifier: Apache-2.0
"""A bundle from a user's own folders: layouts, what is refused and how, what is guessed, and that it runs."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from dtlp_components.bundle.lint import check_config, check_metadata
from dtlp_components.bundle.render import RECIPES
from dtlp_components.cli import main
from dtlp_components.data.datalists import load_datalist
from dtlp_components.errors import InputError
from dtlp_components.own_data.command import new_bundle
from dtlp_components.own_data.find import Scan as FoundScan
from dtlp_components.own_data.inspect import ScanFacts, inspect_scans
from dtlp_components.own_data.label_names import read_label_names
from dtlp_components.own_data.memory import estimate_bytes, parse_memory
from dtlp_components.own_data.plan import guess_modality, guess_spacing, guess_window

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI tries it before pydicom

SHAPE = (20, 18, 22)  # unequal sizes, so that swapped axes show


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, 1.0, 1.0, 1.0]) if affine is None else affine), path)
    return path


def mr(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).gamma(4, 30, shape).astype(np.float32)


def ct(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A body of 40 HU, with 15 HU of noise, in air."""
    voxels = np.full(shape, -1000, np.int16)
    inside = tuple(slice(3, side - 3) for side in shape)
    voxels[inside] = np.random.default_rng(seed).normal(40, 15, voxels[inside].shape).round()
    return voxels


def label(*values: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Background, and 4 x 5 x 6 voxels of every value."""
    voxels = np.zeros(shape, np.uint8 if max(values, default=0) < 256 else np.int16)
    for i, value in enumerate(values):
        voxels[5:9, 5:10, 3 + 6 * i : 9 + 6 * i] = value
    return voxels


def labeled(folder: Path, count: int = 2, values: tuple[int, ...] = (1, 2), seed: int = 0, image: Any = mr) -> Path:
    for i in range(count):
        save(folder / f"imagesTr/case{i}.nii.gz", image(seed + i))
        save(folder / f"labelsTr/case{i}.nii.gz", label(*values))
    return folder


def unlabeled(folder: Path, count: int = 3, seed: int = 100, image: Any = mr) -> Path:
    for i in range(count):
        save(folder / f"scan{i}.nii.gz", image(seed + i))
    return folder


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with two labeled scans in ``site_a`` and three unlabeled ones in ``site_b``."""
    monkeypatch.chdir(tmp_path)
    labeled(tmp_path / "site_a")
    unlabeled(tmp_path / "site_b")
    return tmp_path


def make(**flags: Any) -> Path:
    return new_bundle(**{"name": "mine", "labeled": "site_a", "unlabeled": "site_b", **flags})


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def listed(bundle: Path = Path("bundles/mine")) -> dict[str, Any]:
    return read(bundle / "datalist.json")


def train(bundle: Path = Path("bundles/mine")) -> dict[str, Any]:
    return read(bundle / "configs/train.json")


def refusal(**flags: Any) -> str:
    """The message of a refused call, which must have written nothing."""
    with pytest.raises(InputError) as caught:
        make(**flags)
    assert not Path("bundles/mine").exists()
    return str(caught.value)


# --- layouts


def cases(section: str) -> list[str]:
    return [Path(item["image"]).name for item in listed()[section]]


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


def test_several_channels_are_refused(near: Path) -> None:
    nnunet(near / "Dataset001", channel_names={"0": "T1", "1": "T2"})
    assert "dataset.json: found 2 channels" in refusal(labeled="Dataset001")


def test_nnunets_label_to_ignore_is_no_class(near: Path) -> None:
    folder = nnunet(near / "Dataset001", labels={"background": 0, "tumor": 1, "ignore": 2})
    message = refusal(labeled="Dataset001")
    assert f"{folder}/dataset.json, `labels`: found the label 'ignore' (2)" in message
    assert "as --unlabeled" in message
    make(unlabeled="Dataset001")  # whose labels nobody opens


def test_datalist_with_a_domain_of_its_own(near: Path) -> None:
    items = [{"image": f"imagesTr/case{i}.nii.gz", "label": f"labelsTr/case{i}.nii.gz"} for i in range(2)]
    items[0]["domain"] = "scanner 7"
    (near / "site_a/list.json").write_text(json.dumps({"training": items, "labels": {"1": "a", "2": "b"}}))
    make(labeled="site_a/list.json")
    assert [item["domain"] for item in listed()["training"]] == ["scanner 7", "site_a"]
    assert train()["label_names"] == ["background", "a", "b"]
    with pytest.raises(InputError, match=r"found no items in `unlabeled`, only in \['training'\]"):
        make(name="other", unlabeled="site_a/list.json")


def test_validation_and_testing_have_folders_of_their_own(near: Path) -> None:
    for role, seed in (("Val", 30), ("Ts", 40)):
        save(near / f"site_b/images{role}/v.nii.gz", mr(seed))
        save(near / f"site_b/labels{role}/v.nii.gz", label(1))
    make(validation="site_b", testing="site_b")
    assert [len(listed()[s]) for s in ("training", "unlabeled", "validation", "testing")] == [2, 3, 1, 1]
    assert listed()["validation"][0]["label"] == str(near / "site_b/labelsVal/v.nii.gz")
    assert listed()["testing"][0]["image"] == str(near / "site_b/imagesTs/v.nii.gz")


def test_one_folder_in_which_only_some_scans_have_labels(near: Path) -> None:
    unlabeled(near / "site_a/imagesTr", count=2)
    make(unlabeled="site_a")
    assert cases("training") == ["case0.nii.gz", "case1.nii.gz"]
    assert cases("unlabeled") == ["scan0.nii.gz", "scan1.nii.gz"]


def test_labels_of_unlabeled_scans_are_never_opened(near: Path) -> None:
    labeled(near / "site_c", seed=50)
    for file in (near / "site_c/labelsTr").iterdir():
        file.write_bytes(b"whoever reads this fails")
    make(unlabeled="site_c")
    assert all(set(item) == {"image", "domain"} for item in listed()["unlabeled"])


def test_folders_of_one_name_become_two_domains(near: Path) -> None:
    labeled(near / "mr/train", seed=60)
    unlabeled(near / "ct/train", seed=70)
    make(labeled="mr/train", unlabeled="ct/train")
    assert {listed()[s][0]["domain"] for s in ("training", "unlabeled")} == {"mr/train", "ct/train"}


# --- DICOM


def test_every_folder_with_dicom_is_one_scan(near: Path, write_series: Any) -> None:
    series = [write_series(near / f"pacs/patient{i}/series", ct(80 + i)) for i in range(2)]
    labeled(near / "ct", seed=90, image=ct)
    (near / "pacs/patient1/series/notes.txt").write_text("not a slice")
    make(labeled="ct", unlabeled="pacs")
    assert [item["image"] for item in listed()["unlabeled"]] == [str(folder) for folder in series]
    found, broken = inspect_scans([FoundScan("a", str(series[0]))], None, False, "")
    assert broken == {}
    # columns are x
    assert found[0][1].spacing_mm == pytest.approx((0.75, 0.5, 2.0)) and found[0][1].shape == SHAPE
    assert found[0][1].orientation == "LPS"
    assert read(Path("bundles/mine/configs/inference.json"))["input"] == str(near / "pacs")


def test_missing_slice_is_named(near: Path, write_series: Any) -> None:
    folder = write_series(near / "pacs/series", ct(80))
    (folder / "slice07.dcm").unlink()
    message = refusal(unlabeled="pacs")
    assert "found 4 mm from slice06.dcm to slice08.dcm and 2 mm elsewhere" in message
    assert "a slice is missing" in message


def test_two_series_in_one_folder_are_refused(near: Path, write_series: Any) -> None:
    folder = write_series(near / "pacs/series", ct(80))
    for file in write_series(near / "second", ct(81)).iterdir():
        file.rename(folder / f"b_{file.name}")
    assert "found 2 series" in refusal(unlabeled="pacs")


def test_labeled_dicom_is_refused(near: Path) -> None:
    (near / "pacs").mkdir()
    (near / "pacs/a.dcm").write_bytes(b"")
    assert "only unlabeled scans may be DICOM" in refusal(labeled="pacs")


def test_missing_dicom_package_is_named_with_its_command(near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (near / "pacs").mkdir()
    (near / "pacs/a.dcm").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install pydicom" in refusal(unlabeled="pacs")


# --- what is refused


def no_labels(near: Path) -> dict[str, Any]:
    for file in (near / "site_a/labelsTr").iterdir():
        file.unlink()
    return {}


def one_label_missing(near: Path) -> dict[str, Any]:
    (near / "site_a/labelsTr/case1.nii.gz").unlink()
    return {}


def label_without_an_image(near: Path) -> dict[str, Any]:
    save(near / "site_a/labelsTr/case7.nii.gz", label(1))
    return {}


def one_value_in_the_only_label(near: Path) -> dict[str, Any]:
    labeled(near / "single", count=1, values=())
    return {"labeled": "single"}


def all_labels_empty(near: Path) -> dict[str, Any]:
    labeled(near / "empty", values=())
    return {"labeled": "empty"}


def names_that_do_not_cover(near: Path) -> dict[str, Any]:
    (near / "names.json").write_text('{"0": "background", "1": "liver"}')
    return {"labels": "names.json"}


def gap_in_the_values(near: Path) -> dict[str, Any]:
    labeled(near / "gap", values=(200, 500))
    return {"labeled": "gap"}


def four_dimensions(near: Path) -> dict[str, Any]:
    save(near / "site_b/cine.nii.gz", mr(1, (*SHAPE, 3)))
    return {}


def frame_out_of_range(near: Path) -> dict[str, Any]:
    return {**four_dimensions(near), "frame": 3}


def other_shape(near: Path) -> dict[str, Any]:
    save(near / "site_a/labelsTr/case1.nii.gz", label(1, 2)[1:])
    return {}


def other_affine(near: Path) -> dict[str, Any]:
    save(near / "site_a/labelsTr/case1.nii.gz", label(1, 2), np.diag([-1, 1, 2, 1]))
    return {}


def truncated(near: Path) -> dict[str, Any]:
    file = near / "site_a/imagesTr/case1.nii.gz"
    file.write_bytes(file.read_bytes()[:4000])
    return {}


def fractions_in_a_label(near: Path) -> dict[str, Any]:
    save(near / "site_a/labelsTr/case1.nii.gz", label(1, 2).astype(np.float32) / 2)
    return {}


def copy_among_the_unlabeled(near: Path) -> dict[str, Any]:
    save(near / "site_b/renamed.nii", mr(0))  # the voxels of case0, another file
    return {}


def training_scan_in_validation(near: Path) -> dict[str, Any]:
    return {"validation": "site_a"}


def empty_folder(near: Path) -> dict[str, Any]:
    (near / "nothing").mkdir()
    return {"unlabeled": "nothing"}


def no_folder(near: Path) -> dict[str, Any]:
    return {"unlabeled": "nowhere"}


def not_a_number(near: Path) -> dict[str, Any]:
    save(near / "site_b/nan.nii.gz", np.full(SHAPE, np.nan, np.float32))
    return {}


def constant(near: Path) -> dict[str, Any]:
    save(near / "site_b/flat.nii.gz", np.full(SHAPE, 7, np.int16))
    return {}


def two_names_for_one_scan(near: Path) -> dict[str, Any]:
    save(near / "site_a/labelsTr/case1.nii", label(1, 2))
    return {}


def value_only_in_validation(near: Path) -> dict[str, Any]:
    labeled(near / "val", count=1, values=(1, 3), seed=30)
    return {"validation": "val"}


def every_scan_drawn(near: Path) -> dict[str, Any]:
    return {"validation_share": 0.9}


def too_little_memory(near: Path) -> dict[str, Any]:
    return {"memory": "800MB"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_labels, r"--labeled site_a: found 2 images and no labels, expected labels in labelsTr"),
        (one_label_missing, r"case1\.nii\.gz: found no label, expected one in --labeled; to use it without"),
        (label_without_an_image, r"labelsTr: found labels without an image: case7\.nii\.gz"),
        (one_value_in_the_only_label, r"case0\.nii\.gz holds only the value 0, expected at least one"),
        (all_labels_empty, r"all 2 labels hold only the value 0"),
        (names_that_do_not_cover, r"case1\.nii\.gz: found the value 2, .*names\.json names: \[0, 1\]"),
        (gap_in_the_values, r"\[0, 200, 500\], expected 0 to 2 .*--remap True .* 200 to 1, 500 to 2, or --labels"),
        (four_dimensions, r"cine\.nii\.gz: found 3 volumes of \[20, 18, 22\] voxels \(4-D\).*--frame 0 to --frame 2"),
        (frame_out_of_range, r"cine\.nii\.gz: found 3 volumes \(4-D\), expected more than --frame 3"),
        (other_shape, r"labelsTr/case1\.nii\.gz: has shape \[19, 18, 22\], its image .* has \[20, 18, 22\]"),
        (other_affine, r"labelsTr/case1\.nii\.gz: its affine differs .* by up to 1 "),
        (truncated, r"imagesTr/case1\.nii\.gz: truncated, damaged or no image \(EOFError"),
        (fractions_in_a_label, r"labelsTr/case1\.nii\.gz: a label must hold whole numbers"),
        (copy_among_the_unlabeled, r"renamed\.nii \(unlabeled\) is the same scan as .*case0\.nii\.gz \(labeled\)"),
        (training_scan_in_validation, r"case0\.nii\.gz \(validation\) is the same scan as .* would score what was"),
        (empty_folder, r"--unlabeled nothing: found no NIfTI image or folders with \.dcm files in .*nothing"),
        (no_folder, r"--unlabeled nowhere: found nothing, expected a folder with"),
        (not_a_number, r"nan\.nii\.gz: holds NaN .*--skip_broken True"),
        (constant, r"flat\.nii\.gz: every voxel is 7"),
        (two_names_for_one_scan, r"case1\.nii\.gz: found case1\.nii beside it, expected one label"),
        (value_only_in_validation, r"val/labelsTr/case0\.nii\.gz: found the values \[3\], which no labeled training"),
        (every_scan_drawn, r"--validation_share: found 0\.9 of 2 labeled scans, expected at least one to be left"),
        (too_little_memory, r"--memory 800MB: found no setting that fits"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_folder_ends_with_one_sentence_and_writes_nothing(near: Path, spoil: Any, message: str) -> None:
    assert re.search(message, refusal(**spoil(near)))


def test_all_broken_scans_are_listed_at_once(near: Path) -> None:
    truncated(near)
    four_dimensions(near)
    not_a_number(near)
    message = refusal()
    assert message.startswith("Cannot make the bundle, 3 problems found:")
    assert all(name in message for name in ("case1.nii.gz", "cine.nii.gz", "nan.nii.gz"))


def test_broken_unlabeled_scans_are_left_out_only_if_asked(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    not_a_number(near)
    make(skip_broken=True)
    assert cases("unlabeled") == ["scan0.nii.gz", "scan1.nii.gz", "scan2.nii.gz"]
    assert "nan.nii.gz is left out" in capsys.readouterr().out
    truncated(near)  # a labeled one is never left out
    with pytest.raises(InputError, match=r"case1\.nii\.gz"):
        make(name="second", skip_broken=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"name": "my/bundle"}, "found the name 'my/bundle', expected letters"),
        ({"name": "Lesion_Detection"}, "without 'detection'"),
        ({"name": "la_5"}, "is a bundle of this project"),
        ({"memory": "8"}, "--memory: found '8', expected a number with its unit"),
        ({"modality": "PET"}, "--modality: found 'PET', expected CT or MR"),
        ({"intensity_window": [5, 5]}, "expected two rising numbers"),
        ({"intensity_window": [0, 5], "modality": "MR"}, "MR has no unit"),
        ({"spacing_mm": [1, 1]}, "--spacing_mm: found"),
        ({"patch_size": [30, 32, 32]}, "--patch_size: .* multiple of 16"),
        ({"patch_size": [16, 32, 16]}, "--patch_size: .* two voxels"),
        ({"features": 0}, "--features: found 0, expected 1 or more"),
        ({"batch_size_unlabeled": -1}, "--batch_size_unlabeled: found -1, expected 0 or more"),
        ({"validation_share": 1.0}, "--validation_share: found 1.0"),
        ({"validation": "site_b", "validation_share": 0.5}, "expected one of the two"),
        ({"output": "$HOME"}, "does not begin with"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_flag_that_cannot_be_meant_is_refused(near: Path, flags: dict[str, Any], message: str) -> None:
    assert re.search(message, refusal(**flags))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["background", "$__import__('os')"], r"found the label name \"\$__import__"),
        ({"0": "air", "1": "liver"}, "found 'air' as the name of 0"),
        ({"0": "background", "1": "Liver", "2": "liver"}, "differ in lower case"),
        ({"background": 0, "liver": 1, "spleen": 1}, "found two names for the value 1"),
        ({"background": 0, "whole tumor": [1, 2]}, r"found the value \[1, 2\] for 'whole tumor'"),
        ("liver", "expected label names like"),
    ],
)
def test_label_names_that_cannot_be_used(content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_label_names(content, "names.json")


def test_label_names_in_any_of_three_forms_are_the_same() -> None:
    expected = {0: "background", 1: "liver"}
    for content in (["background", "liver"], {"1": "liver"}, {"liver": 1, "Background": 0}):
        assert read_label_names(content, "names.json") == expected


# --- copies


def test_remap_writes_labels_without_gaps_and_leaves_the_originals(near: Path) -> None:
    gap_in_the_values(near)
    (near / "names.json").write_text('{"200": "myocardium", "500": "ventricle"}')
    make(labeled="gap", remap=True, labels="names.json")
    items = load_datalist("bundles/mine/datalist.json", "training", "bundles/mine")
    copied = nib.load(items[0]["label"])
    original = nib.load(near / "gap/labelsTr/case0.nii.gz")
    expected = np.select([np.asarray(original.dataobj) == v for v in (200, 500)], [1, 2])
    np.testing.assert_array_equal(np.asarray(copied.dataobj), expected)
    np.testing.assert_array_equal(copied.affine, original.affine)
    assert items[0]["image"] == str(near / "gap/imagesTr/case0.nii.gz")
    assert train()["label_names"] == ["background", "myocardium", "ventricle"]


def test_frame_copies_one_volume_of_4d_files_only(near: Path) -> None:
    four_dimensions(near)
    make(frame=2)
    items = load_datalist("bundles/mine/datalist.json", "unlabeled", "bundles/mine")
    assert [Path(item["image"]).name for item in items][:2] == ["cine_image.nii.gz", "scan0.nii.gz"]
    np.testing.assert_array_equal(np.asarray(nib.load(items[0]["image"]).dataobj), mr(1, (*SHAPE, 3))[..., 2])


# --- guesses


def facts(**given: Any) -> ScanFacts:
    usual: dict[str, Any] = {
        "shape": (64, 64, 64), "spacing_mm": (1.0, 1.0, 1.0), "orientation": "RAS", "whole": True, "minimum": 0.0,
        "percentiles": (0.0, 50.0, 200.0), "maximum": 255.0, "border": 0.0, "checksum": "", "label_counts": None,
        "foreground": np.empty(0),
    }  # fmt: skip
    return ScanFacts(**{**usual, **given})


@pytest.mark.parametrize(
    ("given", "modality"),
    [
        ({"minimum": -1024.0}, "CT"),
        ({"minimum": -760.0, "whole": False}, "CT"),  # lung, resampled, without air
        ({"minimum": -3024.0, "border": -3024.0}, "CT"),  # padded
        ({"minimum": -32768.0, "border": -1000.0}, "CT"),  # one broken voxel in air
        ({}, "MR"),
        ({"minimum": -5.2, "whole": False}, "MR"),  # z-scored
        ({"minimum": -4096.0}, "MR"),  # phase image
    ],
)
def test_modality_follows_from_minimum_and_border(given: dict[str, Any], modality: str) -> None:
    assert guess_modality([facts(**given)]).value == modality


def test_mixed_scans_are_z_scored_and_it_is_said() -> None:
    choice = guess_modality([facts(minimum=-1000.0), facts(), facts()])
    assert choice.value == "MR" and "only 1 of 3" in choice.why


def test_window_is_the_labeled_range_and_half_of_it_on_either_side() -> None:
    # every whole HU from -100 to 300 once: 0.5 % of 400 is 2 from either end, so -98 to 298, 396 wide
    choice = guess_window([facts(foreground=np.arange(-100.0, 301.0))])
    assert choice.value == [5 * math.floor((-98 - 198) / 5), 5 * math.ceil((298 + 198) / 5)] == [-300, 500]


def test_spacing_is_the_median_and_the_tenth_percentile_across_thick_slices() -> None:
    alike = [facts(spacing_mm=(0.8, 0.9, z)) for z in (1.0, 2.0, 2.4)]
    assert guess_spacing(alike).value == [0.8, 0.9, 2.0]
    thick = [facts(spacing_mm=(0.8, 0.9, z)) for z in np.linspace(2, 12, 11)]  # median 7 is more than 3 x 0.8
    assert guess_spacing(thick).value == [0.8, 0.9, 3.0]
    assert guess_spacing([facts(spacing_mm=(0.5, 2.0, 0.6))] * 3).value == [0.5, 2.0, 0.6]


def test_mr_like_volumes_are_z_scored(near: Path) -> None:
    make()
    assert train()["intensity_transform"] == {"_target_": "NormalizeIntensityd", "keys": "image"}
    assert train()["spacing_mm"] == [1.0, 1.0, 1.0]
    # 20, 18, 22 are nearest to 16 each, of which the network would have one voxel to normalize at its deepest stage:
    # z, then x, which reach furthest beyond their sides, become 32
    assert train()["patch_size"] == [32, 16, 32]
    # 3 unlabeled in batches of 2: 300 x 2 = 600, below the least
    assert train()["max_iterations"] == 1000
    assert (train()["features"], train()["batch_size_labeled"], train()["batch_size_unlabeled"]) == (32, 2, 2)


def test_ct_like_volumes_get_a_window(near: Path) -> None:
    labeled(near / "ct_a", image=ct)
    unlabeled(near / "ct_b", image=ct)
    make(labeled="ct_a", unlabeled="ct_b")
    transform = train()["intensity_transform"]
    assert transform["_target_"] == "ScaleIntensityRanged"
    inside = [ct(i)[label(1, 2) > 0] for i in range(2)]
    low, high = np.percentile(np.concatenate(inside), (0.5, 99.5))
    assert transform["a_min"] <= low - 50 < transform["a_min"] + 5  # narrow: widened by the least, 50
    assert transform["a_max"] - 5 < high + 50 <= transform["a_max"]
    assert (
        read(Path("bundles/mine/configs/metadata.json"))["network_data_format"]["inputs"]["image"]["modality"] == "CT"
    )


def test_every_guess_can_be_overridden_and_is_in_the_configuration(near: Path) -> None:
    given: dict[str, Any] = {
        "spacing_mm": [1.5, 1.25, 2.0], "patch_size": [32, 16, 48], "features": 4, "max_iterations": 77,
        "batch_size_labeled": 1, "batch_size_unlabeled": 3,
    }  # fmt: skip
    make(**given, intensity_window=[-20, 300])
    assert {key: train()[key] for key in given} == given
    assert (train()["intensity_transform"]["a_min"], train()["intensity_transform"]["a_max"]) == (-20, 300)
    make(name="z", modality="MR")
    assert train(Path("bundles/z"))["intensity_transform"]["_target_"] == "NormalizeIntensityd"


def test_less_memory_means_smaller_settings_that_fit(near: Path) -> None:
    for folder, count, seed in (("big_a", 2, 0), ("big_b", 1, 50)):
        for i in range(count):
            save(near / folder / f"p{i}.nii.gz", mr(seed + i, (80, 64, 96)))
            if folder == "big_a":
                save(near / folder / f"p{i}_label.nii.gz", label(1, shape=(80, 64, 96)))
    used = []
    for gigabytes in (2, 4, 16):
        make(name=f"m{gigabytes}", labeled="big_a", unlabeled="big_b", memory=f"{gigabytes}GB")
        config = train(Path(f"bundles/m{gigabytes}"))
        need = estimate_bytes(config["patch_size"], config["features"], config["batch_size_labeled"], 2)
        assert need <= 0.75e9 * gigabytes
        assert all(side >= 16 * math.ceil(full / 32) for side, full in zip(config["patch_size"], (80, 64, 96)))
        used.append((config["features"], math.prod(config["patch_size"])))
    assert used[0] < used[1] <= used[2] == (32, 80 * 64 * 96)


def test_estimate_grows_with_each_of_its_arguments() -> None:
    small = estimate_bytes([32, 32, 32], 8, 1, 2)
    larger = [([32, 32, 48], 8, 1, 2), ([32, 32, 32], 16, 1, 2), ([32, 32, 32], 8, 2, 2), ([32, 32, 32], 8, 1, 3)]
    assert all(estimate_bytes(*point) > small for point in larger)


def test_memory_is_read_with_its_unit() -> None:
    assert (parse_memory("8GB"), parse_memory("0.5 gb"), parse_memory("800MB")) == (8 * 10**9, 5 * 10**8, 8 * 10**8)


# --- the split


def test_validation_share_is_drawn_by_the_seed_alone(near: Path) -> None:
    labeled(near / "ten", count=10)
    drawn = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make(name=name, labeled="ten", validation_share=0.3, seed=seed)
        content = listed(Path(f"bundles/{name}"))
        drawn[name] = [item["image"] for item in content["validation"]]
        assert len(drawn[name]) == 3 and content["seed"] == seed
        together = drawn[name] + [item["image"] for item in content["training"]]
        assert sorted(together) == [str(near / f"ten/imagesTr/case{i}.nii.gz") for i in range(10)]
    assert drawn["a"] == drawn["b"] != drawn["c"]


def test_no_unlabeled_scans_are_allowed_with_a_note(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(unlabeled="")
    assert listed()["unlabeled"] == [] and train()["batch_size_unlabeled"] == 0
    assert "no unlabeled scans" in capsys.readouterr().out


# --- the files


def test_rendered_bundle_is_faultless_and_complete(near: Path) -> None:
    bundle = make(validation_share=0.5)
    for workflow in ("train", "evaluate", "inference"):
        config = read(bundle / f"configs/{workflow}.json")
        assert check_config(config) == []
        assert (config["bundle_name"], config["num_classes"]) == ("mine", 3)
    assert check_metadata(read(bundle / "configs/metadata.json"), 3) == []
    parser = ConfigParser(train())
    assert parser.get_parsed_content("datalist") == "bundles/mine/datalist.json"
    assert read(bundle / "configs/evaluate.json")["eval_section"] == "validation"
    readme = (bundle / "docs/README.md").read_text()
    assert "python -m dtlp_components new mine --labeled site_a --unlabeled site_b --validation_share 0.5" in readme
    assert '- modality "MR": none of 4 training scans looks like HU' in readme
    assert "not known to this project" in (bundle / "docs/data_license.txt").read_text()
    assert not (RECIPES / "datasets/mine.json").exists()


def test_another_output_folder_is_found_again(near: Path) -> None:
    make(output="else where/b@c")
    parser = ConfigParser(train(Path("else where/b@c/mine")))
    datalist = parser.get_parsed_content("datalist")
    assert len(load_datalist(datalist, "unlabeled", parser.get_parsed_content("dataset_dir"))) == 3
    assert check_config(train(Path("else where/b@c/mine"))) == []


@pytest.mark.parametrize("in_repository", [True, False])
def test_pages_of_the_project_are_linked_only_where_they_are(near: Path, in_repository: bool) -> None:
    if in_repository:
        (near / "docs").mkdir()
        for name in ("method.md", "bundles.md"):
            (near / "docs" / name).touch()
    readme = make() / "docs/README.md"
    targets = re.findall(r"\]\(([^)#]+)\)", readme.read_text())
    assert [target for target in targets if not (readme.parent / target).exists()] == []
    assert ("../../../docs/method.md" in targets) == in_repository
    assert "docs/method.md" in readme.read_text()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_second_run_changes_nothing(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make()
    before = snapshot(bundle)
    (bundle / "models").mkdir()
    (bundle / "models/model.pt").write_bytes(b"weights")  # nothing is written, so they are no obstacle
    make()
    assert {k: v for k, v in snapshot(bundle).items() if k != "models/model.pt"} == before
    assert "already what this command would write" in capsys.readouterr().out


def test_bundle_of_other_content_is_overwritten_only_if_asked_and_untrained(near: Path) -> None:
    bundle = make()
    before = snapshot(bundle)
    with pytest.raises(InputError, match=r"exists with other content in configs/train\.json.*--overwrite True"):
        make(features=8)
    assert snapshot(bundle) == before
    make(features=8, overwrite=True)
    assert train()["features"] == 8
    (bundle / "models").mkdir()
    (bundle / "models/model.pt").write_bytes(b"weights")
    with pytest.raises(InputError, match=r"holds models/model\.pt, which this command did not write"):
        make(features=4, overwrite=True)
    assert train()["features"] == 8


def test_bundle_that_somebody_else_made_is_never_overwritten(near: Path) -> None:
    bundle = make()
    content = train() | {"_comment": "by hand"}
    (bundle / "configs/train.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="was not made by this command"):
        make(overwrite=True)
    assert train() == content


def test_command_line_reads_lists_numbers_and_nothing_else(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["new", "mine", "--labeled", "site_a", "--unlabeled", "site_b"]
    with pytest.raises(InputError, match=r"--patch_size: found '32x32', expected integers in quotes"):
        main([*words, "--patch_size", "32x32"])
    with pytest.raises(InputError, match=r"--features: found 8.5, expected an integer"):
        main([*words, "--features", "8.5"])
    main([*words, "--patch_size", "[32,16,32]", "--validation_share", "0.5", "--spacing_mm", "[1,1,2.5]"])
    assert train()["patch_size"] == [32, 16, 32] and train()["spacing_mm"] == [1.0, 1.0, 2.5]
    printed = capsys.readouterr().out
    for run_id, config in (("training", "train"), ("evaluating", "evaluate"), ("run", "inference")):
        assert f"python -m monai.bundle run {run_id} --config_file bundles/mine/configs/{config}.json" in printed


def test_table_counts_scans_sizes_and_millilitres(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    affine = np.array([[0, 0, 3.0, 0], [-2.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])  # stored as P, S, R
    save(near / "turned/images/a.nii.gz", mr(5), affine)
    save(near / "turned/labels/a.nii.gz", label(1), affine)
    make(labeled="turned")
    rows = {line[:10].strip(): line[11:].split() for line in capsys.readouterr().out.splitlines() if line[:10].strip()}
    # x is the third stored axis, y the first, z the second
    assert [rows[f"voxels {axis}"][0] for axis in "xyz"] == ["22", "20", "18"]
    assert [rows[f"mm {axis}"][0] for axis in "xyz"] == ["3", "2", "1"]
    assert rows["stored as"][0] == "PSR"
    # 4 x 5 x 6 voxels of 6 mm^3 are 0.72 ml
    assert any("1 of 1, 0.72" in " ".join(row) for row in rows.values())


# --- running


def run(bundle: Path, config: str, output: Path, **overrides: Any) -> None:
    work = ConfigWorkflow(
        workflow_type="train" if config == "train" else "infer",
        config_file=str(bundle / "configs" / f"{config}.json"),
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=str(bundle / "configs/logging.conf"),
        output_dir=str(output),
        device="cpu",
        **overrides,
    )
    work.initialize()
    work.run()
    work.finalize()


def test_new_bundle_trains_evaluates_and_segments(near: Path) -> None:
    labeled(near / "val", count=1, seed=30)
    bundle = make(validation="val", features=4, max_iterations=1)
    output = near / "out"
    run(bundle, "train", output, mlflow=False, ddim_steps=1, val_interval=1, monitor_cases=0)
    assert all(torch.isfinite(v).all() for v in torch.load(output / "models/model.pt", weights_only=True).values())
    run(bundle, "evaluate", output)
    with open(output / "evaluation/validation_cases.csv") as file:
        assert len(list(csv.DictReader(file))) == 1
    run(bundle, "inference", output)
    # the configuration names the folder of the unlabeled scans
    assert len(list((output / "predictions").glob("scan*_seg.nii.gz"))) == 3


def test_dicom_series_are_trained_on_and_segmented(near: Path, write_series: Any) -> None:
    write_series(near / "pacs/a", ct(80))
    labeled(near / "ct", seed=90, image=ct)
    bundle = make(labeled="ct", unlabeled="pacs", features=4, max_iterations=1)
    run(bundle, "train", near / "out", mlflow=False, ddim_steps=1)
    assert (near / "out/models/model.pt").is_file()
    run(bundle, "inference", near / "out")  # the configuration names the series
    assert (near / "out/predictions/a_seg.nii.gz").is_file()
