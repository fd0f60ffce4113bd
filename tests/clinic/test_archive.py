# SPDX-License-Identifier: Apache-2.0
"""
A real archive: MONAI Label on an Orthanc, from a study to a DICOM Segmentation in it, and a training with the archive's
studies that nobody has labeled.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.clinic.archive import ct_series
from tests.clinic.clinic import NAMES, Clinic, open_clinic
from tests.monailabel.test_server import PARAMETERS, segment

pytestmark = [pytest.mark.monailabel, pytest.mark.slow]

LABELS = [{"name": "first", "description": "a ball"}, {"name": "second", "description": "a box"}]


@pytest.fixture(scope="module")
def clinic(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with open_clinic(tiny_dataset, tmp_path_factory.mktemp("clinic")) as found:
        yield found


def nifti_of(clinic: Clinic, series: str) -> Path:
    """What the server made of a series."""
    (file,) = (clinic.archive.log_file.parent / "cache").glob(f"*/{series}.nii.gz")
    return file


def test_studies_are_those_of_the_archive(clinic: Clinic) -> None:
    assert clinic.server.client.info()["datastore"]["total"] == len(NAMES)
    assert clinic.server.client.next_sample("random", {})["id"] in clinic.series.values()


def test_study_is_segmented_as_the_command_does(clinic: Clinic, tmp_path: Path) -> None:
    series = clinic.series["training_0"]
    found, answer = clinic.server.client.infer("phantom_10", series, PARAMETERS)
    bundle = clinic.server.app / "model/phantom_10"
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.nii.gz").write_bytes(nifti_of(clinic, series).read_bytes())
    expected = segment(
        bundle / "configs/inference.json", scans, tmp_path / "out", model_file=bundle / "models/model.pt"
    )
    np.testing.assert_array_equal(np.asarray(nib.load(found).dataobj), expected["a"])
    assert answer["label_names"] == {"first": 1, "second": 2}


def submit(clinic: Clinic, name: str, folder: Path) -> np.ndarray:
    """Submit a scan's true label on the series' own grid; returns it."""
    series = clinic.series[name]
    clinic.server.client.infer("phantom_10", series, PARAMETERS)  # which fetches it
    scan = nib.load(nifti_of(clinic, series))
    label = nib.as_closest_canonical(nib.load(clinic.data / f"{name}_label.nii.gz"))
    # the server's file lies the other way round: LPS in ITK
    turned = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(label.affine), nib.orientations.io_orientation(scan.affine)
    )
    voxels = nib.orientations.apply_orientation(np.asarray(label.dataobj), turned).astype(np.uint8)
    assert voxels.shape == scan.shape
    nib.save(nib.Nifti1Image(voxels, scan.affine), folder / f"{name}.nii.gz")
    clinic.server.client.save_label(series, str(folder / f"{name}.nii.gz"), tag="final", params={"label_info": LABELS})
    return voxels


def test_label_comes_back_from_the_archive_as_it_was_drawn(clinic: Clinic, tmp_path: Path) -> None:
    import pydicom
    import pydicom_seg
    import SimpleITK

    drawn = submit(clinic, "training_0", tmp_path)
    (series,) = clinic.archive.find("SEG")
    (content,) = clinic.archive.files(series)
    header = pydicom.dcmread(io.BytesIO(content))
    assert header.ReferencedSeriesSequence[0].SeriesInstanceUID == clinic.series["training_0"]
    assert header.PatientID == "training_0"
    assert [segment.SegmentLabel for segment in header.SegmentSequence] == ["first", "second"]
    image = pydicom_seg.MultiClassReader().read(header).image
    # a segmentation may hold fewer slices than the scan: compared where each voxel lies
    scan = SimpleITK.ReadImage(str(nifti_of(clinic, clinic.series["training_0"])))
    on_grid = SimpleITK.Resample(image, scan, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(on_grid).T, drawn)


def test_training_takes_the_studies_that_nobody_labeled(clinic: Clinic, tmp_path: Path) -> None:
    for name in ("training_1", "validation_0"):
        submit(clinic, name, tmp_path)
    status, log = clinic.server.train("phantom_10", max_epochs=1)
    assert status == "DONE", log[-3000:]
    assert "2 labeled studies for training, 2 unlabeled." in log
    assert "Training on 2 labeled and 2 unlabeled scans." in log


@pytest.mark.real_data
def test_real_ct_goes_through_the_archive(clinic: Clinic, tmp_path: Path) -> None:
    if "DTLP_REAL_DATA" not in os.environ:
        pytest.skip("DTLP_REAL_DATA names no folder with real scans")
    file = Path(os.environ["DTLP_REAL_DATA"], "ct/example_ct.nii.gz")
    scan = nib.as_closest_canonical(nib.load(file))
    voxels = np.round(np.asarray(scan.dataobj)).astype(np.int32)
    spacing = tuple(float(side) for side in scan.header.get_zooms()[:3])
    series, slices = ct_series(voxels, spacing, "real")  # type: ignore[arg-type]
    clinic.archive.store(slices)
    found, _ = clinic.server.client.infer("phantom_10", series, PARAMETERS)
    fetched, label_map = nib.as_closest_canonical(nib.load(nifti_of(clinic, series))), nib.load(found)
    np.testing.assert_array_equal(np.asarray(fetched.dataobj), voxels)
    assert label_map.shape == nib.load(nifti_of(clinic, series)).shape
