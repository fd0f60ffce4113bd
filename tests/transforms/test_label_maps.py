# SPDX-License-Identifier: Apache-2.0
"""The largest component of each class, and files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import KeepLargestConnectedComponent

from dtlp_components import KeepLargestComponentd, WholeFileWriter
from dtlp_components.errors import InputError


def test_smaller_components_become_background() -> None:
    labels = torch.zeros(1, 6, 7, 8, dtype=torch.uint8)
    labels[0, :2, :2, :2] = 1  # 8 voxels
    labels[0, 4, 5:7, 6] = 1  # 2 voxels
    labels[0, 5, 0, 0] = 2  # alone, and smaller than what class 1 loses
    kept = KeepLargestComponentd("pred")({"pred": MetaTensor(labels.clone())})["pred"]
    labels[0, 4] = 0
    assert torch.equal(kept.as_tensor(), labels)


def test_voxels_that_share_a_corner_are_connected() -> None:
    labels = torch.zeros(1, 4, 5, 6, dtype=torch.uint8)
    labels[0, 0, 0, 0] = labels[0, 1, 1, 1] = labels[0, 2, 2, 2] = 3
    kept = KeepLargestComponentd("pred")({"pred": labels.clone()})["pred"]
    assert torch.equal(kept, labels)


def test_result_is_that_of_monai_on_the_whole_volume(seed: int) -> None:
    labels = (torch.rand(1, 12, 13, 14) ** 3 * 4).to(torch.uint8)
    whole = KeepLargestConnectedComponent(applied_labels=[1, 2, 3], is_onehot=False, independent=True)(labels.clone())
    kept = KeepLargestComponentd("pred")({"pred": labels.clone()})["pred"]
    assert (kept != labels).any()
    assert torch.equal(kept, whole)


@pytest.mark.parametrize("content", [0, 1])
def test_empty_and_full_maps_stay(content: int) -> None:
    labels = torch.full((1, 4, 5, 6), content, dtype=torch.uint8)
    assert torch.equal(KeepLargestComponentd("pred")({"pred": labels.clone()})["pred"], labels)


def write(file: Path) -> None:
    writer = WholeFileWriter(output_dtype=np.uint8)
    writer.set_data_array(np.ones((1, 4, 5, 6)))
    writer.set_metadata({"affine": np.diag([2.0, 3, 4, 1])}, resample=False)
    writer.write(file)


def test_written_file_is_alone_in_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz")
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]
    assert nib.load(tmp_path / "a.nii.gz").shape == (4, 5, 6)


def test_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.nii.gz")
    before = (tmp_path / "a.nii.gz").read_bytes()

    def fail(image: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nibabel.save", fail)
    with pytest.raises(InputError, match=r"a\.nii\.gz: cannot be written \(OSError: .*No space left"):
        write(tmp_path / "a.nii.gz")
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]
    assert (tmp_path / "a.nii.gz").read_bytes() == before


def test_first_class_of_a_map_without_background_is_no_exception() -> None:
    labels = torch.full((1, 6, 6, 6), 2, dtype=torch.uint8)
    labels[0, :3] = 1
    labels[0, 5, 5, 5] = 1
    kept = KeepLargestComponentd("pred")({"pred": labels.clone()})["pred"]
    assert kept[0, 5, 5, 5] == 0
    assert torch.equal(kept[0, :5], labels[0, :5])


def test_label_map_has_the_forms_of_its_scan(tmp_path: Path) -> None:
    scan = nib.Nifti1Image(np.ones((4, 5, 6)), np.diag([2.0, 3, 4, 1]))
    scan.set_sform(scan.affine, 4)
    scan.set_qform(np.diag([2.0, 3, 4, 1]), 2)
    nib.save(scan, tmp_path / "scan.nii.gz")
    writer = WholeFileWriter(output_dtype=np.uint8)
    writer.set_data_array(np.ones((1, 4, 5, 6)))
    writer.set_metadata({"affine": scan.affine, "filename_or_obj": str(tmp_path / "scan.nii.gz")}, resample=False)
    writer.write(tmp_path / "a.nii.gz")
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (4, 2)
    assert header.get_data_dtype() == np.uint8
