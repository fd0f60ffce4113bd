# SPDX-License-Identifier: Apache-2.0
"""Reading scans from disk."""

from __future__ import annotations

import gzip
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor, NibabelReader, PydicomReader, correct_nifti_header_if_necessary
from monai.transforms import LoadImage
from monai.utils import ensure_tuple, optional_import

from .dicom import series_files

__all__ = ["ScanReader", "load_nifti", "load_volume"]

format_number_as_ds, _ = optional_import("pydicom.valuerep", name="format_number_as_ds")

# Every LoadImage sets up MONAI's reader for compressed DICOM on CUDA, which complains each time that its package is
# missing. Only who asked for that reader needs to know.
if os.environ.get("MONAI_DICOM_READER", "").lower() != "nvimgcodec":
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").addFilter(
        lambda record: not record.getMessage().startswith("nvImageCodec is not available")
    )
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader: nvImageCodec decoder plugin did not register")


def load_nifti(path: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Read a NIfTI file to its last byte.

    Returns:
        Voxels as stored, ``(x, y, z)`` or more axes, without trailing ones of length 1, and the affine ``(4, 4)`` that
        MONAI takes, voxel index to mm in RAS.

    Raises:
        Exception: whatever nibabel, gzip, zlib and numpy raise for a file that is damaged.
    """
    kind: Any = type(nib.load(path))
    with gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb") as file:
        image = kind.from_stream(file)
        voxels = np.asanyarray(image.dataobj)
        # nibabel stops after the last voxel; only who reads on gets gzip's checksum compared
        while file.read(1 << 24):
            pass
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    return voxels, np.asarray(correct_nifti_header_if_necessary(image).affine, float)


def load_volume(path: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Read a scan to its last byte.

    Args:
        path: a NIfTI file, or a folder with one DICOM series.

    Returns:
        Voxels ``(x, y, z)`` as stored, or more axes (:py:func:`load_nifti`), and the affine ``(4, 4)``, voxel index to
        mm in RAS: what :py:class:`ScanReader` gives to MONAI.
    """
    if not os.path.isdir(path):
        return load_nifti(path)
    volume: MetaTensor = LoadImage(image_only=True)(path, _SeriesReader())
    return volume.as_tensor().numpy(), volume.affine.numpy()


class ScanReader(ImageReader):
    """
    For MONAI's ``LoadImaged``: a folder is read as one DICOM series with pydicom, a file as NIfTI with nibabel.

    Left to itself, MONAI takes ITK for a folder wherever that is installed, which splits a series whose slices differ
    in date or thickness and reads the first part; and its pydicom reader stumbles over folders and other files beside
    the slices. The affine is to RAS in mm. What neither can read is left to MONAI's other readers.

    Raises:
        OptionalImportError: when a folder is read, if pydicom is missing.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        is_series = os.path.isdir(ensure_tuple(data)[0])
        # trailing axes of length 1 are none; without the flag, only the first of several would go
        self._reader: ImageReader = _SeriesReader() if is_series else NibabelReader(squeeze_non_spatial_dims=True)
        return self._reader.read(data, **kwargs)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        data: tuple[np.ndarray, dict[str, Any]] = self._reader.get_data(img)
        return data


class _SeriesReader(PydicomReader):
    """Reads the slices of a folder and nothing else in it, with numbers as long as they are."""

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        (folder,) = ensure_tuple(data)
        slices = super().read([str(file) for file in series_files(Path(folder))], **kwargs)
        for header in slices:
            # MONAI loses numbers of more than 16 characters, which DICOM forbids and scanners write, and puts the
            # identity
            for tag in ("ImageOrientationPatient", "ImagePositionPatient"):
                header[tag].value = [format_number_as_ds(float(number)) for number in header[tag].value]
        # what MONAI notes when it has read a folder by itself
        self.has_series, self.filenames = True, [self.filenames]  # type: ignore[list-item]
        return slices
