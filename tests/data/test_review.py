# SPDX-License-Identifier: Apache-2.0
"""Verdicts on scans: read strictly, and what they make of a datalist."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dtlp_components.data.datalists import load_datalist
from dtlp_components.data.review import COLUMNS, draw_weights, read_review, review_row, update_table
from dtlp_components.errors import InputError
from dtlp_components.tables import csv_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scans ``a`` with a label, ``b`` to ``f`` without."""
    content = {
        "training": [{"image": "a.nii.gz", "label": "a_label.nii.gz"}],
        "unlabeled": [{"image": f"{name}.nii.gz", "patient": name.upper()} for name in "bcdef"],
        "validation": [{"image": "v.nii.gz", "label": "v_label.nii.gz"}],
    }
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return tmp_path


def write(folder: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> str:
    file = folder / "reviewed" / "review.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_text(csv_text(rows, columns), encoding="utf-8")
    return str(file)


def section(folder: Path, name: str, review: str) -> list[dict[str, str]]:
    return load_datalist(str(folder / "datalist.json"), name, str(folder), review=review)


def names(items: list[dict[str, str]]) -> list[str]:
    return [Path(item["image"]).name[0] for item in items]


def row(folder: Path, name: str, verdict: str, **more: str) -> dict[str, str]:
    return {"image": str(folder / f"{name}.nii.gz"), "verdict": verdict, **more}


def test_each_verdict_does_what_it_says(folder: Path) -> None:
    review = write(
        folder,
        row(folder, "b", "reject"),
        row(folder, "c", "Corrected", label="drawn/c.nii.gz"),
        row(folder, "d", "accept"),
        row(folder, "e", "accept", label_map="../e_seg.nii.gz", weight="0.25"),
        row(folder, "f", ""),
    )
    unlabeled, training = section(folder, "unlabeled", review), section(folder, "training", review)
    assert names(unlabeled) == ["d", "f"]
    assert names(training) == ["a", "c", "e"]
    assert training[1] == {
        "image": str(folder / "c.nii.gz"), "label": str(folder / "reviewed/drawn/c.nii.gz"), "patient": "C",
        "weight": 1.0,
    }  # fmt: skip
    assert training[2]["label"] == str(folder / "e_seg.nii.gz")
    assert draw_weights(training) == [1.0, 1.0, 0.25]
    assert names(section(folder, "validation", review)) == ["v"]


def test_table_without_a_verdict_changes_nothing(folder: Path) -> None:
    review = write(folder, *(row(folder, name, "") for name in "bcdef"))
    for name in ("training", "unlabeled"):
        assert section(folder, name, review) == section(folder, name, "")
    assert draw_weights(section(folder, "training", review)) is None


def test_scan_that_is_in_no_list_may_get_a_label(folder: Path) -> None:
    review = write(folder, row(folder, "new", "corrected", label="new_label.nii.gz"))
    assert names(section(folder, "training", review)) == ["a", "n"]
    assert len(section(folder, "unlabeled", review)) == 5


def test_table_of_a_spreadsheet_with_semicolons_is_read(folder: Path) -> None:
    file = folder / "review.csv"
    with open(file, "w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter=";")
        writer.writeheader()
        writer.writerow(row(folder, "b", "reject"))
    assert names(section(folder, "unlabeled", str(file))) == ["c", "d", "e", "f"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"verdict": "ok"}, "line 2: verdict: expected accept, reject, corrected or nothing, got 'ok'"),
        (
            {"verdict": "corrected"},
            "line 2: corrected: expected the path of the label file in column label, got nothing",
        ),
        ({"verdict": "accept", "weight": "2"}, "line 2: weight: expected a number from 0 to 1, got '2'"),
        ({"verdict": "accept", "weight": "nan"}, "line 2: weight: expected a number from 0 to 1, got 'nan'"),
        ({"verdict": "accept", "weight": "1"}, "expected the path of a label map in column label_map, got nothing"),
        ({"verdict": "reject", "image": ""}, "expected the path of a scan in column image, got nothing"),
    ],
)
def test_row_that_cannot_be_is_named(folder: Path, wrong: dict[str, str], said: str) -> None:
    review = write(folder, {**row(folder, "b", ""), **wrong})
    with pytest.raises(InputError, match="Cannot use the review, 1 problem found") as error:
        read_review(review)
    assert said in str(error.value)


def test_verdict_on_a_scan_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"z\.nii\.gz: expected one of the 5 scans without a label"):
        section(folder, "unlabeled", write(folder, row(folder, "z", "reject")))
    with pytest.raises(
        InputError, match=r"a\.nii\.gz: expected a scan without a label, got one that is already labeled"
    ):
        section(folder, "training", write(folder, row(folder, "a", "corrected", label="x.nii.gz")))


def test_two_verdicts_on_a_scan_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="is already in line 2"):
        read_review(write(folder, row(folder, "b", "reject"), row(folder, "b", "accept")))


@pytest.mark.parametrize("text", ["", "scan,quality\nb,1\n", "\0\1\2", "image,verdict\n"])
def test_other_file_is_refused(folder: Path, text: str) -> None:
    (folder / "review.csv").write_text(text)
    with pytest.raises(InputError, match=r"--review .*review.csv: expected a table of verdicts as written by"):
        read_review(str(folder / "review.csv"))


def test_missing_file_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\)"):
        read_review(str(folder / "none.csv"))


def test_table_brought_up_to_date_keeps_what_somebody_wrote(folder: Path) -> None:
    file = folder / "review.csv"
    assert [r["verdict"] for r in update_table(file, [review_row(str(folder / f"{n}.nii.gz")) for n in "bcd"])] == [
        ""
    ] * 3
    text = file.read_text().splitlines()
    text[1] = f"{folder / 'b.nii.gz'},,,corrected,b_label.nii.gz,"
    text[2] = f"{folder / 'c.nii.gz'},,,reject,,"
    file.write_text("\n".join(text) + "\n")
    rows = update_table(file, [review_row(str(folder / f"{n}.nii.gz"), quality=0.5) for n in "ec"])
    assert [(r["verdict"], r["quality"]) for r in rows] == [("", "0.5000"), ("reject", "0.5000")]
    # b was asked for no more, but somebody drew its label; d says nothing
    lines = [line.split(",") for line in file.read_text().splitlines()[1:]]
    assert [(Path(line[0]).name[0], line[3], line[4]) for line in lines] == [
        ("e", "", ""), ("c", "reject", ""), ("b", "corrected", "b_label.nii.gz"),
    ]  # fmt: skip


def test_row_to_fill_in_has_no_verdict() -> None:
    assert review_row("a.nii.gz", "a_seg.nii.gz", 0.5) == {
        "image": "a.nii.gz", "label_map": "a_seg.nii.gz", "quality": "0.5000"
    }  # fmt: skip
