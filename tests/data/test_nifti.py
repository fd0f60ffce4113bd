# SPDX-License-Identifier: Apache-2.0
"""NIfTI files: what their names and headers say, and reading them to the last byte."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage

from dtlp_components.data.nifti import nifti_problems, placed_header, placed_image, save_nifti, without_suffix
from dtlp_components.data.readers import ScanReader, load_nifti
from dtlp_components.data.volumes import read_volume
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


def test_sform_counts_whatever_the_sides_say(tmp_path: Path) -> None:
    image = nib.Nifti1Image(noise(), None)
    image.set_sform([[0, 0, 3.0, 5], [-2.0, 0, 0, 6], [0, 1.0, 0, 7], [0, 0, 0, 1]], 1)
    image.header["pixdim"][1:4] = 1, 1, 1
    nib.save(image, tmp_path / "a.nii.gz")
    volume = LoadImage(ScanReader(), image_only=True)(str(tmp_path / "a.nii.gz"))
    for affine in (load_nifti(str(tmp_path / "a.nii.gz"))[1], volume.affine):
        np.testing.assert_array_equal(affine, image.get_sform())


def test_scale_factor_of_the_header_is_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", label(np.int16), scl_slope=0.5, scl_inter=-3)
    np.testing.assert_array_equal(load_nifti(str(path))[0], label() * 0.5 - 3)


def test_affine_is_the_one_that_a_bundle_trains_with(tmp_path: Path) -> None:
    # the sides say 1 x 1 x 2 mm, which the qform follows and the sform does not: left alone, MONAI takes the qform
    rows = {"srow_x": [-3, 0, 0, 0], "srow_y": [0, 3, 0, 0], "srow_z": [0, 0, 3, 0]}
    path = save(tmp_path / "a.nii", noise(), sform_code=1, qform_code=1, **rows)
    reader = ScanReader()
    _, meta = reader.get_data(reader.read(str(path)))
    affine = load_nifti(str(path))[1]
    np.testing.assert_array_equal(affine, meta["affine"])
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [3, 3, 3])


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


# --- where programs built on ITK show a volume

SHEARED = np.array([[-1.0, 0, 0, 30], [0, 1.0, 0.4, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])
TURNED = np.array([[-0.8, -0.6, 0, 30], [-0.6, 0.8, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])
FORMS = {  # codes of sform and qform, their affines, unit
    "both": (1, 1, TURNED, TURNED, "mm"),
    "both of other codes": (4, 2, TURNED, TURNED, "mm"),
    "sform alone": (2, 0, TURNED, None, "unknown"),
    "qform alone": (0, 1, None, TURNED, "mm"),
    "forms that differ": (4, 1, TURNED, np.diag([-1.0, 1.0, 2.0, 1.0]), "mm"),
    "neither": (0, 0, None, None, "mm"),
    "sheared sform": (1, 0, SHEARED, None, "mm"),
    "sheared sform and a qform": (1, 1, SHEARED, TURNED, "mm"),
    "left-handed": (1, 1, np.diag([1.0, 1.0, -2.0, 1.0]), np.diag([1.0, 1.0, -2.0, 1.0]), "mm"),
}


def with_forms(file: Path, form: str) -> Path:
    sform_code, qform_code, sform, qform, unit = FORMS[form]
    image = nib.Nifti1Image(noise(), None)
    image.header["pixdim"][1:4] = 1, 1, 2
    image.set_sform(sform, sform_code)
    image.set_qform(qform, qform_code)
    image.header.set_xyzt_units(unit)
    nib.save(image, file)
    return file


def itk_view(file: Path) -> object:
    """Where ITK puts the corners of a volume, or that it refuses it."""
    itk = pytest.importorskip("SimpleITK", reason="pip install SimpleITK")
    try:
        image = itk.ReadImage(str(file))
    except RuntimeError as error:
        return str(error).strip().splitlines()[-1].partition(":")[2]
    size = image.GetSize()
    corners = ((x, y, z) for x in (0, size[0] - 1) for y in (0, size[1] - 1) for z in (0, size[2] - 1))
    return [image.TransformIndexToPhysicalPoint(corner) for corner in corners]


@pytest.mark.parametrize("form", FORMS)
def test_label_map_is_where_its_scan_is_for_nibabel_and_for_itk(tmp_path: Path, form: str) -> None:
    scan = with_forms(tmp_path / "scan.nii.gz", form)
    _, affine = load_nifti(str(scan))
    nib.save(placed_image(label(np.uint8), affine, str(scan)), tmp_path / "seg.nii.gz")
    ours, theirs = (nib.load(file).header for file in (tmp_path / "seg.nii.gz", scan))
    assert itk_view(tmp_path / "seg.nii.gz") == itk_view(scan)
    np.testing.assert_array_equal(ours.get_best_affine(), theirs.get_best_affine())
    for name in ("sform_code", "qform_code"):
        assert ours[name] == theirs[name]
    assert ours.get_xyzt_units()[0] == theirs.get_xyzt_units()[0]
    np.testing.assert_array_equal(nib.load(tmp_path / "seg.nii.gz").dataobj, label())


@pytest.mark.parametrize(
    ("affine", "qform_code", "lines"), [(TURNED, 1, 0), (SHEARED, 0, 1)], ids=["turned", "sheared"]
)
def test_shear_is_in_the_sform_alone_and_a_line_says_so(
    affine: np.ndarray, qform_code: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    header = placed_header(SHAPE, affine)
    assert (header["sform_code"], header["qform_code"]) == (1, qform_code)
    np.testing.assert_allclose(header.get_best_affine(), affine, atol=1e-6)
    np.testing.assert_allclose(header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), atol=1e-6)
    assert caplog.text.count("its axes are not at right angles") == lines


def test_source_on_another_grid_says_nothing(tmp_path: Path) -> None:
    scan = with_forms(tmp_path / "scan.nii.gz", "both of other codes")
    moved = TURNED.copy()
    moved[0, 3] += 0.5
    for source in (str(scan), str(tmp_path / "gone.nii.gz"), str(tmp_path)):
        header = placed_header(SHAPE, moved, source)
        np.testing.assert_allclose(header.get_best_affine(), moved, atol=1e-6)
        assert header["sform_code"] == 1


@pytest.mark.parametrize(("form", "warnings"), [("neither", 1), ("qform alone", 0), ("sform alone", 0)])
def test_scan_with_neither_form_is_a_warning(
    tmp_path: Path, form: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_volume(str(with_forms(tmp_path / "scan.nii.gz", form)))[1] == []
    assert caplog.text.count("left and right are unknown") == warnings
