# SPDX-License-Identifier: Apache-2.0
"""Which series would be stacked wrongly, or cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtlp_components.data.readers import load_volume
from dtlp_components.data.series_problems import series_problems
from tests.series import change, move

pydicom = pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")


# --- one even grid


def test_slices_that_jump_sideways_are_named(series: Path) -> None:
    change(series, move(lambda number: [30.0 if 5 <= number < 10 else 0.0, 0, 0]))
    (problem,) = series_problems(series)
    assert problem.startswith(
        f"{series}: expected slices stacked along one direction, got some shifted sideways by up to "
    )
    assert "most from slice04.dcm to slice05.dcm" in problem


@pytest.mark.parametrize(("shift", "problems"), [(0.1, 0), (0.17, 1)])  # 5 % of 2 mm, and what 0.17 may be rounded by
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


@pytest.mark.parametrize(
    ("gone", "place"),
    [
        ((5,), "slice04.dcm to slice06.dcm (4 mm)"),
        ((3, 8), "slice02.dcm to slice04.dcm (4 mm)"),
        ((3, 4, 5), "slice02.dcm to slice06.dcm (8 mm)"),
        ((1,), "slice00.dcm to slice02.dcm (4 mm)"),
        ((10,), "slice09.dcm to slice11.dcm (4 mm)"),
    ],
)
def test_missing_slices_are_one_sentence(series: Path, gone: tuple[int, ...], place: str) -> None:
    for number in gone:
        (series / f"slice{number:02d}.dcm").unlink()
    (problem,) = series_problems(series)
    there, missing = 12 - len(gone), len(gone)
    found = f"expected 12 slices 2 mm apart, got {there}: {missing} missing, first from {place}."
    assert problem.startswith(f"{series}: {found}")


@pytest.mark.parametrize("digits", [0, 1, 2])
@pytest.mark.parametrize("step", [0.625, 0.7, 1.25, 2.5, 3.3])
def test_grid_is_even_within_what_the_scanner_rounds(series: Path, step: float, digits: int) -> None:
    rounded = [f"{round(number * step, digits):.{digits}f}" for number in range(12)]
    if 0.5 * 10.0**-digits > 0.25 * step:
        pytest.skip("nobody can tell this from a grid that is uneven")

    def place(number: int, header: Any) -> None:
        header.ImagePositionPatient = ["0", "0", rounded[number]]

    assert series_problems(change(series, place)) == []
    (series / "slice06.dcm").unlink()
    assert "1 missing" in series_problems(series)[0]


def test_spacing_that_varies_is_named(series: Path) -> None:
    change(series, move(lambda number: [0, 0, 1.5 * max(0, number - 6)]))  # 2 mm, then 3.5 mm
    (problem,) = series_problems(series)
    assert problem.startswith(f"{series}: expected equally spaced slices, got spacings from 2 to 3.5 mm")


def test_two_slices_at_one_place_are_named(series: Path) -> None:
    change(series, move(lambda number: [0, 0, -2.0 if number == 7 else 0]))
    (problem,) = series_problems(series)
    assert problem.startswith(f"{series}: expected every slice position once, got slice06.dcm and slice07.dcm")


@pytest.mark.parametrize("edit", [
    lambda number, header: delattr(header, "InstanceNumber"),
    lambda number, header: setattr(header, "InstanceNumber", 1),
    lambda number, header: setattr(header, "InstanceNumber", (number * 5) % 12),
    lambda number, header: setattr(header, "SOPInstanceUID", "1.2.3"),  # as broken programs write
], ids=["none", "equal", "shuffled", "one UID"])  # fmt: skip
def test_slices_are_ordered_by_their_places(tmp_path: Path, write_series: Any, edit: Any) -> None:
    voxels = np.arange(240).reshape(4, 5, 12)
    folder = change(write_series(tmp_path / "ct", voxels), edit)
    assert series_problems(folder) == []
    np.testing.assert_array_equal(load_volume(str(folder))[0], voxels)


# --- numbers and pixels


def test_ct_without_intercept_is_a_warning(series: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert series_problems(series) == []
    assert "RescaleIntercept" not in caplog.text
    change(series, lambda number, header: delattr(header, "RescaleIntercept"))
    assert series_problems(series) == []
    assert f"{series}: CT without RescaleIntercept" in caplog.text


def test_pixels_that_no_decoder_reads_are_named(series: Path) -> None:
    def pack(number: int, header: Any) -> None:
        header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
        header.PixelData = pydicom.encaps.encapsulate([b"\0" * 8])
        header["PixelData"].is_undefined_length = True

    (problem,) = series_problems(change(series, pack))
    assert "pixels are compressed as MPEG-4" in problem


def test_missing_decoder_is_named_with_its_command(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(series, lambda number, header: header.compress(pydicom.uid.RLELossless))
    assert series_problems(series) == []
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", property(lambda self: False))
    (problem,) = series_problems(series)
    assert problem.startswith(f"{series / 'slice00.dcm'}: pixels are compressed as RLE Lossless, whose decoder is mi")
    assert "pip install python-gdcm" in problem


def test_slice_without_size_is_named(series: Path) -> None:
    header = pydicom.dcmread(series / "slice03.dcm")
    del header.Rows
    header.save_as(series / "slice03.dcm")
    (problem,) = series_problems(series)
    assert problem.startswith(f"{series / 'slice03.dcm'} (CT Image Storage): has no Rows")
