# SPDX-License-Identifier: Apache-2.0
"""Channel files are channels of one scan, not scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

from dtlp_components.own_data.channels import channel_names, modality_of, one_channel
from tests.own_data.scans import cases, label, listed, make, mr, refusal, save, train


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
    assert one_channel(files(*stems), labels, None, channels) == files(*stems)


@pytest.mark.parametrize(("labels", "channels"), [(("a",), 0), ((), 2)])
def test_one_scan_has_channels_if_its_label_or_the_list_of_channels_says_so(labels: Any, channels: int) -> None:
    assert one_channel(files("a_0000", "a_0001"), labels, 0, channels) == files("a_0000")


def test_nobody_has_said_which_channel(near: Path) -> None:
    for case in "ab":
        for channel in range(2):
            save(near / f"site_b/{case}_000{channel}.nii.gz", mr(channel))
    message = refusal()
    assert "found 2 scans in files of several channels (a_0000.nii.gz, a_0001.nii.gz), expected one channel" in message
    assert "--frame 0 takes a_0000" in message


def test_scan_that_lacks_the_channel_is_named() -> None:
    with pytest.raises(SystemExit, match=r"--frame 2 takes a_0002, which is not there"):
        one_channel(TWO, (), 2, 0)


def test_second_channel_of_nnunets_raw_data_is_trained_on(near: Path) -> None:
    for case in "ab":
        for channel in range(2):
            save(near / f"raw/imagesTr/{case}_000{channel}.nii.gz", mr(10 * channel + ord(case)))
        save(near / f"raw/labelsTr/{case}.nii.gz", label(1, 2))
    (near / "raw/dataset.json").write_text('{"channel_names": {"0": "T1", "1": "CT"}}')
    assert "found 2 channels (T1, CT)" in refusal(labeled="raw")
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
