# SPDX-License-Identifier: Apache-2.0
"""Lists of scans before any scan is opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checks.checking import check, problem
from tests.pairs import pair, save


def test_empty_list_names_its_section():
    assert "section `testing` of the datalist has no items" in problem(section="testing")


def test_empty_section_comes_with_those_that_are_there(tmp_path):
    content = {
        "labels": ["background", "a"],
        "training": [{"image": "a"}] * 2,
        "testing": [],
        "validation": [{"image": "b"}],
    }
    (tmp_path / "list.json").write_text(json.dumps(content))
    message = problem(section="nosuch", datalist=str(tmp_path / "list.json"))
    assert message.startswith("section `nosuch` of the datalist has no items")
    assert message.endswith(f"{tmp_path}/list.json has items in: training (2), validation (1).")


def test_item_without_label_is_refused_unless_labels_are_not_required(tmp_path):
    item = {"image": save(tmp_path / "i.nii")}
    check(labeled=[item], require_labels=False)
    assert problem(labeled=[item]) == f"{item['image']}: has no label, but is in section `training`."


@pytest.mark.parametrize("other", ["validation", "unlabeled"])
def test_labeled_image_in_another_list_is_refused_under_any_name(tmp_path, other):
    item = pair(tmp_path)
    alias = {**item, "image": f"{tmp_path}/./a.nii.gz"}
    message = problem(labeled=[item], **{other: [alias]})
    assert item["image"] in message
    assert f"in `{other}`" in message


def test_items_without_a_published_box_are_named_where_it_is_needed(tmp_path: Path) -> None:
    boxed = {**pair(tmp_path), "published_box": [[0, 2], [0, 2], [0, 2]]}
    without = pair(tmp_path, "b")
    check(labeled=[boxed, without])
    check(labeled=[boxed], needs_published_box=True)
    for given in ({"labeled": [boxed], "unlabeled": [without]}, {"labeled": [without]}):
        message = problem(**given, needs_published_box=True)
        assert without["image"] in message
        assert "published_box" in message
