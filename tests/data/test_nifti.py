# SPDX-License-Identifier: Apache-2.0
"""NIfTI files: what their names and headers say, and reading them to the last byte."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.data.nifti import nifti_problems, save_nifti, without_suffix
from dtlp_components.data.readers import ScanReader, load_nifti
from tests.damaged import SHAPE, label, noise, save


@pytest.mark.parametrize("name", ["a.nii.gz", "A.NII.GZ"])
def test_checksum_of_a_compressed_file_is_compared(tmp_path: Path, name: str) -> None:
    content = bytearray(save(tmp_path / "b.nii.gz", noise()).read_bytes())
    content[-8] ^= 1  # gzip ends in CRC32 and length, four bytes each
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        load_nifti(str(tmp_path / name))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_both_versions_are_read_as_they_are_stored(tmp_path: Path, kind: type, ending: str) -> None:
    affine = np.array([[0, 0, 3.0, 5], [-2.0, 0, 0, 6], [0, 1.0, 0, 7], [0, 0, 0, 1]])
    nib.save(kind(label(np.int16)[..., None, None], affine), tmp_path / f"a{ending}")
    assert list(nifti_problems(str(tmp_path / f"a{ending}"))) == []
    voxels, read_affine = load_nifti(str(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(voxels, label())
    np.testing.assert_array_equal(read_affine, affine)
    assert voxels.dtype == np.int16


def test_scale_factor_of_the_header_is_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", label(np.int16), scl_slope=0.5, scl_inter=-3)
    np.testing.assert_array_equal(load_nifti(str(path))[0], label() * 0.5 - 3)


def test_affine_is_the_one_that_a_bundle_trains_with(tmp_path: Path) -> None:
    # the sides say 1 x 1 x 2 mm, which the qform follows and the sform does not: nibabel takes the sform, MONAI the
    # qform
    rows = {"srow_x": [-3, 0, 0, 0], "srow_y": [0, 3, 0, 0], "srow_z": [0, 0, 3, 0]}
    path = save(tmp_path / "a.nii", noise(), sform_code=1, qform_code=1, **rows)
    reader = ScanReader()
    _, meta = reader.get_data(reader.read(str(path)))
    affine = load_nifti(str(path))[1]
    np.testing.assert_array_equal(affine, meta["affine"])
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [1, 1, 2])


@pytest.mark.parametrize(
    ("code", "problems"),
    [(0, 0), (2, 0), (2 + 8, 0), (1, 1), (3, 1), (3 + 8, 1)],  # 8 is the unit of time, seconds
)
def test_unit_of_length_must_be_mm_or_unsaid(tmp_path: Path, code: int, problems: int) -> None:
    assert len(list(nifti_problems(str(save(tmp_path / "a.nii", noise(), xyzt_units=code))))) == problems


def test_everything_that_is_wrong_with_a_header_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", noise().astype(np.complex64), xyzt_units=1, pixdim=[[-1, 1, 1, 0, 0, 0, 0, 0]])
    complex_numbers, unit, sides = nifti_problems(str(path))
    assert "complex ones (complex64)" in complex_numbers
    assert "meters" in unit
    assert "1 x 1 x 0 mm" in sides


def test_written_file_is_read_again_with_its_unit(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", np.arange(336).reshape(SHAPE), np.diag([-1.0, 2, 3, 1]))
    voxels, affine = load_nifti(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(voxels, np.arange(336).reshape(SHAPE))
    np.testing.assert_array_equal(affine, np.diag([-1, 2, 3, 1]))
    assert voxels.dtype == np.float32
    assert nib.load(tmp_path / "a.nii.gz").header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(
    ("name", "short"), [("a.nii", "a"), ("b.NII.GZ", "b"), ("a.nii.x.nii.gz", "a.nii.x"), ("c.gz", "c.gz")]
)
def test_ending_of_nifti_is_taken_off(name: str, short: str) -> None:
    assert without_suffix(name) == short
