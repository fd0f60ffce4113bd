# SPDX-License-Identifier: Apache-2.0
"""Which series are in a folder, what lies beside them, and which would be stacked wrongly."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtlp_components.data.readers import load_volume
from dtlp_components.data.series import find_series, scan_stamp, series_files, sort_folder
from dtlp_components.data.series_problems import series_problems
from tests.series import change

pydicom = pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")

SEGMENTATION, LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"


# --- a folder as it comes


def test_copies_of_a_slice_are_dropped(series: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (2, 3):
        shutil.copy(series / f"slice{number:02d}.dcm", series / f"slice{number:02d} (1).dcm")
    assert find_series(series) == [series]
    assert len(series_files(series)) == 12
    assert series_problems(series) == []
    assert "2 × copy of a slice" in caplog.text


def as_object(source: Path, target: Path, **values: Any) -> Path:
    """A file beside a series, with another UID and what else it differs in; ``None`` takes an attribute away."""
    header = pydicom.dcmread(source)
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    for name, value in values.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    target.parent.mkdir(exist_ok=True)
    header.save_as(target)
    return target


NO_PIXELS = {"PixelData": None, "Rows": None, "Columns": None, "ImagePositionPatient": None}
BESIDE: dict[str, dict[str, Any]] = {
    "marked scout": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
    "scout without a mark": {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
    "scout of another series": {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "SeriesInstanceUID": "1.2.3"},
    "structure set": {**NO_PIXELS, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3", "SeriesInstanceUID": "1.2.4"},
    "structured report": {**NO_PIXELS, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33", "SeriesInstanceUID": "1.2.5"},
    "dose report": {**NO_PIXELS, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "SeriesInstanceUID": "1.2.6"},
    "screen capture": {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImagePositionPatient": None, "ImageOrientationPatient": None,
        "SeriesInstanceUID": "1.2.7",
    },
    "presentation state": {**NO_PIXELS, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1", "SeriesInstanceUID": "1.2.8"},
    "image of another size": {"Rows": 2, "Columns": 10},
}  # fmt: skip


@pytest.mark.parametrize("values", BESIDE.values(), ids=BESIDE)
def test_what_lies_beside_a_series_is_passed_over_and_named(
    series: Path, values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    slices = sorted(series.iterdir())
    for name in ("0.dcm", "zz.dcm"):
        file = as_object(slices[0], series / name, **values)
    assert find_series(series) == [series]
    assert series_files(series) == slices
    assert series_problems(series) == []
    assert str(file) in caplog.text


def test_study_as_an_archive_exports_it_is_its_series(series: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, values in enumerate(BESIDE.values()):
        as_object(series / "slice00.dcm", series.parent / f"SE{number}/IM1", **values)
    (series.parent / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (series.parent / "README.TXT").write_text("viewer")
    assert find_series(series.parent) == [series]
    assert caplog.text.count("Skipped DICOM files") == 1


def test_two_series_in_a_folder_are_two_scans_known_by_their_first_files(
    tmp_path: Path, write_series: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    voxels = [np.arange(60).reshape(4, 5, 3) + i for i in range(2)]
    folder = write_series(tmp_path / "ct", voxels[0])
    for file in write_series(tmp_path / "other", voxels[1]).iterdir():
        file.rename(folder / f"b_{file.name}")
    paths = [folder / "b_slice00.dcm", folder / "slice00.dcm"]
    assert find_series(folder) == paths
    assert "slice00.dcm (series" in caplog.text
    for path, expected in zip(paths, reversed(voxels), strict=True):
        assert series_problems(path) == []
        np.testing.assert_array_equal(load_volume(str(path))[0], expected)
    (problem,) = series_problems(folder)
    assert problem.startswith(f"{folder}: expected one series, got 2; each is named by its first file: b_slice00.dcm")


def test_damaged_slice_is_not_passed_over(series: Path) -> None:
    (series / "slice11.dcm").write_bytes(b"\0" * 900)  # the last one: without it there is no gap
    assert find_series(series) == [series]
    (problem,) = series_problems(series)
    assert problem.startswith(f"{series / 'slice11.dcm'}: damaged or not a DICOM file")


def test_folder_of_damaged_files_is_a_scan_that_somebody_names(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"")
    assert find_series(tmp_path) == [tmp_path]
    (problem,) = series_problems(tmp_path)
    assert problem.startswith(f"{tmp_path / 'a.dcm'}: damaged or not a DICOM file")


def test_single_image_is_no_series(series: Path) -> None:
    for file in sorted(series.iterdir())[1:]:
        file.unlink()
    assert find_series(series) == []
    (problem,) = series_problems(series)
    assert "expected a series of slices, got only 1 × image that is not part of a volume" in problem


def test_sorted_folder_is_read_again_when_a_file_changes(series: Path) -> None:
    assert len(sort_folder(series).series[0]) == 12
    (series / "slice11.dcm").unlink()
    assert len(sort_folder(series).series[0]) == 11


def test_stamp_of_a_scan_is_of_all_its_files(series: Path) -> None:
    before = [scan_stamp(path) for path in (series, series / "slice00.dcm")]
    (series / "slice05.dcm").write_bytes(b"other")
    assert [scan_stamp(path) for path in (series, series / "slice00.dcm")] != before


def test_jpeg_lossless_is_read(tmp_path: Path, write_series: Any) -> None:
    gdcm = pytest.importorskip("gdcm", reason="pip install python-gdcm")
    voxels = np.arange(240).reshape(4, 5, 12)
    folder = write_series(tmp_path / "ct", voxels)
    for file in folder.iterdir():
        reader, change_syntax, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(file))
        assert reader.Read()
        change_syntax.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change_syntax.SetInput(reader.GetImage())
        assert change_syntax.Change()
        writer.SetFileName(str(file))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change_syntax.GetOutput())
        assert writer.Write()
    assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == pydicom.uid.JPEGLosslessSV1
    assert series_problems(folder) == []
    np.testing.assert_array_equal(load_volume(str(folder))[0], voxels)


def enhanced(series: Path, target: Path) -> Path:
    """A series as one enhanced multi-frame file, the last slice first."""
    slices = [pydicom.dcmread(file) for file in sorted(series.iterdir(), reverse=True)]
    header = pydicom.dcmread(series / "slice00.dcm")
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedCTImageStorage
    header.NumberOfFrames = len(slices)
    header.PixelData = b"".join(s.PixelData for s in slices)

    def group(name: str, **values: Any) -> None:
        item = pydicom.Dataset()
        for key, value in values.items():
            setattr(item, key, value)
        setattr(groups, name, [item])

    groups = pydicom.Dataset()
    group("PixelMeasuresSequence", PixelSpacing=header.PixelSpacing)
    group("PlaneOrientationSequence", ImageOrientationPatient=header.ImageOrientationPatient)
    header.SharedFunctionalGroupsSequence = [groups]
    frames = []
    for s in slices:
        groups = pydicom.Dataset()
        group("PlanePositionSequence", ImagePositionPatient=s.ImagePositionPatient)
        group("PixelValueTransformationSequence", RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
        frames.append(groups)
    header.PerFrameFunctionalGroupsSequence = frames
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(header, name)
    target.mkdir()
    header.save_as(target / "all.dcm")
    return target


@pytest.mark.parametrize("axes", [np.eye(3), [[0, 1, 0], [0, 0, -1], [-1, 0, 0]]], ids=["axial", "sagittal"])
def test_enhanced_multi_frame_is_its_series(tmp_path: Path, write_series: Any, axes: Any) -> None:
    series = write_series(tmp_path / "ct", np.arange(240).reshape(4, 5, 12), axes=axes)
    folder = enhanced(series, tmp_path / "enhanced")
    assert find_series(folder) == [folder]
    assert series_problems(folder) == []
    for (voxels, affine), (expected, place) in [(load_volume(str(folder)), load_volume(str(series)))]:
        np.testing.assert_array_equal(voxels, expected)
        np.testing.assert_allclose(affine, place, atol=1e-6)


def test_rescaling_of_all_frames_may_stand_outside_of_their_groups(tmp_path: Path, series: Path) -> None:
    folder = enhanced(series, tmp_path / "enhanced")
    header = pydicom.dcmread(folder / "all.dcm")
    for group in header.PerFrameFunctionalGroupsSequence:
        del group.PixelValueTransformationSequence
    header.RescaleSlope, header.RescaleIntercept = 2, -7
    header.save_as(folder / "all.dcm")
    np.testing.assert_array_equal(load_volume(str(folder))[0], np.full((4, 5, 12), 2 * 1024 - 7))


def test_enhanced_without_places_is_refused_by_its_name(tmp_path: Path, series: Path) -> None:
    folder = enhanced(series, tmp_path / "enhanced")
    as_object(folder / "all.dcm", folder / "all.dcm", PerFrameFunctionalGroupsSequence=None)
    assert find_series(folder) == [folder]
    (problem,) = series_problems(folder)
    assert problem.startswith(f"{folder / 'all.dcm'} (Enhanced CT Image Storage): has no ImagePositionPatient")


# --- folders


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
    assert warning.startswith(f"{more} and {series} hold slices of the same series")


def test_series_without_a_number_are_not_one(series: Path) -> None:
    def forget(number: int, header: Any) -> None:
        del header.SeriesInstanceUID

    shutil.copytree(change(series, forget), series.parent / "other")
    assert find_series(series.parent) == [series, series.parent / "other"]
