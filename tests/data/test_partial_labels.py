# SPDX-License-Identifier: Apache-2.0
"""What voxels without a label may be."""

from __future__ import annotations

import pytest

from dtlp_components.data.partial_labels import open_classes
from dtlp_components.errors import InputError

NAMES = ["background", "liver", "spleen", "kidney"]


def test_nothing_is_open_where_all_was_drawn() -> None:
    assert open_classes([{}, {"labels": ("liver", "spleen", "kidney")}], NAMES) == []


def test_ignored_voxels_may_be_anything() -> None:
    assert open_classes([{}], NAMES, ignore_label=9) == [[0, 1, 2, 3]]


def test_background_may_be_what_nobody_drew_and_equal_scans_share_a_row() -> None:
    items = [{"labels": ("liver",)}, {"labels": ("spleen", "kidney")}, {"labels": ("kidney", "spleen")}]
    assert open_classes(items, NAMES) == [[0, 1, 2, 3], [0, 1], [0, 2, 3]]


def test_class_that_there_is_not_is_named_with_the_scan() -> None:
    with pytest.raises(InputError, match=r"a_seg.nii.gz: `labels`: expected class names .*, got 'Liver'"):
        open_classes([{"label": "a_seg.nii.gz", "labels": ("Liver",)}], NAMES)
