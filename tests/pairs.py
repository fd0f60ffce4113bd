# SPDX-License-Identifier: Apache-2.0
"""Images and labels of a few voxels."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (4, 5, 6)


def save(path: Path, array: np.ndarray | None = None, affine: np.ndarray | None = None) -> str:
    """Write a NIfTI file; float noise unless told otherwise."""
    if array is None:
        # each file its own, or one would be a copy of another
        array = np.random.default_rng(zlib.crc32(path.name.encode())).normal(size=SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def pair(folder: Path, name: str = "a", highest: int = 1, **label: Any) -> dict[str, str]:
    """An image and a label whose values reach `highest`."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[1, 2, 3] = highest
    return {
        "image": save(folder / f"{name}.nii.gz"),
        "label": save(folder / f"{name}_label.nii.gz", **{"array": array, **label}),
    }
