# SPDX-License-Identifier: Apache-2.0
"""Lists of scans before any scan is opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.checks.checking import check, problem
from tests.pairs import pair, save


def test_empty_list_names_its_section():
    assert "section `testing` of the datalist: expected at least one item" in problem(section="testing")


def test_empty_section_comes_with_those_that_are_there(tmp_path):
    content = {
        "labels": ["background", "a"],
        "training": [{"image": "a"}] * 2,
        "testing": [],
        "validation": [{"image": "b"}],
    }
    (tmp_path / "list.json").write_text(json.dumps(content))
    message = problem(section="nosuch", datalist=str(tmp_path / "list.json"))
    assert message.startswith("section `nosuch` of the datalist: expected at least one item")
    assert message.endswith(f"Sections of {tmp_path}/list.json with items: training (2), validation (1).")


def test_item_without_label_is_refused_unless_labels_are_not_required(tmp_path):
    item = {"image": save(tmp_path / "i.nii")}
    check(labeled=[item], require_labels=False)
    assert problem(labeled=[item]) == f"{item['image']}: expected a label, since it is in section `training`, got none."


@pytest.mark.parametrize("other", ["validation", "unlabeled"])
def test_labeled_image_in_another_list_is_refused_under_any_name(tmp_path, other):
    item = pair(tmp_path)
    alias = {**item, "image": f"{tmp_path}/./a.nii.gz"}
    message = problem(labeled=[item], **{other: [alias]})
    assert item["image"] in message
    assert f" and `{other}`" in message


def test_items_without_a_published_box_are_named_where_it_is_needed(tmp_path: Path) -> None:
    boxed = {**pair(tmp_path), "published_box": [[0, 2], [0, 2], [0, 2]]}
    without = pair(tmp_path, "b")
    check(labeled=[boxed, without])
    check(labeled=[boxed], needs_published_box=True)
    for given in ({"labeled": [boxed], "unlabeled": [without]}, {"labeled": [without]}):
        message = problem(**given, needs_published_box=True)
        assert without["image"] in message
        assert "published_box" in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [("unlabelled", "unlabeled"), ("val", "validation"), ("Training", "training"), ("test", "testing"), ("zzz", None)],
)
def test_section_that_nobody_reads_is_a_warning_with_the_one_that_was_meant(tmp_path, caplog, name, meant):
    item = pair(tmp_path)
    content = {"training": [item], name: [{"image": "b.nii.gz"}] * 4, "labels": ["x"]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    check(labeled=[item], datalist=str(tmp_path / "list.json"))
    (warning,) = caplog.messages
    assert f"section `{name}` (4 scans) is not used" in warning
    assert warning.endswith(f"Did you mean `{meant}`?" if meant else "validation, testing.")


def test_known_sections_and_the_one_that_is_scored_are_no_warning(tmp_path, caplog):
    item = pair(tmp_path)
    sections = {name: [item] for name in ("training", "unlabeled", "validation", "testing", "external")}
    (tmp_path / "list.json").write_text(json.dumps(sections))
    check(labeled=[item], datalist=str(tmp_path / "list.json"), section="external")
    assert caplog.messages == []


def test_training_without_the_unlabeled_scans_that_it_asks_for_is_a_warning(tmp_path, caplog):
    item = pair(tmp_path)
    (tmp_path / "list.json").write_text(json.dumps({"training": [item]}))
    given = {"labeled": [item], "datalist": str(tmp_path / "list.json")}
    check(**given, settings={"batch_size_unlabeled": 0})
    assert caplog.messages == []
    check(**given, settings={"batch_size_unlabeled": 2})
    assert "section `unlabeled` has no items" in caplog.text


@pytest.mark.parametrize("section", ["labeled", "unlabeled", "validation"])
def test_scan_that_is_listed_twice_is_refused(tmp_path, section):
    items = {"labeled": [pair(tmp_path)], "unlabeled": [pair(tmp_path, "b")], "validation": [pair(tmp_path, "c")]}
    check(**items)
    (tmp_path / "link.nii.gz").symlink_to(items[section][0]["image"])
    again = {**items[section][0], "image": str(tmp_path / "link.nii.gz")}
    assert problem(**{**items, section: [*items[section], again]}).endswith("got it 2 times.")


@pytest.mark.parametrize("other", ["validation", "unlabeled"])
def test_copy_of_a_labeled_scan_in_another_list_is_refused(tmp_path, other):
    labeled, copy = pair(tmp_path), pair(tmp_path, "b")
    shutil.copy(labeled["image"], copy["image"])
    message = problem(labeled=[labeled], **{other: [copy]})
    assert message.startswith(
        f"{copy['image']}: duplicates {labeled['image']}: one is in `{other}`, the other in `training`"
    )


@pytest.mark.parametrize("trained", ["labeled", "unlabeled"])
def test_patient_on_both_sides_is_refused(tmp_path, trained):
    items = {"labeled": [pair(tmp_path)], "unlabeled": [pair(tmp_path, "b")]}
    validation = [{**pair(tmp_path, "c"), "patient": "anna"}]
    check(**items, validation=validation)
    items[trained][0]["patient"] = "anna"
    message = problem(**items, validation=validation)
    assert "of patient 'anna', as is" in message
    assert message.endswith("expected each patient on one side only.")
