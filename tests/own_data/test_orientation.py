# SPDX-License-Identifier: Apache-2.0
"""Scans that lie mirrored to others: found by labels or by brightness, and only where files do not say how they lie."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.keys import DatalistKeys as Keys
from dtlp_components.own_data.find import Scan
from dtlp_components.own_data.inspect import Content, ScanFacts, inspect_scans, is_oriented
from dtlp_components.own_data.orientation import mirrored_axes, orientation_notes

SHAPE = (20, 24, 16)
BARE = np.diag([1.5, 1.5, 8.0, 1.0])
PLACED = np.array([[1.5, 0, 0, -80], [0, 1.5, 0, 40], [0, 0, 8, 300], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("affine", "said"),
    [
        (BARE, False),
        (np.diag([-1.5, -1.5, 8.0, 1.0]), False),
        (np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1.0]]), False),
        (PLACED, True),
        (BARE[[1, 0, 2, 3]], True),
        (np.array([[1.4, 0.2, 0, 0], [-0.2, 1.4, 0, 0], [0, 0, 8, 0], [0, 0, 0, 1.0]]), True),
    ],
    ids=["identity", "LPS", "counted from 1", "placed", "axes exchanged", "rotated"],
)
def test_file_says_how_the_patient_lies_if_its_affine_is_not_the_default(affine: np.ndarray, said: bool) -> None:
    assert is_oriented(affine) is said


def write_group(
    folder: Path, count: int, mirrored: int | None = None, affine: np.ndarray = BARE, bright: bool = True
) -> list[Scan]:
    """Scans that get brighter along y, with label 1 before label 2 along x; one axis may be turned around."""
    folder.mkdir()
    rng, scans = np.random.default_rng(ord(folder.name)), []
    for i in range(count):
        image = rng.normal(0, 1, SHAPE) + (np.linspace(0, 3, SHAPE[1])[:, None] if bright else 0)
        label = np.zeros(SHAPE)
        label[3:8, 8:14, 4:9], label[12:17, 8:14, 4:9] = 1, 2
        if mirrored is not None:
            image, label = np.flip(image, mirrored), np.flip(label, mirrored)
        paths = [str(folder / f"{i}{end}.nii.gz") for end in ("", "_label")]
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), paths[0])
        nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), paths[1])
        scans.append(Scan(str(i), paths[0], paths[1]))
    return scans


def facts(scans: list[Scan], with_labels: bool = True) -> list[tuple[Scan, ScanFacts]]:
    good, broken = inspect_scans(scans, Content(), with_labels, "reading")
    assert not broken
    return good


@pytest.mark.parametrize("with_labels", [True, False])
def test_groups_that_lie_alike_are_not_called_mirrored(tmp_path: Path, with_labels: bool) -> None:
    first, second = (facts(write_group(tmp_path / name, 6), with_labels) for name in "ab")
    assert mirrored_axes([f for _, f in first], [f for _, f in second]) == {}


def test_order_of_labels_shows_a_mirrored_group(tmp_path: Path) -> None:
    first = facts(write_group(tmp_path / "a", 6))
    second = facts(write_group(tmp_path / "b", 6, mirrored=0))
    assert mirrored_axes([f for _, f in first], [f for _, f in second]) == {0: "labels 1 and 2 are in reverse order"}


def test_course_of_brightness_shows_it_without_labels(tmp_path: Path) -> None:
    first = facts(write_group(tmp_path / "a", 6))
    second = facts(write_group(tmp_path / "b", 6, mirrored=1), with_labels=False)
    (axis,) = found = mirrored_axes([f for _, f in first], [f for _, f in second])
    assert axis == 1
    assert found[1].startswith("the brightness profile along this axis is reversed (correlation -")


def test_scans_without_a_direction_or_too_few_show_nothing(tmp_path: Path) -> None:
    noise = facts(write_group(tmp_path / "a", 6, bright=False), with_labels=False)
    turned = facts(write_group(tmp_path / "b", 6, mirrored=1, bright=False), with_labels=False)
    assert mirrored_axes([f for _, f in noise], [f for _, f in turned]) == {}
    few = facts(write_group(tmp_path / "c", 4))
    assert mirrored_axes([f for _, f in few], [f for _, f in few]) == {}


def test_notes_count_the_scans_and_name_the_way_out(tmp_path: Path) -> None:
    groups = {
        Keys.TRAINING: facts(write_group(tmp_path / "a", 6)),
        Keys.UNLABELED: facts(write_group(tmp_path / "b", 7, mirrored=1), with_labels=False),
        Keys.VALIDATION: [],
    }
    first, second = orientation_notes(groups)
    assert "6 of 6 labeled, 7 of 7 unlabeled" in first
    assert "see below" in first
    assert second.startswith(
        "The unlabeled scans seem to be mirrored back to front relative to the labeled ones: the brightness"
    )
    assert '--mirror_axes "[1]"' in second


def test_files_that_say_how_they_lie_are_believed(tmp_path: Path) -> None:
    groups = {
        Keys.TRAINING: facts(write_group(tmp_path / "a", 6, affine=PLACED)),
        Keys.UNLABELED: facts(write_group(tmp_path / "b", 6, mirrored=1, affine=PLACED), with_labels=False),
    }
    assert orientation_notes(groups) == []


def test_bare_files_that_lie_alike_get_one_note(tmp_path: Path) -> None:
    groups = {
        Keys.TRAINING: facts(write_group(tmp_path / "a", 6)),
        Keys.UNLABELED: facts(write_group(tmp_path / "b", 6), with_labels=False),
    }
    (note,) = orientation_notes(groups)
    assert "no sign of this was found" in note


def test_stored_order_of_axes_does_not_matter(tmp_path: Path) -> None:
    (scan,) = write_group(tmp_path / "a", 1)
    (plain,) = facts([scan])
    for path in (scan.image, str(scan.label)):
        file = nib.load(path)
        turned = nib.Nifti1Image(np.flip(np.asarray(file.dataobj), 1), BARE @ np.array(
            [[1, 0, 0, 0], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]]
        ))  # fmt: skip
        nib.save(turned, path)
    (again,) = facts([scan])
    np.testing.assert_allclose(again[1].profiles, plain[1].profiles, atol=1e-5)
    for value, center in plain[1].centers.items():
        assert again[1].centers[value] == pytest.approx(center)
