# SPDX-License-Identifier: Apache-2.0
"""A raw download of tiny volumes, and the folder it is prepared into."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

SHAPE = (4, 5, 6)
SECTIONS = ("training", "unlabeled", "validation", "testing")


class Download:
    """``source`` and ``output`` below a test's own folder, and short ways to fill the one and read the other."""

    def __init__(self, folder: Path) -> None:
        self.source, self.output = folder / "raw", folder / "prepared"
        self.source.mkdir()

    def write(self, path: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
        """A NIfTI file in ``source``."""
        target = self.source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, np.diag([-0.5, 0.75, 2, 1]) if affine is None else affine), target)
        return target

    def copy(self, file: Path, path: str) -> Path:
        """The same file under another name in ``source``: quicker than writing it."""
        target = self.source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
        return target

    def lists(self) -> dict[str, dict[str, Any]]:
        """Content of every datalist, by what stands between ``datalist_`` and ``.json``."""
        files = sorted(self.output.glob("datalist_*.json"))
        return {file.stem.removeprefix("datalist_"): json.loads(file.read_text()) for file in files}

    def sizes(self) -> dict[str, list[int]]:
        """Number of labeled, unlabeled, validation and test items of every datalist."""
        return {suffix: [len(content[section]) for section in SECTIONS] for suffix, content in self.lists().items()}

    def manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.output / "manifest.json").read_text())
        return content

    def load(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Voxels and affine of a file in ``output``."""
        image = nib.load(self.output / path)
        return np.asanyarray(image.dataobj), image.affine

    def snapshot(self) -> dict[str, tuple[bytes, int]]:
        """Every file of ``output`` with its content and, for scans, the time it was written."""
        files = (file for file in self.output.rglob("*") if file.is_file())
        return {
            str(file.relative_to(self.output)): (
                file.read_bytes(),
                file.stat().st_mtime_ns if file.name.endswith(".nii.gz") else 0,
            )
            for file in files
        }


@pytest.fixture
def download(tmp_path: Path) -> Download:
    return Download(tmp_path)


@pytest.fixture
def image() -> np.ndarray:
    """A different value in every voxel."""
    return np.random.default_rng(0).permutation(4 * 5 * 6).reshape(SHAPE).astype(np.int16)


def cut_in_half(path: Path) -> bytes:
    """Cut a file, as an interrupted download does, and return what it was."""
    whole = path.read_bytes()
    path.unlink()  # it may be a link to other cases' file
    path.write_bytes(whole[: len(whole) // 2])
    return whole


@pytest.fixture
def truncate() -> Any:
    return cut_in_half
