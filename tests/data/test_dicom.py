# SPDX-License-Identifier: Apache-2.0
"""What is a DICOM file, and what of an image is in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtlp_components.data.dicom import NotASliceError, is_dicom, read_slices

pydicom = pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")


@pytest.fixture
def file(tmp_path: Path, write_series: Any) -> Path:
    folder: Path = write_series(tmp_path / "ct", np.zeros((4, 5, 1), int), ending="")
    return folder / "slice00"


def edited(file: Path, **values: Any) -> Path:
    header = pydicom.dcmread(file)
    for name, value in values.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    header.save_as(file)
    return file


def without_mark(file: Path, implicit: bool) -> Path:
    """As old archives keep them: no preamble, no meta header."""
    header = pydicom.dcmread(file)
    plain = pydicom.Dataset(header)
    plain.save_as(file, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert b"DICM" not in file.read_bytes()
    return file


@pytest.mark.parametrize("implicit", [True, False])
def test_file_without_the_mark_is_dicom(file: Path, implicit: bool) -> None:
    (found,) = read_slices(without_mark(file, implicit))
    assert is_dicom(file)
    assert (found.sop_class, found.rows, found.columns, found.syntax) == ("CT Image Storage", 5, 4, "")


@pytest.mark.parametrize(
    "content", [b"", b"\x08\x00", b"\x08\x00words of a letter" * 20, b"\x00" * 200, b"# text\n" * 50]
)
def test_other_files_are_not(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert not is_dicom(tmp_path / "a")


def test_pipe_is_no_dicom_and_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("pipe", "pipe.dcm"):
        os.mkfifo(tmp_path / name)
        assert not is_dicom(tmp_path / name)


def test_slice_has_its_place_and_what_its_digits_leave_open(file: Path) -> None:
    edited(file, ImagePositionPatient=["1.5", "2", "-3.25"], SeriesNumber=7, SeriesDescription="Abdomen")
    (found,) = read_slices(file)
    assert found.position == (1.5, 2.0, -3.25)
    assert found.decimals == (1, 0, 2)
    assert found.spacing == (0.5, 0.75)
    assert found.title == 'series 7 "Abdomen"'
    assert (found.slope, found.intercept, found.missing) == (1.0, -1024.0, [])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "DICOM Segmentation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7"}, "DICOM Segmentation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3", "Rows": None}, "RT Structure Set Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Rows": None}, "X-Ray Radiation Dose SR Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImagePositionPatient": None}, "Secondary Capture Image Storage"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"SamplesPerPixel": 3}, "color image"),
        ({"NumberOfFrames": 2}, "CT Image Storage with several frames"),
    ],
)
def test_what_is_no_slice_is_called_by_its_name(file: Path, values: dict[str, Any], kind: str) -> None:
    with pytest.raises(NotASliceError, match=f"^{kind}$"):
        read_slices(edited(file, **values))


def test_ct_without_its_place_is_a_slice_that_lacks_it(file: Path) -> None:
    (found,) = read_slices(edited(file, ImagePositionPatient=None, Rows=None))
    assert found.missing == ["ImagePositionPatient", "Rows"]


@pytest.mark.parametrize("position", [["nan", "0", "0"], ["0", "0"]])
def test_place_that_is_none_is_damage(file: Path, position: list[str]) -> None:
    raw = edited(file, ImagePositionPatient=["1.1", "2.2", "3.3"]).read_bytes()
    old, new = b"1.1\\2.2\\3.3 ", "\\".join(position).ljust(12).encode()
    file.write_bytes(raw.replace(old, new))
    with pytest.raises(ValueError, match="expected 3 numbers"):
        read_slices(file)
