# SPDX-License-Identifier: Apache-2.0
"""A DICOM Segmentation, read back by highdicom, is the NIfTI label map: each voxel at the same place of the patient."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, SaveImage

from dtlp_components import ScanReader, WriteDicomSegd
from dtlp_components.data.series import find_series, series_files
from dtlp_components.data.series_problems import series_problems

highdicom = pytest.importorskip("highdicom", reason="DICOM is optional: pip install highdicom")
pydicom = pytest.importorskip("pydicom")

C, S = np.cos(np.pi / 6), np.sin(np.pi / 6)
AXES = {
    "axial": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "slices downwards": [[1, 0, 0], [0, 1, 0], [0, 0, -1]],
    "sagittal": [[0, 1, 0], [0, 0, -1], [-1, 0, 0]],
    "tilted": [[1, 0, 0], [0, C, S], [0, -S, C]],
}
NAMES = ["background", "left", "right", "nowhere"]


def complete(folder: Path) -> Path:
    """Add what a Segmentation copies from its series."""
    shared = {
        "StudyInstanceUID": pydicom.uid.generate_uid(), "FrameOfReferenceUID": pydicom.uid.generate_uid(),
        "PatientID": "p1", "PatientName": "Doe^Jane", "PatientBirthDate": "", "PatientSex": "", "StudyDate": "",
        "StudyTime": "", "StudyID": "", "AccessionNumber": "", "ReferringPhysicianName": "",
        "SeriesNumber": 3, "SliceThickness": 2,
    }  # fmt: skip
    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        for tag, value in shared.items():
            setattr(header, tag, value)
        header.save_as(file)
    return folder


def segmented(folder: Path, output: Path) -> MetaTensor:
    """Random labels on the grid of a series, saved as inference does."""
    image = LoadImage(ScanReader(), image_only=True, ensure_channel_first=True)(str(folder))
    labels = torch.as_tensor(np.random.default_rng(0).integers(0, 3, image.shape), dtype=torch.uint8)
    labels[..., 2] = 0  # a slice without any
    result = MetaTensor(labels, affine=image.affine, meta=dict(image.meta))
    SaveImage(
        output, "seg", ".nii.gz", output_dtype=np.uint8, separate_folder=False, savepath_in_metadict=True,
        resample=False, print_log=False,
    )(result)  # fmt: skip
    return result


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_every_voxel_is_where_it_is_in_the_label_map(tmp_path: Path, write_series: Any, axes: Any) -> None:
    folder = complete(write_series(tmp_path / "ct", np.zeros((9, 7, 5)), axes=axes))
    labels = segmented(folder, tmp_path / "out")
    WriteDicomSegd("pred", NAMES, "a bundle")({"pred": labels})

    found = highdicom.seg.segread(tmp_path / "out" / "ct_seg.dcm")
    assert [found.get_segment_description(n).segment_label for n in found.segment_numbers] == NAMES[1:]
    assert found.PatientID == "p1"
    volume = found.get_volume(combine_segments=True)
    ras = np.diag([-1, -1, 1, 1]) @ volume.affine
    voxels = np.asarray(labels)[0]
    labeled = np.argwhere(volume.array > 0)
    assert len(labeled) == (voxels > 0).sum() > 0
    world = labeled @ ras[:3, :3].T + ras[:3, 3]
    inverse = np.linalg.inv(np.asarray(labels.affine))
    index = world @ inverse[:3, :3].T + inverse[:3, 3]
    np.testing.assert_allclose(index, index.round(), atol=1e-3)
    np.testing.assert_array_equal(voxels[tuple(index.round().astype(int).T)], volume.array[tuple(labeled.T)])


def test_frames_refer_to_the_slices_they_are_of(tmp_path: Path, write_series: Any) -> None:
    folder = complete(write_series(tmp_path / "ct", np.zeros((9, 7, 5))))
    labels = segmented(folder, tmp_path / "out")
    WriteDicomSegd("pred", NAMES, "a bundle")({"pred": labels})
    found = highdicom.seg.segread(tmp_path / "out" / "ct_seg.dcm")
    headers = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    frames = found.get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in headers], combine_segments=True, ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    np.testing.assert_array_equal(frames, np.asarray(labels)[0].transpose(2, 1, 0))


def test_what_was_written_is_taken_for_no_scan(tmp_path: Path, write_series: Any) -> None:
    folder = complete(write_series(tmp_path / "ct", np.zeros((9, 7, 5))))
    slices = series_files(folder)
    WriteDicomSegd("pred", NAMES, "a bundle")({"pred": segmented(folder, tmp_path / "out")})
    shutil.copy(tmp_path / "out" / "ct_seg.dcm", folder / "ct_seg.dcm")
    assert find_series(tmp_path) == [folder]
    assert series_files(folder) == slices
    assert len(slices) == 5
    assert series_problems(folder) == []


def test_scan_without_foreground_is_written_too(tmp_path: Path, write_series: Any) -> None:
    labels = segmented(complete(write_series(tmp_path / "ct", np.zeros((9, 7, 5)))), tmp_path / "out")
    labels[:] = 0
    WriteDicomSegd("pred", NAMES, "a bundle")({"pred": labels})
    assert not highdicom.seg.segread(tmp_path / "out" / "ct_seg.dcm").pixel_array.any()


def test_series_without_a_study_is_named_and_the_label_map_stays(tmp_path: Path, write_series: Any) -> None:
    labels = segmented(write_series(tmp_path / "ct", np.zeros((9, 7, 5))), tmp_path / "out")
    problem = WriteDicomSegd("pred", NAMES, "a bundle")({"pred": labels})["problem"]
    assert re.search(r"ct_seg\.nii\.gz was written, but ct_seg\.dcm was not .*no StudyInstanceUID", problem)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["ct_seg.nii.gz"]


def test_nifti_gets_no_segmentation(tmp_path: Path) -> None:
    labels = MetaTensor(torch.ones(1, 4, 5, 6), meta={"filename_or_obj": str(tmp_path / "scan.nii.gz")})
    WriteDicomSegd("pred", NAMES, "a bundle")({"pred": labels})
    assert list(tmp_path.iterdir()) == []


def test_attributes_that_may_be_empty_are_filled(tmp_path: Path, write_series: Any) -> None:
    folder = complete(write_series(tmp_path / "ct", np.zeros((9, 7, 5))))
    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        for tag in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
            delattr(header, tag)
        for tag in ("AccessionNumber", "ReferringPhysicianName", "SliceThickness"):
            delattr(header, tag)
        header.save_as(file)
    assert "problem" not in WriteDicomSegd("pred", NAMES, "a bundle")({"pred": segmented(folder, tmp_path / "out")})
    found = highdicom.seg.segread(tmp_path / "out" / "ct_seg.dcm")
    assert found.PatientID == ""
    assert found.StudyDate == ""
