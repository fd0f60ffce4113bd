# SPDX-License-Identifier: Apache-2.0
"""What somebody decided about scans without a label: a table, and what becomes of the datalist with it."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, raise_if_any
from ..files import write_text
from ..keys import DatalistKeys
from ..tables import csv_text

__all__ = [
    "COLUMNS",
    "VERDICTS",
    "Review",
    "draw_weights",
    "read_review",
    "review_row",
    "update_table",
]

COLUMNS = ("image", "label_map", "quality", "verdict", "label", "weight")
# nothing: not looked at yet; the scan stays what it was
VERDICTS = ("", "accept", "reject", "corrected")
FILE = "a table of verdicts as written by dtlp pseudo or dtlp next"


def review_row(image: str, label_map: str = "", quality: float | None = None) -> dict[str, str]:
    """A row of ``review.csv`` to fill in."""
    return {"image": image, "label_map": label_map, "quality": "" if quality is None else f"{quality:.4f}"}


@dataclass(frozen=True)
class Review:
    """
    Verdicts on scans.

    Args:
        file: that they were read from.
        rejected: images that are not to be used.
        labels: items ``{"image", "label", "weight"}`` to train on: corrected ones with weight 1, accepted ones that
            somebody gave a weight.
        accepted: images that stay as they are, seen and found good.
    """

    file: str
    rejected: list[str]
    labels: list[dict[str, Any]]
    accepted: list[str]

    def training(self, training: Sequence[Mapping[str, Any]], unlabeled: Sequence[Mapping[str, Any]]) -> list[Any]:
        """
        The labeled items with those that the review adds.

        Args:
            training: labeled items of the datalist.
            unlabeled: its items without a label, whose other keys (domain, patient) go on with a new label.

        Raises:
            InputError: if a scan has a label already.
        """
        known, others = _by_path(training), _by_path(unlabeled)
        twice = [item["image"] for item in self.labels if os.path.realpath(item["image"]) in known]
        raise_if_any(
            [
                f"{self.file}: {image}: expected a scan without a label, got one that is already labeled."
                for image in twice
            ],
            "Cannot use the review",
        )
        return [*training, *({**others.get(os.path.realpath(item["image"]), {}), **item} for item in self.labels)]

    def unlabeled(self, unlabeled: Sequence[Mapping[str, Any]]) -> list[Any]:
        """
        The items without a label that are left.

        Raises:
            InputError: if a scan that was rejected or accepted is none of them.
        """
        known = _by_path(unlabeled)
        raise_if_any(
            [
                f"{self.file}: {image}: expected one of the {len(unlabeled)} scans without a label. Was it moved?"
                for image in (*self.rejected, *self.accepted)
                if os.path.realpath(image) not in known
            ],
            "Cannot use the review",
        )
        gone = {os.path.realpath(image) for image in (*self.rejected, *(item["image"] for item in self.labels))}
        return [item for item in unlabeled if os.path.realpath(item[DatalistKeys.IMAGE]) not in gone]


def read_review(file: str) -> Review:
    """
    Read a table of verdicts.

    ``reject`` takes a scan out of the training, ``corrected`` makes the file in column ``label`` its label, ``accept``
    leaves it as it is, unless column ``weight`` has a number above 0 to 1: then its label map becomes a label that is
    drawn that many times as often as a scan that somebody labeled. A row without a verdict changes nothing. Paths are
    absolute or start from the table's folder.

    Args:
        file: CSV.

    Raises:
        InputError: if it is no such table, or a row says what cannot be.
    """
    path = os.path.abspath(file)
    rows = _read_rows(path)
    problems: list[str] = []
    review = Review(path, [], [], [])
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        verdict = row["verdict"].lower()
        if not verdict:
            continue
        problem = _take(review, row, verdict)
        image = os.path.realpath(_place(path, row["image"]))
        if not problem and image in seen:
            problem = f"{row['image']} is already in line {seen[image]}"
        seen.setdefault(image, number)
        if problem:
            problems.append(f"{path}, line {number}: {problem}.")
    raise_if_any(problems, "Cannot use the review")
    return review


def update_table(file: Path, rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """
    Write a table to fill in, or bring one up to date: what somebody wrote into it stays, also on scans of earlier rows.

    Args:
        file: CSV.
        rows: of :py:func:`review_row`, in their order.

    Returns:
        These rows as they are in the table; those with a verdict on other scans come after them.

    Raises:
        InputError: if there is something else under that name.
    """
    path = os.path.abspath(file)
    before = {os.path.realpath(_place(path, row["image"])): row for row in (_read_rows(path) if file.is_file() else [])}
    found = []
    for row in rows:
        kept = before.pop(os.path.realpath(row["image"]), {})
        found.append({name: row.get(name) or kept.get(name, "") for name in COLUMNS})
    others = [row for row in before.values() if row["verdict"] or row["label"]]
    write_text(file, csv_text([*found, *others], COLUMNS))
    return found


def _read_rows(path: str) -> list[dict[str, str]]:
    """Rows of a table, a text for each of ``COLUMNS``."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not valid UTF-8"
        raise InputError(f"--review {path}: cannot be read ({reason}); expected {FILE}.") from error
    try:
        # a spreadsheet writes what its country separates by
        dialect = csv.Sniffer().sniff(text.partition("\n")[0], ",;\t") if text.strip() else csv.excel
        rows = list(csv.DictReader(text.splitlines(), dialect=dialect))
    except csv.Error:
        rows = []
    if not rows or not {"image", "verdict"} <= rows[0].keys():
        found = ", ".join(str(name) for name in rows[0]) if rows else "no row"
        raise InputError(f"--review {path}: expected {FILE}, with columns {', '.join(COLUMNS)}, got {found[:100]}.")
    return [{name: (row.get(name) or "").strip() for name in COLUMNS} for row in rows]


def _take(review: Review, values: Mapping[str, str], verdict: str) -> str:
    """Put a row where it belongs; returns what is wrong with it."""
    if not values["image"]:
        return "expected the path of a scan in column image, got nothing"
    if verdict not in VERDICTS:
        return f"verdict: expected accept, reject, corrected or nothing, got {verdict!r}"
    image = _place(review.file, values["image"])
    try:
        weight = float(values["weight"] or 0)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1:
        return f"weight: expected a number from 0 to 1, got {values['weight']!r}"
    if verdict == "reject":
        review.rejected.append(image)
    elif verdict == "corrected":
        if not values["label"]:
            return "corrected: expected the path of the label file in column label, got nothing"
        review.labels.append({"image": image, "label": _place(review.file, values["label"]), "weight": 1.0})
    elif weight > 0:
        if not values["label_map"]:
            return "accept with a weight: expected the path of a label map in column label_map, got nothing"
        review.labels.append({"image": image, "label": _place(review.file, values["label_map"]), "weight": weight})
    else:
        review.accepted.append(image)
    return ""


def draw_weights(items: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """How often each item is to be drawn, one from 0 to 1 each; ``None`` if all are drawn alike."""
    weights = [float(item.get("weight", 1.0)) for item in items]
    return None if all(weight == 1 for weight in weights) else weights


def _place(file: str, path: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(file), path))


def _by_path(items: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {os.path.realpath(item[DatalistKeys.IMAGE]): item for item in items}
