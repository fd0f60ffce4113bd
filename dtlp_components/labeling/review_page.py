# SPDX-License-Identifier: Apache-2.0
"""A page to go through pseudo-labels with a browser, and to save the verdicts as the table that a training takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.review import COLUMNS

__all__ = ["ReviewedScan", "render_review"]

TEMPLATE = "review.html.jinja"
WORDS = (
    ("", "undecided: training pseudo-labels the scan as before"),
    ("accept", "accept"),
    ("reject", "reject: leave the scan out"),
    ("corrected", "corrected: the file below is its label"),
)


@dataclass(frozen=True)
class ReviewedScan:
    """
    A scan on the page.

    Args:
        name: of the scan.
        row: of ``review.csv``.
        facts: numbers in words, by what they are.
        picture: address of its picture, from the page; empty if there is none.
        problem: why.
    """

    name: str
    row: Mapping[str, str]
    facts: Mapping[str, str] = field(default_factory=dict)
    picture: str = ""
    problem: str = ""


def render_review(title: str, texts: Sequence[str], scans: Sequence[ReviewedScan]) -> str:
    """
    The page's HTML; names and paths are texts, whatever they look like.

    Args:
        title: heading.
        texts: paragraphs below it.
        scans: in their order.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    shown = [
        {
            **{column: scan.row.get(column, "") for column in COLUMNS},
            "name": scan.name,
            "facts": list(scan.facts.items()),
            "picture": scan.picture,
            "problem": scan.problem,
            "number": number,
        }
        for number, scan in enumerate(scans)
    ]
    return environment.get_template(TEMPLATE).render(
        title=title, texts=texts, scans=shown, verdicts=WORDS, columns=list(COLUMNS)
    )
