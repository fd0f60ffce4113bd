# SPDX-License-Identifier: Apache-2.0
"""An image and its label: compared, counted and described."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.datasets.pairs import (
    common_affine,
    count_labels,
    describe_converted,
    describe_pair,
    label_extent,
    load_pair,
)
from dtlp_components.errors import InputError
from dtlp_components.files import sha256

SHAPE = (4, 5, 6)
NAMES = {"0": "background", "1": "liver"}


def write(folder: Path, label: np.ndarray | None = None, affine: np.ndarray | None = None) -> tuple[Path, Path]:
    image = np.arange(120, dtype=np.int16).reshape(SHAPE)
    if label is None:
        label = (image > 100).astype(np.uint8)
    spaced = np.diag([1.0, 2.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(image, spaced), folder / "a.nii.gz")
    nib.save(nib.Nifti1Image(label, spaced if affine is None else affine), folder / "b.nii.gz")
    return folder / "a.nii.gz", folder / "b.nii.gz"


def test_pair_is_described(tmp_path: Path) -> None:
    image, label = write(tmp_path)
    described = describe_pair(image, label, NAMES, lambda file, voxels, affine: [[0, 1], [2, 3], [4, 5]])
    assert described == {
        "shape": [4, 5, 6],
        "spacing_mm": [1.0, 2.0, 3.0],
        "label_counts": {"0": 101, "1": 19},
        "published_box": [[0, 1], [2, 3], [4, 5]],
        "sha256": {"image": sha256(image), "label": sha256(label)},
    }


def test_label_of_no_class_is_refused(tmp_path: Path) -> None:
    image, label = write(tmp_path, np.full(SHAPE, 2, np.uint8))
    with pytest.raises(InputError, match=r"b\.nii\.gz: expected only the values \[0, 1\], got \[2\]"):
        describe_pair(image, label, NAMES)


def test_lost_origin_is_mended_and_other_axes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    moved, turned = affine.copy(), np.diag([-1.0, 2.0, 3.0, 1.0])
    moved[:3, 3] = [0, 0, 30]
    image, label = write(tmp_path, affine=moved)
    voxels, labels, common = load_pair(image, label)
    np.testing.assert_array_equal(common, affine)
    assert voxels.shape == labels.shape == SHAPE
    assert "its origin differs from that of a.nii.gz, which is used for both" in "".join(capsys.readouterr())
    with pytest.raises(InputError, match=r"expected the axes of a.nii.gz"):
        common_affine(SHAPE, image, affine, label, turned)


def test_values_are_counted_and_unknown_ones_named() -> None:
    voxels = np.array([0, 0, 1])
    assert count_labels(Path("x"), voxels, {"0": "a", "1": "b", "2": "c"}) == {"0": 2, "1": 1, "2": 0}
    with pytest.raises(InputError, match=r"x: expected only the values .*, got \[1\]"):
        count_labels(Path("x"), voxels, {"0": "a"})


def test_extent_has_both_ends_and_needs_a_label() -> None:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[1:3, 2, 3:6] = 1
    assert label_extent(Path("x"), voxels) == [(1, 2), (2, 2), (3, 5)]
    with pytest.raises(InputError, match="x: expected at least one label value above 0"):
        label_extent(Path("x"), np.zeros(SHAPE, np.uint8))


def test_pair_is_converted_only_where_it_is_not_there(tmp_path: Path) -> None:
    image, label = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    calls = []

    def convert() -> None:
        calls.append(1)
        write(tmp_path)

    first = describe_converted(image, label, NAMES, convert)
    assert describe_converted(image, label, NAMES, convert) == first
    assert calls == [1]
