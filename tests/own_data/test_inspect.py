# SPDX-License-Identifier: Apache-2.0
"""What is read of a scan, along the patient's axes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.own_data.find import Scan
from dtlp_components.own_data.inspect import Content, ScanFacts, inspect_scans
from tests.own_data.scans import make, mr, refusal, save

SHAPE = (4, 5, 6)
# stored axes are the patient's z (0.5 mm), x (0.75 mm, to the left) and y (2 mm)
AFFINE = np.array([[0, -0.75, 0, 1], [0, 0, 2.0, 2], [0.5, 0, 0, 3], [0, 0, 0, 1]])


def scan(folder: Path, image: np.ndarray, label: np.ndarray | None = None) -> Scan:
    nib.save(nib.Nifti1Image(image, AFFINE), folder / "a.nii.gz")
    if label is None:
        return Scan("a", str(folder / "a.nii.gz"))
    nib.save(nib.Nifti1Image(label, AFFINE), folder / "a_label.nii.gz")
    return Scan("a", str(folder / "a.nii.gz"), str(folder / "a_label.nii.gz"))


def facts_of(found: Scan, frame: int | None = None, with_labels: bool = True) -> ScanFacts:
    ((_, facts),), broken = inspect_scans([found], Content(frame), with_labels, "")
    assert broken == {}
    return facts


def test_sizes_are_along_the_patients_axes(tmp_path: Path) -> None:
    facts = facts_of(scan(tmp_path, np.arange(120, dtype=np.int16).reshape(SHAPE)))
    assert (facts.shape, facts.spacing_mm) == ((5, 6, 4), (0.75, 2.0, 0.5))
    assert facts.orientation == "SLA"
    assert np.isclose(facts.voxel_ml, 0.75 * 2 * 0.5 / 1000)
    assert (facts.minimum, facts.maximum, facts.whole) == (0, 119, True)
    np.testing.assert_allclose(facts.percentiles, np.percentile(np.arange(120), (0.5, 50, 99.5)))


def test_labels_are_counted_and_their_intensities_kept(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[1, 2, 3], label[3, 4, 5] = 1, 2
    image = np.arange(120, dtype=np.float32).reshape(SHAPE)
    facts = facts_of(scan(tmp_path, image, label))
    assert facts.label_counts == {0: 118, 1: 1, 2: 1}
    assert sorted(facts.foreground) == [image[1, 2, 3], image[3, 4, 5]]


def test_labels_are_not_opened_unless_asked_for(tmp_path: Path) -> None:
    found = scan(tmp_path, np.arange(120, dtype=np.int16).reshape(SHAPE), np.zeros(SHAPE, np.uint8))
    Path(str(found.label)).write_text("not an image")
    assert facts_of(found, with_labels=False).label_counts is None
    good, broken = inspect_scans([found], Content(), True, "")
    assert good == []
    assert str(found.label) in broken[found.image][0]


def test_frame_of_a_4d_file_is_taken_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    frames = np.stack([np.arange(120).reshape(SHAPE), np.arange(120).reshape(SHAPE) + 7], axis=-1).astype(np.int16)
    found = scan(tmp_path, frames)
    assert facts_of(found, frame=1).minimum == 7
    _, broken = inspect_scans([found], Content(2), False, "")
    assert "--frame 2" in broken[found.image][0]


def test_same_voxels_have_the_same_checksum_whatever_their_type(tmp_path: Path) -> None:
    voxels = np.arange(120).reshape(SHAPE)
    sums = {facts_of(scan(tmp_path, voxels.astype(kind))).checksum for kind in (np.int16, np.float32)}
    assert len(sums) == 1
    assert facts_of(scan(tmp_path, (voxels + 1).astype(np.int16))).checksum not in sums


@pytest.mark.parametrize("image", ["itself", "of 8 bits"])
def test_image_where_a_label_should_be_is_refused(near: Path, image: str) -> None:
    rounded = mr(0).round()
    save(near / "odd/imagesTr/a.nii.gz", rounded)
    voxels = rounded if image == "itself" else (mr(5) / mr(5).max() * 255).astype(np.uint8)
    save(near / "odd/labelsTr/a.nii.gz", voxels)
    message = refusal(labeled="odd")
    expected = "got the image itself" if image == "itself" else "values that differ from voxel to voxel as in an image"
    assert expected in message


def test_label_of_many_structures_is_none(near: Path) -> None:
    save(near / "many/imagesTr/a.nii.gz", mr(0))
    save(
        near / "many/labelsTr/a.nii.gz",
        np.repeat(np.arange(44), 180).reshape(18, 20, 22).swapaxes(0, 1).astype(np.uint8),
    )
    make(labeled="many")


def test_centers_of_labels_are_shares_of_the_sides(tmp_path: Path) -> None:
    voxels = np.zeros((10, 20, 30), np.int16)
    voxels[2:4, 10:12, 20:22] = 300  # a number that is no class
    voxels[8, 5, 15] = 2
    for axcodes, flips in (("RAS", (1, 1, 1)), ("LPS", (-1, -1, 1))):
        stored = voxels[:: flips[0], :: flips[1], :: flips[2]]
        nib.save(nib.Nifti1Image(stored, np.diag([*flips, 1.0])), tmp_path / f"{axcodes}_label.nii.gz")
        image = np.random.default_rng(0).normal(size=voxels.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.diag([*flips, 1.0])), tmp_path / f"{axcodes}.nii.gz")
        found = Scan("a", str(tmp_path / f"{axcodes}.nii.gz"), str(tmp_path / f"{axcodes}_label.nii.gz"))
        ((_, facts),), _ = inspect_scans([found], Content(), True, "")
        assert facts.centers[300] == pytest.approx((2.5 / 10, 10.5 / 20, 20.5 / 30))
        assert facts.centers[2] == pytest.approx((8 / 10, 5 / 20, 15 / 30))
