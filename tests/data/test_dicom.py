# SPDX-License-Identifier: Apache-2.0
"""Which folders hold a DICOM series, and which series a reader would stack wrongly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtlp_components.data.dicom import find_series, series_files, series_problems

pydicom = pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")

SEGMENTATION, LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"


def change(folder: Path, edit: Callable[[int, Any], None]) -> Path:
    """Edit each slice's header, given its number from 0."""
    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        edit(int(header.InstanceNumber) - 1, header)
        header.save_as(file)
    return folder


def move(shift: Callable[[int], list[float]]) -> Callable[[int, Any], None]:
    def edit(number: int, header: Any) -> None:
        header.ImagePositionPatient = [*np.add(header.ImagePositionPatient, shift(number))]

    return edit


@pytest.fixture
def series(tmp_path: Path, write_series: Any) -> Path:
    """Twelve slices 2 mm apart."""
    folder: Path = write_series(tmp_path / "store/ct", np.zeros((4, 5, 12), int))
    return folder


def test_slices_that_jump_sideways_are_named(series: Path) -> None:
    change(series, move(lambda number: [30.0 if 5 <= number < 10 else 0.0, 0, 0]))
    there, back = series_problems(series)
    assert "found a move by (30, 0, 2) mm from slice04.dcm to slice05.dcm and by (0, 0, 2) mm elsewhere" in there
    assert "found a move by (-30, 0, 2) mm from slice09.dcm to slice10.dcm" in back


# 5 % of 2 mm
@pytest.mark.parametrize(("shift", "problems"), [(0.095, 0), (0.105, 2)])
def test_sideways_moves_of_a_twentieth_of_the_step_are_allowed(series: Path, shift: float, problems: int) -> None:
    change(series, move(lambda number: [0, shift if number == 6 else 0.0, 0]))
    assert len(series_problems(series)) == problems


def test_tilted_gantry_is_no_jump(series: Path) -> None:
    # 20 degrees: the next slice is 2 mm along the normal and 0.73 mm in y
    change(series, move(lambda number: [0, number * 2 * np.tan(np.radians(20)), 0]))
    assert series_problems(series) == []


@pytest.mark.parametrize(("other", "problems"), [(0.00050001, 0), (0.0021, 1)])
def test_direction_may_differ_in_its_last_digits(series: Path, other: float, problems: int) -> None:
    def turn(number: int, header: Any) -> None:
        header.ImageOrientationPatient = [1, other if number % 2 else 0.00049999, 0, 0, 1, 0]

    found = series_problems(change(series, turn))
    assert len(found) == problems
    assert all("differ in ImageOrientationPatient" in problem for problem in found)


@pytest.mark.parametrize("sop_class", [SEGMENTATION, LABEL_MAP_SEGMENTATION])
def test_segmentation_is_no_slice(series: Path, tmp_path: Path, sop_class: str) -> None:
    slices = sorted(series.iterdir())
    header = pydicom.dcmread(slices[0])
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = sop_class
    header.SeriesInstanceUID = pydicom.uid.generate_uid()
    del header.ImagePositionPatient
    (tmp_path / "store/answers").mkdir()
    header.save_as(tmp_path / "store/answers/ct_seg.dcm")
    header.save_as(series / "answer.dcm")  # sorted before the slices
    assert find_series(tmp_path / "store") == [series]
    assert series_files(series) == slices
    assert series_problems(series) == []


def test_series_in_two_folders_is_two_scans_and_a_warning(series: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = series.parent / "more"
    more.mkdir()
    for file in sorted(series.iterdir())[6:]:
        shutil.move(file, more)
    assert find_series(series.parent) == sorted([series, more])
    (warning,) = caplog.messages
    assert warning.startswith(f"{more} holds slices of the series that {series} holds too")


def test_series_without_a_number_are_not_one(series: Path) -> None:
    def forget(number: int, header: Any) -> None:
        del header.SeriesInstanceUID

    shutil.copytree(change(series, forget), series.parent / "other")
    assert find_series(series.parent) == [series, series.parent / "other"]


def test_slice_without_size_is_named(series: Path) -> None:
    header = pydicom.dcmread(series / "slice03.dcm")
    del header.Rows
    header.save_as(series / "slice03.dcm")
    (problem,) = series_problems(series)
    assert problem.startswith(f"{series / 'slice03.dcm'}: found no Rows")
