# SPDX-License-Identifier: Apache-2.0
"""What is wrong with lists of scans before any scan is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..data.datalists import section_sizes
from ..keys import DatalistKeys as Keys

__all__ = ["box_problems", "empty_problem", "label_item_problems", "overlap_problems"]

Items = Sequence[Mapping[str, Any]]


def empty_problem(section: str, datalist: str | None, studies_dir: str | None) -> str:
    """The sentence on a section without items, which come from a datalist or from the studies of MONAI Label."""
    if studies_dir is not None:
        return (
            f"MONAI Label has no study to train on in {studies_dir}; expected at least one with a submitted (final) "
            "label that is not set aside for validation."
        )
    sizes = {} if datalist is None else section_sizes(datalist)
    there = ", ".join(f"{name} ({count})" for name, count in sizes.items())
    found = "" if datalist is None else f" {datalist} has items in: {there or 'no section'}."
    return f"section `{section}` of the datalist has no items; at least one is needed.{found}"


def label_item_problems(sections: Mapping[str, Items]) -> Iterator[str]:
    """Items of sections that need labels but have none."""
    for section, items in sections.items():
        for item in items:
            if Keys.LABEL not in item:
                yield f"{item[Keys.IMAGE]}: has no label, but is in section `{section}`."


def box_problems(items: Items) -> Iterator[str]:
    """Items without the box that preprocessing ``published`` crops to."""
    for item in items:
        if Keys.PUBLISHED_BOX not in item:
            yield (
                f"{item[Keys.IMAGE]}: its item has no `{Keys.PUBLISHED_BOX}`, which the overlay published.json crops "
                "to. For a prepared data set, run `prepare` again; a new scan cannot have one: leave the overlay out, "
                "with a model that was trained without it."
            )


def overlap_problems(section: str, labeled: Items, unlabeled: Items, validation: Items) -> Iterator[str]:
    """Scans that are trained on with their label, in ``section``, and used elsewhere."""
    trained, others, scored = (
        {os.path.realpath(item[Keys.IMAGE]) for item in items} for items in (labeled, unlabeled, validation)
    )
    for path in sorted(trained & scored):
        yield f"{path}: is in `{section}` and in `{Keys.VALIDATION}`, which would score what was learned."
    for path in sorted(trained & others):
        yield f"{path}: is in `{section}` and in `{Keys.UNLABELED}`."
