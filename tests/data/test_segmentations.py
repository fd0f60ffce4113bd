# SPDX-License-Identifier: Apache-2.0
"""Names of label maps, and the table of an earlier run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dtlp_components.data.segmentations import PredictionNames, color_table, printable, read_table


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("set/a.nii.gz", "a"),
        ("set/a.b.nii", "a.b"),
        ("set/p1/ct", "p1_ct"),
        ("set/p2/ct", "p2_ct"),
        ("set/1.2.840.5", "1.2.840.5"),
        ("set", "set"),
        ("elsewhere/ct", "ct"),
    ],
)
def test_label_map_is_named_after_the_way_from_the_input_to_the_scan(image, name):
    formatter = PredictionNames("/x/set")
    # MONAI cuts the ending off
    assert formatter({"filename_or_obj": f"/x/{image}"}, None) == {"subject": f"{name}.nii.gz"}


def test_table_of_an_earlier_run_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    assert read_table(tmp_path) == []
    (tmp_path / "segmentations.csv").write_text("scan,label_map,seconds\na.nii,a_seg.nii.gz,1\nb.nii,,2\nc.nii\n")
    assert read_table(tmp_path) == [{"scan": "a.nii", "label_map": "a_seg.nii.gz", "seconds": "1"}]
    (tmp_path / "segmentations.csv").write_bytes(b"scan,label_map\n\xff,\xff\n")
    assert read_table(tmp_path) == []


def test_path_that_is_not_utf_8_is_printable() -> None:
    assert printable(os.fsdecode(b"m\xfcller.nii")) == r"m\xfcller.nii"
    assert printable(Path("müller.nii")) == "müller.nii"


def test_color_table_has_a_line_of_three_d_slicer_for_each_label() -> None:
    names = ["background", "left atrium", *(f"n{i}" for i in range(2, 12))]
    lines = color_table(names).splitlines()
    assert lines[0].startswith("#")
    assert lines[1] == "0 background 0 0 0 0"
    assert lines[2] == "1 left_atrium 31 119 180 255"
    assert lines[12].split()[2:] == lines[2].split()[2:]  # the eleventh class has the first one's color again
    assert [line.split()[0] for line in lines[1:]] == [str(i) for i in range(12)]
