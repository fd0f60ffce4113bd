# SPDX-License-Identifier: Apache-2.0
"""Tiny scans in folders of a user's, and the bundle made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from dtlp_components.errors import InputError
from dtlp_components.own_data.command import new_bundle

SHAPE = (20, 18, 22)  # unequal sizes, so that swapped axes show


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, 1.0, 1.0, 1.0]) if affine is None else affine), path)
    return path


def mr(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).gamma(4, 30, shape).astype(np.float32)


def ct(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A body of 40 HU, with 15 HU of noise, in air."""
    voxels = np.full(shape, -1000, np.int16)
    inside = tuple(slice(3, side - 3) for side in shape)
    voxels[inside] = np.random.default_rng(seed).normal(40, 15, voxels[inside].shape).round()
    return voxels


def label(*values: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Background, and 4 x 5 x 6 voxels of every value."""
    voxels = np.zeros(shape, np.uint8 if max(values, default=0) < 256 else np.int16)
    for i, value in enumerate(values):
        voxels[5:9, 5:10, 3 + 6 * i : 9 + 6 * i] = value
    return voxels


def labeled(folder: Path, count: int = 2, values: tuple[int, ...] = (1, 2), seed: int = 0, image: Any = mr) -> Path:
    for i in range(count):
        save(folder / f"imagesTr/case{i}.nii.gz", image(seed + i))
        save(folder / f"labelsTr/case{i}.nii.gz", label(*values))
    return folder


def unlabeled(folder: Path, count: int = 3, seed: int = 100, image: Any = mr) -> Path:
    for i in range(count):
        save(folder / f"scan{i}.nii.gz", image(seed + i))
    return folder


def make(**flags: Any) -> Path:
    return new_bundle(**{"name": "mine", "labeled": "site_a", "unlabeled": "site_b", **flags})


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def listed(bundle: Path = Path("bundles/mine")) -> dict[str, Any]:
    return read(bundle / "datalist.json")


def train(bundle: Path = Path("bundles/mine")) -> dict[str, Any]:
    return read(bundle / "configs/train.json")


def refusal(**flags: Any) -> str:
    """The message of a refused call, which must have written nothing."""
    with pytest.raises(InputError) as caught:
        make(**flags)
    assert not Path("bundles/mine").exists()
    return str(caught.value)


def cases(section: str) -> list[str]:
    return [Path(item["image"]).name for item in listed()[section]]


def gap_in_the_values(near: Path) -> dict[str, Any]:
    labeled(near / "gap", values=(200, 500))
    return {"labeled": "gap"}


def four_dimensions(near: Path) -> dict[str, Any]:
    save(near / "site_b/cine.nii.gz", mr(1, (*SHAPE, 3)))
    return {}


def run(bundle: Path, config: str, output: Path, **overrides: Any) -> None:
    work = ConfigWorkflow(
        workflow_type="train" if config == "train" else "infer",
        config_file=str(bundle / "configs" / f"{config}.json"),
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=str(bundle / "configs/logging.conf"),
        output_dir=str(output),
        device="cpu",
        **overrides,
    )
    work.initialize()
    work.run()
    work.finalize()
