# SPDX-License-Identifier: Apache-2.0
"""Scans of several channels: their files, reading them, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from dtlp_components import ScanReader, find_images, scan_problems, scans_to_segment
from dtlp_components.data.channel_files import channel_files, first_channels, scan_of, split_channel
from dtlp_components.data.segmentations import PredictionNames
from dtlp_components.data.series import scan_stamp
from dtlp_components.data.volumes import read_image
from dtlp_components.errors import InputError

SHAPE = (4, 5, 6)
ENDINGS = ["t1", "t1c"]


def save(path: Path, seed: int, shape: tuple[int, ...] = SHAPE, shift: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    affine[0, 3] = shift
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def pair(folder: Path, case: str = "a") -> str:
    save(folder / f"{case}_t1c.nii.gz", 2)
    return str(save(folder / f"{case}_t1.nii.gz", 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_t1.nii.gz", ("a", "t1")),
        ("a-t1c.NII", ("a", "t1c")),
        ("t1.nii.gz", ("", "t1")),
        ("a_nott1.nii.gz", None),
        ("a_flair.nii.gz", None),
    ],
)
def test_channel_is_what_follows_a_separator(name: str, expected: tuple[str, str] | None) -> None:
    assert split_channel(name, ENDINGS) == expected


def test_files_of_a_scan_keep_their_start_and_their_ending() -> None:
    assert channel_files("x/a-t1.nii", ENDINGS) == ["x/a-t1.nii", "x/a-t1c.nii"]
    assert channel_files("x/a-t1c.nii", ENDINGS) == ["x/a-t1c.nii"]  # not the first: alone
    assert scan_of("x/a-t1c.nii", ENDINGS) == "x/a-t1.nii"
    assert scan_of("x/label.nii", ENDINGS) == "x/label.nii"


def test_scan_is_found_by_any_of_its_channels() -> None:
    files = [Path("x", name) for name in ("a_t1.nii", "a_t1c.nii", "b_t1c.nii", "c_flair.nii")]
    assert first_channels(files, ENDINGS) == [Path("x/a_t1.nii"), Path("x/b_t1.nii")]


def test_reader_stacks_the_channels_in_their_order_and_reads_a_label_alone(tmp_path: Path) -> None:
    label = str(save(tmp_path / "a_seg.nii.gz", 3))
    load = Compose([LoadImaged(["image", "label"], ScanReader(ENDINGS)), EnsureChannelFirstd(["image", "label"])])
    item = load({"image": pair(tmp_path), "label": label})
    assert item["image"].shape == (2, *SHAPE)
    assert item["label"].shape == (1, *SHAPE)
    for channel, ending in zip(item["image"], ENDINGS, strict=True):
        np.testing.assert_array_equal(channel, nib.load(tmp_path / f"a_{ending}.nii.gz").get_fdata())
    np.testing.assert_array_equal(item["image"].affine, np.diag([-1.0, 2.0, 3.0, 1.0]))


def test_fourth_axis_holds_the_channels_without_endings(tmp_path: Path) -> None:
    path = str(save(tmp_path / "a.nii.gz", 1, (*SHAPE, 3)))
    load = Compose([LoadImaged("image", ScanReader()), EnsureChannelFirstd("image")])
    assert load({"image": path})["image"].shape == (3, *SHAPE)
    assert scan_problems(path, 3) == []
    (problem,) = scan_problems(path, 2)
    assert problem == f"{path}: expected 2 channels along the fourth axis of the file, got a shape of [4, 5, 6, 3]."
    assert "expected a single 3-D volume" in scan_problems(path)[0]


def test_sound_channels_have_no_problem_and_are_described_together(tmp_path: Path) -> None:
    path = pair(tmp_path)
    found, problems = read_image(path, 2, ENDINGS)
    assert not problems
    assert found is not None
    voxels, volume = found
    assert voxels.shape == (*SHAPE, 2)
    assert (volume.channels, volume.shape) == (2, list(SHAPE))
    assert volume.minimum == pytest.approx(float(voxels.min()))
    save(tmp_path / "a_t1c.nii.gz", 5)
    other, _ = read_image(path, 2, ENDINGS)
    assert other is not None
    assert other[1].checksum != volume.checksum


def test_missing_channel_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = str(save(tmp_path / "a_t1.nii.gz", 1))
    assert scan_problems(path, 2, ENDINGS) == [
        f"{tmp_path}/a_t1c.nii.gz: no such file; expected 2 channels of this scan, got a_t1.nii.gz."
    ]


def test_channel_on_another_grid_is_named(tmp_path: Path) -> None:
    path = pair(tmp_path)
    save(tmp_path / "a_t1c.nii.gz", 2, (4, 5, 7))
    assert "a_t1c.nii.gz: expected all channels on one grid, got shape [4, 5, 7]" in scan_problems(path, 2, ENDINGS)[0]
    save(tmp_path / "a_t1c.nii.gz", 2, shift=7.0)
    assert "a_t1c.nii.gz: its affine differs from that of the first channel" in scan_problems(path, 2, ENDINGS)[0]


def test_each_channel_is_judged_by_itself(tmp_path: Path) -> None:
    path = pair(tmp_path)
    nib.save(
        nib.Nifti1Image(np.full(SHAPE, 3.0, np.float32), np.diag([-1.0, 2.0, 3.0, 1.0])), tmp_path / "a_t1c.nii.gz"
    )
    assert scan_problems(path, 2, ENDINGS) == [
        f"{tmp_path}/a_t1c.nii.gz: expected an image, got the value 3 in every voxel."
    ]


def test_stamp_changes_with_any_channel(tmp_path: Path) -> None:
    path = pair(tmp_path)
    before = scan_stamp(path, ENDINGS)
    save(tmp_path / "a_t1c.nii.gz", 2, (4, 5, 60))
    assert scan_stamp(path, ENDINGS) != before
    assert scan_stamp(path) == scan_stamp(path)


def test_scans_to_segment_are_found_once_also_in_a_folder_for_each_patient(tmp_path: Path) -> None:
    for case in "ab":
        pair(tmp_path / "flat", case)
        pair(tmp_path / "nested" / case, case)
    assert [Path(item["image"]).name for item in find_images(str(tmp_path / "flat"), ENDINGS)] == [
        "a_t1.nii.gz",
        "b_t1.nii.gz",
    ]
    nested = find_images(str(tmp_path / "nested"), ENDINGS)
    names = PredictionNames(str(tmp_path / "nested"), ENDINGS)
    assert [names.name_of(item["image"]) for item in nested] == ["a", "b"]
    assert [item["image"] for item in find_images(str(tmp_path / "flat/a_t1c.nii.gz"), ENDINGS)] == [
        str(tmp_path / "flat/a_t1.nii.gz")
    ]


def test_folder_without_these_channels_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", 1)
    with pytest.raises(InputError, match=r"expected NIfTI files ending in t1, t1c, got no scan with 2 channels"):
        find_images(str(tmp_path), ENDINGS)


def test_scan_that_lost_a_channel_is_segmented_again_to_be_named(tmp_path: Path) -> None:
    path = pair(tmp_path / "scans")
    (tmp_path / "out").mkdir()
    save(tmp_path / "out/a_seg.nii.gz", 9)
    (tmp_path / "out/segmentations.csv").write_text(f"scan,label_map\n{path},a_seg.nii.gz\n")
    arguments = (str(tmp_path / "scans"), str(tmp_path / "out"), str(tmp_path / "none"), True, ENDINGS)
    with pytest.raises(SystemExit):  # nothing is left
        scans_to_segment(*arguments)
    (tmp_path / "scans/a_t1c.nii.gz").unlink()
    assert scans_to_segment(*arguments) == [{"image": path}]


def test_channel_that_is_not_there_is_read_as_zeros_if_asked(tmp_path: Path) -> None:
    path = pair(tmp_path)
    second = nib.load(tmp_path / "a_t1c.nii.gz").get_fdata()
    (tmp_path / "a_t1.nii.gz").unlink()
    load = Compose([LoadImaged("image", ScanReader(ENDINGS, fill_missing=True)), EnsureChannelFirstd("image")])
    image = load({"image": path})["image"]
    assert not image[0].any()
    np.testing.assert_array_equal(image[1], second)
    assert scan_problems(path, 2, ENDINGS, fill_missing=True) == []
    assert scan_stamp(path, ENDINGS)["size"] == (tmp_path / "a_t1c.nii.gz").stat().st_size
    (tmp_path / "a_t1c.nii.gz").unlink()
    assert "got none of them" in scan_problems(path, 2, ENDINGS, fill_missing=True)[0]
