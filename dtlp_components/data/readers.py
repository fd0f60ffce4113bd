# SPDX-License-Identifier: Apache-2.0
"""Reading scans from disk."""

from __future__ import annotations

import gzip
import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor, NibabelReader, PydicomReader
from monai.transforms import LoadImage
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple, optional_import

from .channel_files import channel_files
from .series import is_series, series_of

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
        Voxels as stored, ``(x, y, z)`` or more axes, without trailing ones of length 1, and the affine ``(4, 4)``,
        voxel index to mm in RAS.

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
    return voxels, np.asarray(image.affine, float)


def load_volume(path: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Read a scan to its last byte.

    Args:
        path: a NIfTI file, a folder with one DICOM series, or a file of a series.

    Returns:
        Voxels ``(x, y, z)`` as stored, or more axes (:py:func:`load_nifti`), and the affine ``(4, 4)``, voxel index to
        mm in RAS: what :py:class:`ScanReader` gives to MONAI.
    """
    if not is_series(path):
        return load_nifti(path)
    volume: MetaTensor = LoadImage(image_only=True)(path, ScanReader())
    return volume.as_tensor().numpy(), volume.affine.numpy()


class ScanReader(ImageReader):
    """
    For MONAI's ``LoadImaged``: a folder, or a DICOM file, is read as one series with pydicom, others as NIfTI with
    nibabel; of a scan whose channels are in files of their own, all of them.

    Left to itself, MONAI takes ITK for a folder wherever that is installed, which splits a series whose slices differ
    in date or thickness and reads the first part; and its pydicom reader stumbles over folders and other files beside
    the slices. The affine is to RAS in mm.

    Args:
        channels: endings of the names of those files (:py:mod:`dtlp_components.data.channel_files`). A path that ends
            in the first stands for all; any other one, such as a label's, is read alone.
        fill_missing: give zeros for a channel whose file is not there, if another one is.

    Raises:
        OptionalImportError: when a folder is read, if pydicom is missing.

    Example:
        >>> import os, tempfile, nibabel, numpy
        >>> from monai.transforms import LoadImage
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = os.path.join(folder.name, "scan.nii.gz")
        >>> nibabel.save(nibabel.Nifti1Image(numpy.zeros((4, 5, 6), "float32"), numpy.eye(4)), file)
        >>> LoadImage(reader=ScanReader())(file).shape
        torch.Size([4, 5, 6])
    """

    def __init__(self, channels: Sequence[str] = (), fill_missing: bool = False) -> None:
        self.channels, self.fill_missing = list(channels), fill_missing

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        path = str(ensure_tuple(data)[0])
        if is_series(path):
            of_series: ImageReader = _SeriesReader() if series_of(path)[0].frame is None else _FramesReader()
            return _Opened(of_series, of_series.read(data, **kwargs))
        # trailing axes of length 1 are none; without the flag, only the first of several would go
        of_nifti = NibabelReader(squeeze_non_spatial_dims=True)
        files = channel_files(path, self.channels)
        there = [file for file in files if os.path.exists(file)] if self.fill_missing else files
        names = [file if file in there or not there else there[0] for file in files]
        of_nifti.read(names, **kwargs)  # which notes the names
        # not what it returns: where sides and sform disagree, it puts the qform into the sform, even one of code 0
        images: dict[str, Any] = {file: nib.load(file) for file in there}
        opened = [images[file] if file in images else _empty_like(images[there[0]]) for file in files]
        return _Opened(of_nifti, opened[0] if len(opened) == 1 else opened)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        data: tuple[np.ndarray, dict[str, Any]] = img.reader.get_data(img.file)
        return data


def _empty_like(image: Any) -> Any:
    """Zeros on the grid of another channel."""
    return nib.Nifti1Image(np.zeros(image.shape, np.float32), image.affine)


class _Opened(NamedTuple):
    """What was opened, with its reader, which is not kept in the one for all files: threads share that one."""

    reader: ImageReader
    file: Any


class _SeriesReader(PydicomReader):
    """Reads the slices of a series and nothing else beside them, in the order of their places."""

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        (path,) = ensure_tuple(data)
        slices = series_of(path)
        files = [str(found.file) for found in slices]
        headers = super().read(files, force=True, **kwargs)  # files of old archives lack the mark
        for number, (header, found) in enumerate(zip(headers, slices, strict=True)):
            # MONAI stacks by this number, which may be missing or count something else
            header.InstanceNumber = number
            # MONAI loses numbers of more than 16 characters, which DICOM forbids and scanners write, and puts the
            # identity
            header.ImageOrientationPatient = [format_number_as_ds(x) for x in found.orientation or ()]
            header.ImagePositionPatient = [format_number_as_ds(x) for x in found.position or ()]
            header.PixelSpacing = [format_number_as_ds(x) for x in found.spacing or ()]
            if "SliceThickness" in header:  # not used, and complained about if its digits are too many
                del header.SliceThickness
            if "TransferSyntaxUID" not in header.file_meta:
                implicit, little = header.original_encoding
                header.file_meta.TransferSyntaxUID = _PLAIN[bool(implicit), bool(little)]
        # what MONAI notes when it has read a folder by itself
        self.has_series, self.filenames = True, [files]  # type: ignore[list-item]
        return headers


# implicit?, little endian? -> how pixels are packed in a file that does not say it: not at all
_PLAIN = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}


class _FramesReader(ImageReader):
    """
    Reads an enhanced multi-frame image, the frames in the order of their places.

    MONAI puts the identity for its affine; highdicom's ``get_volume`` wants attributes that converters leave out, and
    judges gaps by other rules than those for a series of files.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        import pydicom

        (path,) = ensure_tuple(data)
        self._frames = series_of(path)
        return pydicom.dcmread(self._frames[0].file, force=True)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        stored, frames = img.pixel_array, self._frames  # (frames, rows, columns)
        voxels = np.empty((frames[0].columns, frames[0].rows, len(frames)), np.float32)
        for i, frame in enumerate(frames):
            slope, intercept = (1.0 if frame.slope is None else frame.slope), frame.intercept or 0.0
            voxels[..., i] = stored[frame.frame].T * slope + intercept
        row, column = np.asarray(frames[0].orientation, float).reshape(2, 3)
        first, last = (np.asarray(frame.position, float) for frame in (frames[0], frames[-1]))
        between_rows, between_columns = frames[0].spacing  # type: ignore[misc]
        affine = np.eye(4)
        affine[:3] = np.stack(
            [row * between_columns, column * between_rows, (last - first) / max(1, len(frames) - 1), first], axis=1
        )
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS
        return voxels, {
            MetaKeys.AFFINE: affine, MetaKeys.ORIGINAL_AFFINE: affine.copy(), MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(voxels.shape), MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        }  # fmt: skip
