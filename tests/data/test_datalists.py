# SPDX-License-Identifier: Apache-2.0
"""Datalists and folders of images, right and wrong."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.data.datalists import load_datalist
from dtlp_components.data.scans import find_images
from dtlp_components.data.segmentations import PredictionNames
from dtlp_components.errors import InputError
from dtlp_components.keys import DatalistKeys
from dtlp_components.own_data.find import find_scans


def write(folder: Path, content: Any) -> str:
    path = folder / "datalist.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_paths_start_at_the_folder_and_other_keys_are_dropped(tmp_path):
    item = {"image": "a/./i.nii", "label": "l.nii", "domain": "A", "age": 70}
    found = load_datalist(write(tmp_path, {"training": [item]}), "training", str(tmp_path / "set"))
    assert found == [{"image": f"{tmp_path}/set/a/i.nii", "label": f"{tmp_path}/set/l.nii", "domain": "A"}]


def test_box_is_passed_on_in_every_section(tmp_path):
    item = {"image": "/i.nii", "published_box": [[0, 4], [1, 5], [2, 6]]}
    datalist = write(tmp_path, {"training": [item], "unlabeled": [{**item, "label": "l.nii"}]})
    assert load_datalist(datalist, "training", str(tmp_path)) == [item]
    assert load_datalist(datalist, "unlabeled", str(tmp_path)) == [item]


@pytest.mark.parametrize(
    ("box", "found"),
    [
        (None, "null"),
        ({}, "an object"),
        ([[0, 4], [1, 5]], "a list"),
        ([[0, 4], [1, 5], [2, 6], [3, 7]], "a list"),
        ([[0, 4], [1, 5], [2]], "a list"),
        ([[0, 4], [1, 5], 2], "a list"),
        ([[0, 4], [1, 5], [2, 6.0]], "a list"),
        ([[0, 4], [1, 5], [2, "6"]], "a list"),
        ([[0, 4], [1, 5], [False, 6]], "a list"),
        ([[-1, 4], [1, 5], [2, 6]], "a list"),
        ([[0, 4], [5, 5], [2, 6]], "a list"),
    ],
)
def test_what_is_no_box_is_refused(tmp_path, box, found):
    datalist = write(tmp_path, {"testing": [{"image": "i.nii", "published_box": box}]})
    expected = "`testing`, item 0 .*: `published_box` must be three pairs of whole numbers, 0 <= start < end, found"
    with pytest.raises(InputError, match=f"datalist.json: {expected} {found}"):
        load_datalist(datalist, "testing", str(tmp_path))


def test_a_domain_that_is_also_a_path_stays_a_name(tmp_path, monkeypatch):
    (tmp_path / "A").mkdir()
    monkeypatch.chdir(tmp_path)
    datalist = write(tmp_path, {"testing": [{"image": "i.nii", "domain": "A"}]})
    assert load_datalist(datalist, "testing", ".")[0]["domain"] == "A"


def test_relative_dataset_dir_gives_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_datalist(write(tmp_path, {"training": [{"image": "i.nii"}]}), "training", "set") == [
        {"image": str(tmp_path / "set" / "i.nii")}
    ]


def test_unlabeled_items_lose_their_label_and_no_others_do(tmp_path):
    item = {"image": "i.nii", "label": "l.nii"}
    datalist = write(tmp_path, {"unlabeled": [item], "validation": [item]})
    assert "label" not in load_datalist(datalist, "unlabeled", str(tmp_path))[0]
    assert "label" in load_datalist(datalist, "validation", str(tmp_path))[0]


def test_missing_section_is_empty(tmp_path):
    assert load_datalist(write(tmp_path, {"training": [{"image": "i.nii"}]}), "validation", str(tmp_path)) == []


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (0, 0), (2, 2), (9, 3)])
def test_limit_takes_the_first_items(tmp_path, limit, count):
    items = [{"image": f"{i}.nii"} for i in range(3)]
    found = load_datalist(write(tmp_path, {"training": items}), "training", str(tmp_path), limit=limit)
    assert [os.path.basename(item["image"]) for item in found] == [f"{i}.nii" for i in range(count)]


@pytest.mark.parametrize("limit", [-1, "3", 1.5, True])
def test_limit_that_is_no_count_is_refused(tmp_path, limit):
    with pytest.raises(InputError, match="got "):
        load_datalist(write(tmp_path, {"training": []}), "training", str(tmp_path), limit=limit)


def test_absolute_path_may_lead_anywhere(tmp_path):
    datalist = write(tmp_path, {"training": [{"image": "/elsewhere/i.nii"}]})
    assert load_datalist(datalist, "training", str(tmp_path))[0]["image"] == "/elsewhere/i.nii"


@pytest.mark.parametrize("path", ["../i.nii", "a/../../i.nii", "../set_2/i.nii"])
def test_relative_path_may_not_leave_the_folder(tmp_path, path):
    with pytest.raises(InputError, match=r"`image`: '.*' leads out of .*/set\."):
        load_datalist(write(tmp_path, {"training": [{"image": path}]}), "training", str(tmp_path / "set"))


def test_missing_file_names_its_place_and_the_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"not found: {tmp_path}/none.json\\..*To prepare it: Run prepare first."):
        load_datalist("none.json", "training", ".", hint="Run prepare first.")


def test_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        load_datalist(str(tmp_path), "training", str(tmp_path))


def test_broken_json_names_line_and_column(tmp_path):
    # the second line lacks its value: the parser stops at column 14, after `{"training": `
    with pytest.raises(InputError, match=r"datalist\.json: is not JSON \(.* at line 2, column 14\)"):
        load_datalist(write(tmp_path, '\n{"training": }'), "training", str(tmp_path))


def test_binary_file_is_not_json(tmp_path):
    path = tmp_path / "datalist.json"
    path.write_bytes(b'{"training\xff": []}')
    with pytest.raises(InputError, match=r"is not JSON \(byte 10 is not UTF-8 text\)"):
        load_datalist(str(path), "training", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"expected an object .*, found a list \(\[\]\)"),
        ({"training": {"image": "i"}}, "`training` must be a list of items, found an object"),
        ({"training": None}, "`training` must be a list of items, found null"),
        ({"training": [{"image": "i"}, "i.nii"]}, "item 1 .* found a text"),
        ({"training": [{"label": "l.nii"}]}, r"item 0 .* has no `image`, only \['label'\]"),
        ({"training": [{"image": ["a.nii", "b.nii"]}]}, "`image` must be a text .* found a list"),
        ({"training": [{"image": ""}]}, "`image` must be a text that is not empty"),
        ({"training": [{"image": "i", "label": 3}]}, "`label` must be a text .* found a number"),
        ({"training": [{"image": "i", "domain": True}]}, "`domain` must be a text .* found a boolean"),
    ],
)
def test_wrong_form_names_file_place_and_finding(tmp_path, content, message):
    with pytest.raises(InputError, match=f"datalist.json: .*{message}"):
        load_datalist(write(tmp_path, content), "training", str(tmp_path))


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


def test_images_and_labels_in_capital_letters_belong_together(tmp_path):
    for name in ("A.NII.GZ", "A_seg.NII.GZ", "b_image.Nii", "b_label.nii"):
        (tmp_path / name).touch()
    found = find_scans(str(tmp_path), DatalistKeys.TRAINING).scans
    assert [(scan.case, Path(scan.image).name, Path(scan.label).name) for scan in found] == [
        ("A", "A.NII.GZ", "A_seg.NII.GZ"),
        ("b", "b_image.Nii", "b_label.nii"),
    ]


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
    assert "found 4: p1/b.nii.gz, p1/e.nii, p2/x/c.nii.gz, …" in record.getMessage()


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


@pytest.mark.parametrize(("name", "message"), [("none", "no such file"), ("empty", "no NIfTI"), ("a.txt", "no NIfTI")])
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


def test_one_dicom_file_is_refused_with_its_folder(tmp_path):
    with pytest.raises(InputError, match=f"IM1: found a DICOM file, expected the folder of its series: {tmp_path}$"):
        find_images(str(put(tmp_path / "IM1")))


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("set/a.nii.gz", "a"),
        ("set/a.b.nii", "a.b"),
        ("set/p1/ct", "p1_ct"),
        ("set/p2/ct", "p2_ct"),
        ("set/1.2.840.5", "1.2.840.5"),
        ("set", "set"),
        ("elsewhere/ct", "ct"),
    ],
)
def test_label_map_is_named_after_the_way_from_the_input_to_the_scan(image, name):
    formatter = PredictionNames("/x/set")
    # MONAI cuts the ending off
    assert formatter({"filename_or_obj": f"/x/{image}"}, None) == {"subject": f"{name}.nii.gz"}


@pytest.mark.parametrize(("one", "other"), [("a.nii", "a.nii.gz"), ("p_1/ct/1.dcm", "p/1_ct/1.dcm")])
def test_scans_whose_label_maps_would_overwrite_each_other_are_refused(tmp_path, one, other):
    put(tmp_path / one, b"")
    put(tmp_path / other, b"")
    with pytest.raises(InputError, match="would have the name of that of"):
        find_images(str(tmp_path))
