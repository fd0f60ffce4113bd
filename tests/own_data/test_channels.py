# SPDX-License-Identifier: Apache-2.0
"""Channel files are channels of one scan, not scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from dtlp_components.deploy.segment import segment_scans
from dtlp_components.errors import InputError
from dtlp_components.own_data.channels import (
    Channels,
    channel_names,
    channels_of_lists,
    modality_of,
    numbered_channels,
    one_channel,
    read_channels,
)
from tests.own_data.scans import cases, label, listed, make, mr, read, refusal, run, save, train


def files(*stems: str) -> list[Path]:
    return [Path("images", f"{stem}.nii.gz") for stem in stems]


TWO = files("a_0000", "a_0001", "b_0000", "b_0001")


@pytest.mark.parametrize(("frame", "taken"), [(0, ["a_0000", "b_0000"]), (1, ["a_0001", "b_0001"])])
def test_one_channel_of_every_scan_is_taken(frame: int, taken: list[str]) -> None:
    assert one_channel(TWO, (), frame, 0) == files(*taken)


@pytest.mark.parametrize(
    ("stems", "labels", "channels"),
    [
        (("a_0000", "b_0000"), (), 0),  # one channel each
        (("scan_0001", "scan_0002", "scan_0003"), (), 0),  # numbered
        (("scan_0000", "scan_0001"), (), 0),  # numbered from 0
        (("scan_0000", "scan_0001"), ("scan_0000", "scan_0001"), 0),  # the labels say so
        (("a_0001", "a_0002", "b_0001", "b_0002"), (), 0),  # nnU-Net counts from 0
        (("a", "b"), (), 2),
    ],
)
def test_numbered_scans_are_scans(stems: tuple[str, ...], labels: tuple[str, ...], channels: int) -> None:
    assert numbered_channels(files(*stems), labels, channels) == {}
    assert one_channel(files(*stems), labels, 0, channels) == files(*stems)


@pytest.mark.parametrize(("labels", "channels"), [(("a",), 0), ((), 2)])
def test_one_scan_has_channels_if_its_label_or_the_list_of_channels_says_so(labels: Any, channels: int) -> None:
    assert one_channel(files("a_0000", "a_0001"), labels, 0, channels) == files("a_0000")


def test_channels_that_the_labeled_scans_do_not_have_are_refused(near: Path) -> None:
    for case in "ab":
        for channel in range(2):
            save(near / f"site_b/{case}_000{channel}.nii.gz", mr(channel))
    (near / "site_b/scan0.nii.gz").unlink()
    assert "--unlabeled site_b: expected 1 channel as in the labeled scans, got 2 channels (0000, 0001)" in refusal()


def test_scan_that_lacks_the_channel_is_named() -> None:
    with pytest.raises(SystemExit, match=r"--frame 2: expected a channel that all 2 scans have, but a_0002"):
        one_channel(TWO, (), 2, 0)


def test_second_channel_of_nnunets_raw_data_is_trained_on(near: Path) -> None:
    for case in "ab":
        for channel in range(2):
            save(near / f"raw/imagesTr/{case}_000{channel}.nii.gz", mr(10 * channel + ord(case)))
        save(near / f"raw/labelsTr/{case}.nii.gz", label(1, 2))
    (near / "raw/dataset.json").write_text('{"channel_names": {"0": "T1", "1": "CT"}}')
    make(labeled="raw", frame=1)
    assert cases("training") == ["a_0001.nii.gz", "b_0001.nii.gz"]
    assert [Path(item["label"]).name for item in listed()["training"]] == ["a.nii.gz", "b.nii.gz"]
    assert "ScaleIntensityRanged" in str(train()["intensity_transform"])  # CT, as dataset.json says of that channel


def test_first_volume_of_a_set_of_four_channels_is_taken(near: Path) -> None:
    for case in "ab":
        save(near / f"msd/imagesTr/{case}.nii.gz", mr(ord(case), (20, 18, 22, 4)))
        save(near / f"msd/labelsTr/{case}.nii.gz", label(1, 2))
    (near / "msd/dataset.json").write_text('{"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}')
    bundle = make(labeled="msd", frame=0)
    assert cases("training") == ["a_image.nii.gz", "b_image.nii.gz"]
    assert nib.load(bundle / listed()["training"][0]["image"]).shape == (20, 18, 22)


@pytest.mark.parametrize(
    ("content", "frame", "modality"),
    [
        ({"channel_names": {"0": "CT"}}, None, "CT"),
        ({"modality": {"0": "MRI"}}, None, "MR"),
        ({"modality": ["ct "]}, 0, "CT"),
        ({"channel_names": {"0": "T1", "1": "CT"}}, 1, "CT"),
        ({"channel_names": {"0": "T1"}}, None, ""),
        ({"channel_names": {"0": "CT"}}, 3, ""),
        ({}, None, ""),
        ({"modality": None}, None, ""),
    ],
)
def test_modality_is_what_the_channel_is_called(content: dict[str, Any], frame: int | None, modality: str) -> None:
    assert modality_of(channel_names(content), frame) == modality


# --- several channels


def raw(folder: Path, count: int = 2, unlabeled: int = 0) -> Path:
    """nnU-Net's layout with two channels."""
    for case in range(count):
        save(folder / f"labelsTr/p{case}.nii.gz", label(1, 2))
    for case in range(count + unlabeled):
        place = "imagesTr" if case < count else "unlabeled"
        for channel in range(2):
            save(folder / f"{place}/p{case}_000{channel}.nii.gz", mr(10 * case + channel + 50))
    (folder / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "FLAIR"}}')
    return folder


def test_all_channels_of_nnunets_layout_are_trained_on(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw(near / "raw", unlabeled=3)
    bundle = make(labeled="raw", unlabeled="raw/unlabeled")
    assert (train()["in_channels"], train()["channels"]) == (2, ["0000", "0001"])
    assert cases("training") == ["p0_0000.nii.gz", "p1_0000.nii.gz"]
    assert cases("unlabeled") == [f"p{i}_0000.nii.gz" for i in (2, 3, 4)]
    assert train()["intensity_transform"]["channel_wise"]
    metadata = read(bundle / "configs/metadata.json")["network_data_format"]["inputs"]["image"]
    assert (metadata["num_channels"], metadata["modality"]) == (2, "T1, FLAIR")
    assert metadata["channel_def"] == {"0": "0000", "1": "0001"}
    assert "Every image has 2 channels, in files ending in 0000, 0001" in capsys.readouterr().out


def test_every_scan_that_lacks_a_channel_is_named_at_once(near: Path) -> None:
    raw(near / "raw", count=3)
    for case in (0, 2):
        (near / f"raw/imagesTr/p{case}_0001.nii.gz").unlink()
    message = refusal(labeled="raw", unlabeled="")
    for case in (0, 2):
        assert f"p{case}_0001.nii.gz: no such file; expected 2 channels of this scan, got p{case}_0000" in message


def test_fourth_axis_is_that_of_channels_if_a_dataset_json_or_the_user_says_so(near: Path) -> None:
    for case in "ab":
        save(near / f"msd/imagesTr/{case}.nii.gz", mr(ord(case), (20, 18, 22, 2)))
        save(near / f"msd/labelsTr/{case}.nii.gz", label(1, 2))
    message = refusal(labeled="msd", unlabeled="")
    assert "--channels 2 uses all of them as channels of the image; --frame 0 to 1 picks one" in message
    make(labeled="msd", unlabeled="", channels="2")
    assert (train()["in_channels"], train()["channels"]) == (2, [])
    (near / "msd/dataset.json").write_text('{"modality": {"0": "T1", "1": "T2"}}')
    make(name="other", labeled="msd", unlabeled="")
    assert train(Path("bundles/other"))["in_channels"] == 2


def test_datalist_with_a_list_of_files_for_each_scan(near: Path) -> None:
    for case in "ab":
        for channel in ("t1", "t2"):
            save(near / f"scans/{case}-{channel}.nii.gz", mr(ord(case) + len(channel)))
        save(near / f"scans/{case}-seg.nii.gz", label(1, 2))
    save(near / "scans/a-t2.nii.gz", mr(7))
    items = [
        {"image": [f"scans/{case}-t1.nii.gz", f"scans/{case}-t2.nii.gz"], "label": f"scans/{case}-seg.nii.gz"}
        for case in "ab"
    ]
    (near / "list.json").write_text(json.dumps({"training": items}))
    make(labeled="list.json", unlabeled="")
    assert (train()["in_channels"], train()["channels"]) == (2, ["t1", "t2"])
    assert cases("training") == ["a-t1.nii.gz", "b-t1.nii.gz"]


@pytest.mark.parametrize(
    "images",
    [
        [["a_t1.nii", "a_t2.nii"], ["b_t1.nii", "b_flair.nii"]],
        [["x/a_t1.nii", "y/a_t2.nii"]],
        [["a.nii", "a.nii"]],
        [[]],
        [["a_t1.nii", 3]],
    ],
)
def test_lists_whose_names_do_not_tell_channels_are_refused(images: list[Any]) -> None:
    with pytest.raises(InputError, match=r"list: expected the channel files of a scan to have names that differ only"):
        channels_of_lists([{"image": image} for image in images], "list")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("4", Channels(4)),
        ("t1,t2, flair", Channels(3, ("t1", "t2", "flair"))),
        ("_0000,_0001", Channels(2, ("0000", "0001"))),
        ("-t1n", Channels(1, ("t1n",))),
    ],
)
def test_flag_names_endings_or_counts(text: str, expected: Channels | None) -> None:
    assert read_channels(text) == expected


@pytest.mark.parametrize("text", ["0", "t1,", "t1,t1", "t1,$x", "@t1"])
def test_flag_that_names_neither_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--channels: expected"):
        read_channels(text)


@pytest.mark.slow
@pytest.mark.parametrize("fourth_axis", [False, True])
def test_bundle_of_two_channels_trains_evaluates_and_segments(near: Path, fourth_axis: bool) -> None:
    raw(near / "raw", unlabeled=2)
    if fourth_axis:
        for first in near.rglob("*_0000.nii.gz"):
            second = Path(str(first).replace("_0000", "_0001"))
            both = np.stack([nib.load(file).get_fdata(dtype=np.float32) for file in (first, second)], axis=-1)
            save(Path(str(first).replace("_0000", "")), both)
            first.unlink()
            second.unlink()
    channels = "2" if fourth_axis else ""
    bundle = make(
        labeled="raw", unlabeled="raw/unlabeled", channels=channels, channel_dropout=0.5, features=4, max_iterations=1
    )
    if not fourth_axis:
        (near / "raw/unlabeled/p3_0000.nii.gz").unlink()
    run(bundle, "train", near / "out", mlflow=False, ddim_steps=1)
    weights_file = near / "out/models/model.pt"
    weights = torch.load(weights_file, weights_only=True)
    assert weights["stem.0.0.weight"].shape[1] == 2
    run(bundle, "evaluate", near / "out", eval_section="training")
    assert (near / "out/evaluation/training_native_cases.csv").is_file()
    segment_scans(str(bundle), str(near / "raw/unlabeled"), str(near / "out/predictions"), model_file=str(weights_file),
            preview=True)  # fmt: skip
    assert len(list((near / "out/predictions/pictures").glob("*.png"))) == 2
    assert sorted(file.name for file in (near / "out/predictions").glob("*_seg.nii.gz")) == [
        "p2_seg.nii.gz",
        "p3_seg.nii.gz",
    ]
