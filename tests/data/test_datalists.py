# SPDX-License-Identifier: Apache-2.0
"""Datalists and folders of images, right and wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.data.datalists import load_datalist
from dtlp_components.errors import InputError


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
    expected = "`testing`, item 0 .*: `published_box`: expected three pairs of integers, 0 <= start < end, got"
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
    with pytest.raises(InputError, match=r"`image`: expected a path inside the dataset folder .*/set, got"):
        load_datalist(write(tmp_path, {"training": [{"image": path}]}), "training", str(tmp_path / "set"))


def test_missing_file_names_its_place_and_the_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"not found: {tmp_path}/none.json\\..*To create it: Run prepare first."):
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
    with pytest.raises(InputError, match=r"is not JSON \(byte 10 is not valid UTF-8\)"):
        load_datalist(str(path), "training", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"expected an object .*, got a list \(\[\]\)"),
        ({"training": {"image": "i"}}, "`training`: expected a list of items, got an object"),
        ({"training": None}, "`training`: expected a list of items, got null"),
        ({"training": [{"image": "i"}, "i.nii"]}, "item 1 .* got a string"),
        ({"training": [{"label": "l.nii"}]}, r"item 0 .* expected an `image`, got only \['label'\]"),
        ({"training": [{"image": ["a.nii", "b.nii"]}]}, "expected a single path as `image`, got a list"),
        ({"training": [{"image": ""}]}, "expected a nonempty string as `image`"),
        ({"training": [{"image": "i", "label": 3}]}, "expected a nonempty string as `label`, got a number"),
        ({"training": [{"image": "i", "domain": True}]}, "expected a nonempty string as `domain`, got a boolean"),
    ],
)
def test_wrong_form_names_file_place_and_finding(tmp_path, content, message):
    with pytest.raises(InputError, match=f"datalist.json: .*{message}"):
        load_datalist(write(tmp_path, content), "training", str(tmp_path))


@pytest.mark.parametrize("path", ["a\0b.nii", "a\ud800.nii"])
def test_path_that_no_file_can_have_is_refused(tmp_path, path):
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": path}]}))
    with pytest.raises(InputError, match="is not a valid file name"):
        load_datalist(str(tmp_path / "list.json"), "training", str(tmp_path))
