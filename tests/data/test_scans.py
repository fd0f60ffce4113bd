# SPDX-License-Identifier: Apache-2.0
"""What is a scan in a folder, and what is passed over or refused."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.data.scans import find_images
from dtlp_components.data.segmentations import PredictionNames
from dtlp_components.errors import InputError


def test_images_of_a_folder_are_its_nifti_files_in_order(tmp_path):
    for name in ("b.nii", "a.nii.gz", "._a.nii.gz", ".7.a_seg.nii.gz", "c.txt", "d.nii.gz.part"):
        (tmp_path / name).touch()
    (tmp_path / "sub.nii").mkdir()
    assert find_images(str(tmp_path)) == [{"image": f"{tmp_path}/a.nii.gz"}, {"image": f"{tmp_path}/b.nii"}]


def test_endings_may_be_in_capital_letters(tmp_path):
    names = ("A.Nii", "C.NII.GZ")
    for name in names:
        (tmp_path / name).touch()
    assert find_images(str(tmp_path)) == [{"image": f"{tmp_path}/{name}"} for name in names]
    assert find_images(f"{tmp_path}/C.NII.GZ") == [{"image": f"{tmp_path}/C.NII.GZ"}]
    assert PredictionNames(str(tmp_path))({"filename_or_obj": f"{tmp_path}/C.NII.GZ"}, None) == {"subject": "C.nii.gz"}


def test_nifti_files_below_the_folder_are_counted_and_some_named(tmp_path, caplog):
    for name in (
        "a.nii.gz",
        "p3/d.NII",
        "p1/b.nii.gz",
        "p1/e.nii",
        "p2/x/c.nii.gz",
        "p1/.7.b_seg.nii.gz",
        "p1/note.txt",
    ):
        put(tmp_path / name, b"")
    assert find_images(str(tmp_path)) == [{"image": f"{tmp_path}/a.nii.gz"}]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("dtlp", logging.WARNING)
    assert "(4 found: p1/b.nii.gz, p1/e.nii, p2/x/c.nii.gz, …)" in record.getMessage()


def test_nothing_is_said_of_what_is_read(tmp_path, caplog):
    put(tmp_path / "a.nii.gz", b"")
    put(tmp_path / "p1/1.dcm")
    find_images(str(tmp_path))
    find_images(str(tmp_path / "a.nii.gz"))
    assert caplog.records == []


def test_one_file_is_a_list_of_one(tmp_path, monkeypatch):
    (tmp_path / "b.nii").touch()
    monkeypatch.chdir(tmp_path)
    assert find_images("b.nii") == [{"image": f"{tmp_path}/b.nii"}]


@pytest.mark.parametrize(
    ("name", "message"), [("none", "no such file"), ("empty", ".* got no N"), ("a.txt", ".* got no N")]
)
def test_nothing_to_segment_is_an_error(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=f"{name}: {message}"):
        find_images(str(tmp_path / name))


DICOM = b"\0" * 128 + b"DICM"


def put(file: Path, content: bytes = DICOM) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_every_folder_with_dicom_is_a_scan_beside_the_nifti_files(tmp_path):
    put(tmp_path / "b.nii.gz", b"")
    put(tmp_path / "p1/deep/ct/1.DCM", b"")  # by its ending
    put(tmp_path / "p1/deep/ct/2.DCM", b"")
    put(tmp_path / "p1/mr/IM0001")  # by its content
    put(tmp_path / "p2/1.2.840/1.2.840.5")
    put(tmp_path / "p2/c.nii", b"")  # NIfTI of a subfolder is not looked for
    put(tmp_path / "p2/note.txt", b"not DICOM")
    put(tmp_path / "DICOMDIR")  # an index of series, not a slice
    put(tmp_path / ".hidden")
    found = [Path(item["image"]).relative_to(tmp_path).as_posix() for item in find_images(str(tmp_path))]
    assert found == ["b.nii.gz", "p1/deep/ct", "p1/mr", "p2/1.2.840"]
    assert find_images(str(tmp_path / "p1/mr")) == [{"image": str(tmp_path / "p1/mr")}]


def test_links_to_folders_are_followed_and_each_folder_is_one_scan(tmp_path):
    put(tmp_path / "store/p2/ct/1.dcm")
    put(tmp_path / "elsewhere/1.dcm")
    put(tmp_path / "store/p1/1.dcm")
    root = tmp_path / "store"
    (root / "p3").symlink_to(tmp_path / "elsewhere")
    (root / "a_latest").symlink_to(root / "p2")  # sorted before p2, whose own name it must not take
    (root / "p1/cycle").symlink_to(root)
    (root / "p1/up").symlink_to(tmp_path)  # holds the store itself
    assert [Path(item["image"]).relative_to(root).as_posix() for item in find_images(str(root))] == [
        "p1",
        "p2/ct",
        "p3",
    ]
    (tmp_path / "input").symlink_to(root)
    assert len(find_images(str(tmp_path / "input"))) == 3


@pytest.mark.parametrize("closed", ["", "p2", "p2/ct"])
def test_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch, closed):
    put(tmp_path / "p1/1.dcm")
    put(tmp_path / "p2/ct/1.dcm")

    # not chmod, which root may pass
    def refuse_closed(function):
        def refusing(path="."):
            if Path(path) == tmp_path / closed:
                raise PermissionError(13, "Permission denied", str(path))
            return function(path)

        return refusing

    monkeypatch.setattr(os, "scandir", refuse_closed(os.scandir))
    monkeypatch.setattr(os, "listdir", refuse_closed(os.listdir))
    with pytest.raises(InputError, match=rf"^{tmp_path / closed}: cannot be read \(Permission denied\)"):
        find_images(str(tmp_path))


def test_link_to_a_folder_that_is_gone_is_an_error(tmp_path):
    put(tmp_path / "p1/1.dcm")
    (tmp_path / "p2").symlink_to(tmp_path / "not mounted")
    with pytest.raises(InputError, match=rf"^{tmp_path}/p2: cannot be read \(No such file"):
        find_images(str(tmp_path))


def test_hidden_folders_and_links_to_notes_are_passed_over(tmp_path):
    put(tmp_path / "p1/1.dcm")
    put(tmp_path / ".snapshot/p1/1.dcm")
    (tmp_path / "README.md").symlink_to(tmp_path / "gone")
    assert find_images(str(tmp_path)) == [{"image": f"{tmp_path}/p1"}]


def test_one_dicom_file_stands_for_its_series(tmp_path, write_series):
    folder = write_series(tmp_path / "ct", np.zeros((4, 5, 3), int))
    assert find_images(str(folder / "slice01.dcm")) == [{"image": str(folder / "slice01.dcm")}]
    put(tmp_path / "IM1")
    with pytest.raises(InputError, match="IM1: damaged or not a DICOM file"):
        find_images(str(tmp_path / "IM1"))


@pytest.mark.parametrize(("one", "other"), [("a.nii", "a.nii.gz"), ("p_1/ct/1.dcm", "p/1_ct/1.dcm")])
def test_scans_whose_label_maps_would_overwrite_each_other_are_refused(tmp_path, one, other):
    put(tmp_path / one, b"")
    put(tmp_path / other, b"")
    with pytest.raises(InputError, match="would have the same name as that of"):
        find_images(str(tmp_path))


def test_label_maps_beside_their_scans_are_passed_over_and_named(tmp_path, caplog):
    for name in ("a", "a_label", "b_image", "b_seg", "c_0000", "c_gt", "volume-3", "segmentation-3", "lone_seg"):
        put(tmp_path / f"{name}.nii.gz", b"")
    found = [Path(item["image"]).name.removesuffix(".nii.gz") for item in find_images(str(tmp_path))]
    assert found == ["a", "b_image", "c_0000", "lone_seg", "volume-3"]
    assert "4 files (a_label.nii.gz, b_seg.nii.gz, c_gt.nii.gz, …) are named like label maps" in caplog.text


def test_volumes_of_other_formats_are_counted_and_named(tmp_path, caplog):
    for name in ("a.nii", "b.nrrd", "c.MHA", "d.img", "d.hdr", "e.nii.bz2"):
        put(tmp_path / name, b"")
    assert len(find_images(str(tmp_path))) == 1
    assert "5 files (b.nrrd, c.MHA, d.hdr, …) are in unsupported formats" in caplog.text
