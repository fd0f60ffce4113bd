# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests: one thread, seeds, and a data set small enough to train on in a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.utils import set_determinism

# tests run beside others on few cores, and volumes this small only lose time to a second thread
torch.set_num_threads(1)

TINY_SHAPE = (20, 18, 22)  # unequal sizes, so that swapped axes show
TINY_CASES = {"training": 2, "unlabeled": 3, "validation": 1, "testing": 1}


@pytest.fixture
def seed() -> Iterator[int]:
    """Seed every generator with 0 for one test, and give the global state back afterwards."""
    set_determinism(0)
    yield 0
    set_determinism(None)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Folder with ``datalist.json`` and NIfTI volumes of 20 x 18 x 22 voxels of 1 mm in LAS orientation, drawn with a
    fixed seed: background, a ball (class 1) and a box (class 2), each with its own intensity, and noise. All sections
    have labels but ``unlabeled``. Shared by the session: copy it before changing it.
    """
    folder = tmp_path_factory.mktemp("tiny_dataset")
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in TINY_SHAPE), indexing="ij"), axis=-1)
    datalist: dict[str, list[dict[str, str]]] = {}
    for section, count in TINY_CASES.items():
        datalist[section] = []
        for case in range(count):
            ball, box = np.array([6, 6, 7]) + rng.integers(-1, 2, 3), np.array([13, 12, 15]) + rng.integers(-1, 2, 3)
            label = np.zeros(TINY_SHAPE, dtype=np.uint8)
            label[np.linalg.norm(grid - ball, axis=-1) <= 4] = 1
            label[(np.abs(grid - box) <= 3).all(axis=-1)] = 2
            image = np.array([0.0, 100.0, 200.0])[label] + rng.normal(0, 20, TINY_SHAPE)
            item = {"image": f"{section}_{case}.nii.gz"}
            nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / item["image"])
            if section != "unlabeled":
                item["label"] = f"{section}_{case}_label.nii.gz"
                nib.save(nib.Nifti1Image(label, affine), folder / item["label"])
            datalist[section].append(item)
    (folder / "datalist.json").write_text(json.dumps(datalist, indent=4))
    return folder


def _write_series(
    folder: Path,
    voxels: np.ndarray,
    step: float = 2.0,
    axes: Sequence[Sequence[float]] = np.eye(3),
    ending: str = ".dcm",
) -> Path:
    pydicom = pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")
    folder.mkdir(parents=True)
    series = pydicom.uid.generate_uid()
    for k in range(voxels.shape[2]):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        header = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        header.SeriesInstanceUID, header.Modality, header.InstanceNumber = series, "CT", k + 1
        header.ImagePositionPatient = [*(k * step * np.asarray(axes[2]))]
        header.ImageOrientationPatient = [*axes[0], *axes[1]]
        header.PixelSpacing = [0.5, 0.75]  # rows, columns
        header.Columns, header.Rows = voxels.shape[:2]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.RescaleSlope, header.RescaleIntercept = 1, -1024
        header.PixelData = (voxels[:, :, k].T.astype(np.int32) + 1024).astype("<i2").tobytes()
        header.save_as(folder / f"slice{k:02d}{ending}", enforce_file_format=True)
    return folder


@pytest.fixture
def write_series() -> Callable[..., Path]:
    """
    Function that writes a CT series, and skips the test without pydicom: ``folder, voxels (columns, rows, slices)``,
    whole numbers, of 0.75 x 0.5 x ``step`` mm; ``axes``, in the patient's LPS, are those of a row, a column and the
    slices.
    """
    return _write_series
