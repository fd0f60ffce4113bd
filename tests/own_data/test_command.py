# SPDX-License-Identifier: Apache-2.0
"""A bundle from a user's own folders: what is refused and how, and that it runs."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from dtlp_components.cli import main
from dtlp_components.errors import InputError
from dtlp_components.own_data import plan
from dtlp_components.own_data.find import Scan as FoundScan
from dtlp_components.own_data.inspect import Content, inspect_scans
from dtlp_components.own_data.plan import Choice
from tests.own_data.scans import (
    SHAPE,
    cases,
    ct,
    four_dimensions,
    gap_in_the_values,
    label,
    labeled,
    listed,
    make,
    mr,
    read,
    refusal,
    run,
    save,
    train,
)

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI tries it before pydicom


# --- DICOM


def test_every_folder_with_dicom_is_one_scan(near: Path, write_series: Any) -> None:
    series = [write_series(near / f"pacs/patient{i}/series", ct(80 + i)) for i in range(2)]
    labeled(near / "ct", seed=90, image=ct)
    (near / "pacs/patient1/series/notes.txt").write_text("not a slice")
    make(labeled="ct", unlabeled="pacs")
    assert [item["image"] for item in listed()["unlabeled"]] == [str(folder) for folder in series]
    found, broken = inspect_scans([FoundScan("a", str(series[0]))], Content(), False, "")
    assert broken == {}
    # columns are x
    assert found[0][1].spacing_mm == pytest.approx((0.75, 0.5, 2.0))
    assert found[0][1].shape == SHAPE
    assert found[0][1].orientation == "LPS"
    assert read(Path("bundles/mine/configs/inference.json"))["input"] == str(near / "pacs")


def test_missing_slice_is_named(near: Path, write_series: Any) -> None:
    folder = write_series(near / "pacs/series", ct(80))
    (folder / "slice07.dcm").unlink()
    message = refusal(unlabeled="pacs")
    assert "1 missing, first from slice06.dcm to slice08.dcm (4 mm)" in message


def test_two_series_in_one_folder_are_two_scans(near: Path, write_series: Any) -> None:
    folder = write_series(near / "pacs/series", ct(80))
    for file in write_series(near / "second", ct(81)).iterdir():
        file.rename(folder / f"b_{file.name}")
    labeled(near / "ct", seed=90, image=ct)
    make(labeled="ct", unlabeled="pacs")
    assert [Path(item["image"]).name for item in listed()["unlabeled"]] == ["b_slice00.dcm", "slice00.dcm"]


def test_labeled_dicom_is_refused(near: Path) -> None:
    (near / "pacs").mkdir()
    (near / "pacs/a.dcm").write_bytes(b"")
    assert "only unlabeled scans may be DICOM" in refusal(labeled="pacs")


def test_missing_dicom_package_is_named_with_its_command(near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (near / "pacs").mkdir()
    (near / "pacs/a.dcm").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "reading it requires pydicom: pip install" in refusal(unlabeled="pacs")


@pytest.mark.parametrize("output", ["$HOME", "@x", "%x", "a#1", "it's # here"])
def test_folder_of_the_bundle_is_the_one_that_was_typed(near: Path, output: str) -> None:
    assert make(output=output) == Path(output, "mine")
    parser = ConfigParser(train(Path(output, "mine")))
    assert parser.get_parsed_content("datalist") == f"{output}/mine/datalist.json"
    assert Path(parser.get_parsed_content("datalist")).is_file()


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
        (no_labels, r"--labeled site_a: expected labels in labelsTr .* got 2 images and no labels"),
        (one_label_missing, r"case1\.nii\.gz: expected a label in --labeled, got none\. To use it without"),
        (label_without_an_image, r"labelsTr: expected .* got labels without an image: case7\.nii\.gz"),
        (one_value_in_the_only_label, r"expected at least one .*case0\.nii\.gz has only the value 0"),
        (all_labels_empty, r"all 2 labels have only the value 0"),
        (
            names_that_do_not_cover,
            r"case1\.nii\.gz: expected only the values \[0, 1\], got \[2\]\. Other values are not in --labels",
        ),
        (
            gap_in_the_values,
            r"from 0 to 2 without gaps, got \[0, 200, 500\].*--remap True .* 200 to 1, 500 to 2, or use --labels",
        ),
        (
            four_dimensions,
            r"cine\.nii\.gz: expected a single 3-D volume, got a shape of \[20, 18, 22, 3\].*--frame 0 to 2",
        ),
        (frame_out_of_range, r"cine\.nii\.gz: expected more than 3 volumes for --frame 3 .*, got 3 \(4-D\)"),
        (
            other_shape,
            r"labelsTr/case1\.nii\.gz: expected the label on .*, got shape \[19, 18, 22\], but \[20, 18, 22\] in",
        ),
        (other_affine, r"labelsTr/case1\.nii\.gz: its affine differs .* up to 21 voxels apart"),
        (truncated, r"imagesTr/case1\.nii\.gz: truncated, damaged or not an image \(EOFError"),
        (fractions_in_a_label, r"labelsTr/case1\.nii\.gz: expected integers of at least 0, got the values \[0\.5\]"),
        (copy_among_the_unlabeled, r"renamed\.nii \(unlabeled\) duplicates .*case0\.nii\.gz \(labeled\)"),
        (training_scan_in_validation, r"case0\.nii\.gz \(validation\) duplicates .* would leak training data"),
        (empty_folder, r"--unlabeled nothing: no NIfTI image and no DICOM series in .*nothing; expected"),
        (no_folder, r"--unlabeled nowhere: no such folder; expected a folder with"),
        (not_a_number, r"nan\.nii\.gz: expected finite numbers.*--skip_broken True"),
        (constant, r"flat\.nii\.gz: expected an image, got the value 7"),
        (two_names_for_one_scan, r"case1\.nii\.gz: expected one label per scan, got case1\.nii in the same"),
        (
            value_only_in_validation,
            r"val/labelsTr/case0\.nii\.gz: expected the values .* of the labeled training scans, got also \[3\]",
        ),
        (every_scan_drawn, r"--validation_share: expected .* at least one scan for training, got 0\.9 of 2 labeled"),
        (too_little_memory, r"--memory 800MB: no combination of settings fits"),
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
    assert message.startswith("Cannot create the bundle, 3 problems found:")
    assert all(name in message for name in ("case1.nii.gz", "cine.nii.gz", "nan.nii.gz"))


def test_broken_unlabeled_scans_are_left_out_only_if_asked(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    not_a_number(near)
    make(skip_broken=True)
    assert cases("unlabeled") == ["scan0.nii.gz", "scan1.nii.gz", "scan2.nii.gz"]
    assert "nan.nii.gz was left out" in capsys.readouterr().out
    truncated(near)  # a labeled one is never left out
    with pytest.raises(InputError, match=r"case1\.nii\.gz"):
        make(name="second", skip_broken=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"name": "my/bundle"},
            "NAME: expected letters, digits, _ and -, beginning with a letter or digit, got 'my/bundle'",
        ),
        ({"name": "Lesion_Detection"}, "without 'detection'"),
        ({"name": "la_5"}, "that no bundle of this project has"),
        ({"memory": "8"}, "--memory: expected a number with its unit, such as 8GB or 800MB, got '8'"),
        ({"modality": "PET"}, "--modality: expected CT or MR, got 'PET'"),
        ({"intensity_window": [5, 5]}, "expected two increasing numbers"),
        ({"intensity_window": [0, 5], "modality": "MR"}, "expected --modality CT, got MR"),
        ({"spacing_mm": [1, 1]}, "--spacing_mm: expected a list of 3 numbers"),
        ({"patch_size": [30, 32, 32]}, "--patch_size: expected multiples of 16"),
        ({"patch_size": [16, 32, 16]}, "--patch_size: .* two voxels"),
        ({"features": 0}, "--features: expected an integer of at least 1, got 0"),
        ({"batch_size_unlabeled": -1}, "--batch_size_unlabeled: expected an integer of at least 0, got -1"),
        ({"validation_share": 1.0}, "--validation_share: expected a fraction of at least 0 and less than 1, got 1.0"),
        (
            {"validation": "site_b", "validation_share": 0.5},
            "expected either --validation or --validation_share, got both",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_flag_that_cannot_be_meant_is_refused(near: Path, flags: dict[str, Any], message: str) -> None:
    assert re.search(message, refusal(**flags))


# --- the files


def test_command_line_reads_lists_numbers_and_nothing_else(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["new", "mine", "--labeled", "site_a", "--unlabeled", "site_b"]
    with pytest.raises(InputError, match=r"--patch_size: expected integers in quotes, .* got '32x32'"):
        main([*words, "--patch_size", "32x32"])
    with pytest.raises(InputError, match=r"--features: expected an integer, got 8.5"):
        main([*words, "--features", "8.5"])
    main([*words, "--patch_size", "[32,16,32]", "--validation_share", "0.5", "--spacing_mm", "[1,1,2.5]"])
    assert train()["patch_size"] == [32, 16, 32]
    assert train()["spacing_mm"] == [1.0, 1.0, 2.5]
    printed = capsys.readouterr().out
    for run_id, config in (("training", "train"), ("evaluating", "evaluate"), ("run", "inference")):
        assert f"python -m monai.bundle run {run_id} --config_file bundles/mine/configs/{config}.json" in printed


# --- running


@pytest.mark.slow
def test_new_bundle_trains_evaluates_and_segments(near: Path) -> None:
    labeled(near / "val", count=1, seed=30)
    bundle = make(validation="val", features=4, max_iterations=1)
    output = near / "out"
    run(bundle, "train", output, mlflow=False, ddim_steps=1, val_interval=1, monitor_cases=0)
    assert all(torch.isfinite(v).all() for v in torch.load(output / "models/model.pt", weights_only=True).values())
    run(bundle, "evaluate", output)
    with open(output / "evaluation/validation_native_cases.csv") as file:
        assert len(list(csv.DictReader(file))) == 1
    run(bundle, "inference", output)
    # the configuration names the folder of the unlabeled scans
    assert len(list((output / "predictions").glob("scan*_seg.nii.gz"))) == 3


@pytest.mark.slow
def test_dicom_series_are_trained_on_and_segmented(near: Path, write_series: Any) -> None:
    write_series(near / "pacs/a", ct(80))
    labeled(near / "ct", seed=90, image=ct)
    bundle = make(labeled="ct", unlabeled="pacs", features=4, max_iterations=1)
    run(bundle, "train", near / "out", mlflow=False, ddim_steps=1)
    assert (near / "out/models/model.pt").is_file()
    run(bundle, "inference", near / "out")  # the configuration names the series
    assert (near / "out/predictions/a_seg.nii.gz").is_file()


def test_first_command_is_a_try_of_half_an_hour_after_how_long_a_training_takes(
    near: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    printed = capsys.readouterr().out
    length, commands = printed.split("Next commands, to run from this folder (the first is a half-hour trial run):")
    assert "1000 iterations will take about " in length
    first = commands.split("\n")[1].split()
    assert first[:5] == ["python", "-m", "dtlp_components", "train", "bundles/mine"]
    assert first[5:] == ["--hours", "0.5", "--output_dir", "bundles/mine/try"]


def test_disk_that_the_scans_need_is_said_and_missed(
    near: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended = Choice("$@bundle_root + '/cache'", "they are large")
    monkeypatch.setattr(plan, "_choose_cache", lambda *_: {"cache_dir": pretended})
    make()
    assert train()["cache_dir"] == pretended.value
    assert "The first training run writes a" in capsys.readouterr().out
    monkeypatch.setattr("dtlp_components.own_data.command.cached_bytes", lambda *_: 10**18)
    make(name="other")
    printed = capsys.readouterr().out
    assert "The preprocessed scans need 1e+09 GB of disk" in printed
    assert "train with a --cache_dir on another disk" in printed
