# SPDX-License-Identifier: Apache-2.0
"""What is read from disk, and what MONAI's readers may say meanwhile."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage

from dtlp_components.data.readers import ScanReader, load_volume
from dtlp_components.data.resources import in_threads
from dtlp_components.data.series_problems import series_problems

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # pytest replaces the package's filter

SET_UP = "from dtlp_components import ScanReader; from monai.transforms import LoadImage; LoadImage(); LoadImage()"


# in a process of its own: pytest replaces filters
@pytest.mark.slow
@pytest.mark.parametrize(("asked_for", "said"), [("", False), ("nvimgcodec", True)])
def test_missing_accelerator_is_named_only_to_who_asked_for_it(asked_for: str, said: bool) -> None:
    pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")
    environment = {**os.environ, "MONAI_DICOM_READER": asked_for}
    result = subprocess.run([sys.executable, "-c", SET_UP], capture_output=True, text=True, env=environment, check=True)
    assert ("nvImageCodec" in result.stdout + result.stderr) == said


def test_only_that_message_is_held_back(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    logger.warning("nvImageCodec is not available; skipping pydicom decoder plugin registration.")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]


def read(path: Path) -> Any:
    """As a bundle does."""
    return LoadImage(ScanReader(), image_only=True, ensure_channel_first=True)(str(path))


def voxels_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, shape)


# axes of a row, of a column and of the slices in LPS: axial, sagittal, tilted by 30 degrees about x
C, S = np.cos(np.pi / 6), np.sin(np.pi / 6)
AXES = {
    "axial": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "sagittal": [[0, 1, 0], [0, 0, -1], [-1, 0, 0]],
    "tilted": [[1, 0, 0], [0, C, S], [0, -S, C]],
}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_series_is_read_with_its_voxels_and_their_places(tmp_path: Path, write_series: Any, axes: Any) -> None:
    voxels = voxels_of(4, 5, 6)
    folder = write_series(tmp_path / "scan [1]", voxels, step=1.2345678901234567, axes=axes)
    # a row goes along the first axis in steps of the columns, 0.75 mm; LPS to RAS turns x and y round
    expected = np.eye(4)
    expected[:3, :3] = np.diag([-1, -1, 1]) @ np.transpose(axes) @ np.diag([0.75, 0.5, 1.2345678901234567])
    volume = read(folder)
    for array, affine in ((volume.numpy()[0], volume.affine), load_volume(str(folder))):
        np.testing.assert_array_equal(array, voxels)
        np.testing.assert_allclose(affine, expected, atol=1e-5)
    assert volume.meta["filename_or_obj"] == str(folder)


def test_only_the_slices_of_a_folder_are_read(tmp_path: Path, write_series: Any) -> None:
    voxels = voxels_of(4, 5, 6)
    folder = write_series(tmp_path / "ct", voxels, ending="")
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), folder / "converted.nii.gz")
    (folder / "converted.json").write_text("{}")
    write_series(folder / "below", voxels_of(4, 5, 3))
    assert series_problems(folder) == []
    np.testing.assert_array_equal(read(folder).numpy()[0], voxels)


def test_slice_that_is_no_longer_recognized_is_not_skipped(tmp_path: Path, write_series: Any) -> None:
    folder = write_series(tmp_path / "ct", voxels_of(4, 5, 6), ending="")
    (folder / "slice05").write_bytes(b"")  # the last one: without it there is no gap
    (problem,) = series_problems(folder)
    assert problem.startswith(f"{folder / 'slice05'}: damaged or not a DICOM file")


@pytest.mark.parametrize("name", ["a.nii.gz", "A.NII.GZ", "A.NII"])
def test_nifti_file_is_read_as_ever(tmp_path: Path, name: str) -> None:
    image = nib.Nifti1Image(voxels_of(4, 5, 6).astype(np.float32), np.diag([-1.0, 2, 3, 1]))
    written = tmp_path / f"b{'.nii.gz' if name.lower().endswith('.gz') else '.nii'}"
    nib.save(image, written)
    written.rename(tmp_path / name)
    volume = read(tmp_path / name)
    for array, affine in ((volume.numpy()[0], volume.affine), load_volume(str(tmp_path / name))):
        np.testing.assert_array_equal(array, image.get_fdata())
        np.testing.assert_array_equal(affine, image.affine)


@pytest.mark.parametrize("axes", [(1,), (1, 1), (1, 1, 1)])
def test_trailing_axes_of_length_1_are_none(tmp_path: Path, axes: tuple[int, ...]) -> None:
    nib.save(nib.Nifti1Image(voxels_of(4, 5, 6, *axes).astype(np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert read(tmp_path / "a.nii.gz").shape == (1, 4, 5, 6)


@pytest.mark.parametrize("implicit", [True, False])
def test_series_without_the_mark_has_the_same_voxels(tmp_path: Path, write_series: Any, implicit: bool) -> None:
    pydicom = pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")
    voxels = voxels_of(4, 5, 6)
    folder = write_series(tmp_path / "ct", voxels)
    for file in folder.iterdir():
        plain = pydicom.Dataset(pydicom.dcmread(file))
        plain.save_as(file, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert series_problems(folder) == []
    np.testing.assert_array_equal(load_volume(str(folder))[0], voxels)


def test_threads_may_share_a_reader(tmp_path: Path) -> None:
    paths = [tmp_path / f"scan{i}.nii.gz" for i in range(40)]
    for i, path in enumerate(paths):
        nib.save(nib.Nifti1Image(np.full((16, 16, 16), i, np.int16), np.eye(4)), path)
    load = LoadImage(image_only=True, reader=ScanReader())
    found = list(in_threads(lambda path: int(load(path).max()), [str(path) for path in paths], 8))
    assert found == list(range(40))
