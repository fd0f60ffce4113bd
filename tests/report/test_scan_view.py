# SPDX-License-Identifier: Apache-2.0
"""The picture of a scan without a reference: planes through what is disputed, sides as a radiologist expects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from monai.data import MetaTensor

from dtlp_components.report.scan_view import _cut, draw_scan, draw_sheet, picture_label_maps

NAMES = ["background", "liver", "spleen"]
SHAPE = (12, 10, 8)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def volume(values: np.ndarray, flip: bool = False) -> MetaTensor:
    """In RAS, or stored in LAS."""
    affine = torch.diag(torch.tensor([-1.0 if flip else 1.0, 1.0, 2.0, 1.0], dtype=torch.float64))
    return MetaTensor(torch.as_tensor(values[::-1].copy() if flip else values)[None].float(), affine=affine)


def labels() -> np.ndarray:
    drawn = np.zeros(SHAPE)
    drawn[2:6, 2:6, 2:6] = 1
    drawn[7:10, 6:9, 3:5] = 2
    return drawn


def test_planes_go_through_what_is_disputed_where_labels_are() -> None:
    drawn, bits = labels().astype(int), np.zeros(SHAPE)
    bits[8, 7, 3] = 1.0
    bits[0, 0, 0] = 9.0  # on the background, which nobody drew
    assert [_cut(drawn, bits, axis) for axis in range(3)] == [8, 7, 3]
    assert [_cut(drawn, None, axis) for axis in range(3)] == [2, 2, 3]
    assert [_cut(drawn * 0, None, axis) for axis in range(3)] == [6, 5, 4]


def test_scan_looks_the_same_however_it_is_stored() -> None:
    image = np.random.default_rng(0).normal(size=SHAPE)
    figures = [
        draw_scan(volume(image, flip), volume(labels(), flip), volume(labels() / 2, flip), NAMES, "a", "bits")
        for flip in (False, True)
    ]
    pictures = [[axis.get_images()[0].get_array() for axis in figure.axes] for figure in figures]
    assert len(pictures[0]) == 9
    for one, other in zip(*pictures, strict=True):
        np.testing.assert_array_equal(one, other)


def test_classes_that_are_there_are_named_and_the_map_has_a_column() -> None:
    only = labels() * (labels() == 2)
    figure = draw_scan(volume(labels()), volume(only), None, NAMES, "title", "")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["spleen"]
    assert len(figure.axes) == 6
    # proportions are the patient's: slices of 2 mm
    assert figure.axes[2].get_images()[0].get_extent() == [0.0, 12.0, 0.0, 16.0]


def test_sheet_shows_every_scan_with_its_label() -> None:
    names = [f"scan_{i}" for i in range(8)]
    scans = ((name, volume(labels() * 10), volume(labels())) for name in names)
    figure = draw_sheet(scans, len(names), {1: "liver", 2: "spleen"})
    shown = [axis for axis in figure.axes if axis.get_images()]
    assert [axis.get_title() for axis in shown] == names
    assert all(axis.collections for axis in shown)  # contours
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["liver", "spleen"]


def test_pictures_are_drawn_once_for_each_label_map(tmp_path: Path) -> None:
    for name, values in (("a", labels() * 10), ("a_seg", labels()), ("a_entropy", labels() / 2)):
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / f"{name}.nii.gz")
    rows = [{"scan": str(tmp_path / "a.nii.gz"), "label_map": "elsewhere/a_seg.nii.gz"}]
    assert picture_label_maps(rows, tmp_path, NAMES) == {rows[0]["scan"]: "pictures/a.png"}
    picture = tmp_path / "pictures/a.png"
    drawn = picture.stat().st_mtime_ns
    picture_label_maps(rows, tmp_path, NAMES)
    assert picture.stat().st_mtime_ns == drawn
    os.utime(tmp_path / "a_seg.nii.gz", ns=(drawn + 10**9, drawn + 10**9))
    picture_label_maps(rows, tmp_path, NAMES)
    assert picture.stat().st_mtime_ns > drawn
