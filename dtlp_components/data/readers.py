# SPDX-License-Identifier: Apache-2.0
"""Reading scans from disk."""

from __future__ import annotations

import gzip
import logging
import os
import warnings

from monai.data import MetaTensor
from monai.transforms import LoadImage

__all__ = ["load_volume"]

# Every LoadImage sets up MONAI's reader for compressed DICOM on CUDA, which complains each time that its package is
# missing. Only who asked for that reader needs to know.
if os.environ.get("MONAI_DICOM_READER", "").lower() != "nvimgcodec":
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").addFilter(
        lambda record: not record.getMessage().startswith("nvImageCodec is not available")
    )
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader: nvImageCodec decoder plugin did not register")


def load_volume(path: str) -> MetaTensor:
    """
    Read a scan to its last byte.

    Returns:
        Voxels ``(1, x, y, z)`` float32, channel first (a NIfTI file's fourth axis becomes the first one), with ``affine``.
    """
    if path.endswith(".gz"):
        # nibabel stops after the last voxel; only who reads on gets the checksum compared
        with gzip.open(path) as file:
            while file.read(1 << 24):
                pass
    volume: MetaTensor = LoadImage(image_only=True, ensure_channel_first=True)(path)
    return volume
