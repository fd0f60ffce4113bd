# SPDX-License-Identifier: Apache-2.0
"""Cases of a published split: found once each, named where they are missing, listed where they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dtlp_components.datasets.published import (
    Sections,
    case_item,
    find_files,
    name_cases,
    prepare_all,
    published_datalists,
    usable_cases,
    work_on_all,
)
from dtlp_components.errors import InputError
from dtlp_components.files import read_json

LABELS = {"0": "background", "1": "liver"}
PATTERN = r"(?P<case>c\d)/image\.nii\.gz"


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_files_are_found_at_any_depth_and_companions_of_macos_are_not(tmp_path: Path) -> None:
    put(tmp_path / "a/c1/image.nii.gz", tmp_path / "c2/image.nii.gz", tmp_path / "c3/._image.nii.gz")
    found = find_files(tmp_path, PATTERN, "image.nii.gz")
    assert found == {"c1": tmp_path / "a/c1/image.nii.gz", "c2": tmp_path / "c2/image.nii.gz"}


def test_second_copy_is_named_unless_this_command_placed_it(tmp_path: Path) -> None:
    first, placed = tmp_path / "a/c1/image.nii.gz", tmp_path / "out/c1/image.nii.gz"
    put(first, placed)
    with pytest.raises(InputError, match=r"got c1 twice: .*a/c1.* and .*out/c1"):
        find_files(tmp_path, PATTERN, "image.nii.gz")
    assert find_files(tmp_path, PATTERN, "image.nii.gz", {"c1": placed}) == {"c1": first}


def test_usable_cases_keep_the_published_order_and_the_others_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert usable_cases(["c3", "c1", "c2", "c4"], ["c1", "c2", "c3", "c9"], ["c2"]) == ["c3", "c1"]
    assert capsys.readouterr().out.splitlines() == [
        "2 of 4 published cases found.",
        "Published cases that are missing; they are excluded (1): c4",
        "Cases without a label; they are excluded (1): c2",
        "Cases that are not in the published split; they are ignored (1): c9",
    ]
    name_cases("Nothing", [])
    assert capsys.readouterr().out == ""


def test_setting_without_a_labeled_case_is_no_datalist(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"5": Sections(["c1"], ["c2"], testing=["c3"]), "10": Sections(["c4"], ["c2"])}
    items = {case: case_item(case, domain="site") for case in ("c1", "c3")}
    lists = published_datalists("set", LABELS, settings, items, seed=7)
    assert list(lists) == ["datalist_5.json"]
    content = lists["datalist_5.json"]
    assert (content["name"], content["seed"], content["unlabeled"]) == ("set_5", 7, [])
    assert content["training"] == [{"image": "imagesTr/c1.nii.gz", "label": "labelsTr/c1.nii.gz", "domain": "site"}]
    assert "datalist_10.json was not written: none of its 1 labeled cases was found." in capsys.readouterr().out


def refuse_odd(case: str) -> str:
    if int(case[1]) % 2:
        raise InputError(f"{case}: broken.")
    return case


def test_broken_case_keeps_no_other_waiting() -> None:
    done: list[str] = []
    with pytest.raises(
        InputError, match=r"^2 cases cannot be used, so no datalist was written:\nc1: broken\.\nc3: broken\."
    ):
        work_on_all(["c1", "c2", "c3", "c4"], lambda case: done.append(refuse_odd(case)), "try")
    assert done == ["c2", "c4"]


def prepare(output: Path, box: Any, dry_run: bool = False) -> Path | None:
    lists = published_datalists("set", LABELS, {"5": Sections(["c1"])}, {"c1": case_item("c1")})
    return prepare_all(
        output, lists, ["c1"], lambda case: [{"image": f"imagesTr/{case}.nii.gz", "published_box": box}],
        verb="place", dry_run=dry_run,
    )  # fmt: skip


def test_boxes_of_the_manifest_go_into_the_items_and_never_change(tmp_path: Path) -> None:
    box, other = [[0, 4], [1, 5], [2, 6]], [[0, 3], [1, 5], [2, 6]]
    assert prepare(tmp_path, box, dry_run=True) is None
    assert not list(tmp_path.iterdir())
    assert prepare(tmp_path, box) == tmp_path
    assert read_json(tmp_path / "datalist_5.json", "a datalist")["training"][0]["published_box"] == box
    with pytest.raises(InputError, match="exists with a different `published_box`"):
        prepare(tmp_path, other)
    assert read_json(tmp_path / "datalist_5.json", "a datalist")["training"][0]["published_box"] == box
