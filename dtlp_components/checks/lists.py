# SPDX-License-Identifier: Apache-2.0
"""What is wrong with lists of scans before any scan is opened."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..data.channel_files import split_channel
from ..data.datalists import section_sizes
from ..data.volumes import Volume
from ..keys import DatalistKeys as Keys

__all__ = [
    "box_problems",
    "channel_name_problems",
    "copy_problems",
    "empty_problem",
    "label_item_problems",
    "overlap_problems",
    "patient_problems",
    "repeated_problems",
    "section_warnings",
]

Items = Sequence[Mapping[str, Any]]


def empty_problem(section: str, datalist: str | None, studies_dir: str | None) -> str:
    """The sentence on a section without items, which come from a datalist or from the studies of MONAI Label."""
    if studies_dir is not None:
        return (
            f"{studies_dir}: expected at least one MONAI Label study with a submitted (final) label that is not set "
            "aside for validation, got none."
        )
    sizes = {} if datalist is None else section_sizes(datalist)
    there = ", ".join(f"{name} ({count})" for name, count in sizes.items())
    found = "" if datalist is None else f" Sections of {datalist} with items: {there or 'none'}."
    return f"section `{section}` of the datalist: expected at least one item, got none.{found}"


def label_item_problems(sections: Mapping[str, Items]) -> Iterator[str]:
    """Items of sections that need labels but have none."""
    for section, items in sections.items():
        for item in items:
            if Keys.LABEL not in item:
                yield f"{item[Keys.IMAGE]}: expected a label, since it is in section `{section}`, got none."


def channel_name_problems(sections: Mapping[str, Items], channels: Sequence[str]) -> Iterator[str]:
    """Names of files that do not say what is a scan's first channel and what its label."""
    if not channels:
        return
    for section, items in sections.items():
        for item in items:
            if split_channel(os.path.basename(item[Keys.IMAGE]), channels[:1]) is None:
                yield (
                    f"{item[Keys.IMAGE]}: expected the first channel's file, whose name ends in {channels[0]}, in "
                    f"section `{section}` (--channels {channels})."
                )
            label = item.get(Keys.LABEL, "")
            if split_channel(os.path.basename(label), channels[:1]) is not None:
                yield (
                    f"{label}: expected a label name that does not end in {channels[0]} like the first channel's "
                    f"(--channels {channels}); rename it."
                )


def box_problems(items: Items) -> Iterator[str]:
    """Items without the box that preprocessing ``published`` crops to."""
    for item in items:
        if Keys.PUBLISHED_BOX not in item:
            yield (
                f"{item[Keys.IMAGE]}: expected a `{Keys.PUBLISHED_BOX}` in its item, to which the overlay "
                "published.json crops, got none. For a prepared data set, run `prepare` again; a new scan cannot have "
                "one, so use a model that was trained without the overlay, and leave the overlay out."
            )


def section_warnings(datalist: str, read: Sequence[str]) -> Iterator[str]:
    """
    Sections of a datalist with scans that nobody reads, with the name that was meant.

    Args:
        datalist: the file.
        read: further sections that are read.
    """
    own = (Keys.TRAINING, Keys.UNLABELED, Keys.VALIDATION, Keys.TESTING)
    known = [*dict.fromkeys([*read, *map(str, own)])]
    for name, count in section_sizes(datalist).items():
        if name not in known:
            close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
            close = close or [key for key in known if key.startswith(name.lower()[:3])]
            meant = f" Did you mean `{close[0]}`?" if close else ""
            yield (
                f"{datalist}: section `{name}` ({count} scans) is not used; expected one of {', '.join(known)}.{meant}"
            )


def repeated_problems(sections: Mapping[str, Items]) -> Iterator[str]:
    """Scans that are in a section twice."""
    for section, items in sections.items():
        counted = Counter(os.path.realpath(item[Keys.IMAGE]) for item in items)
        for path, count in counted.items():
            if count > 1:
                yield f"{path}: expected once in `{section}`, got it {count} times."


def patient_problems(sections: Mapping[str, Items], validation: Items) -> Iterator[str]:
    """Patients, where items name them, that are trained on and scored."""
    scored = {item[Keys.PATIENT]: item[Keys.IMAGE] for item in validation if Keys.PATIENT in item}
    for section, items in sections.items():
        for item in items:
            if item.get(Keys.PATIENT) in scored:
                yield (
                    f"{item[Keys.IMAGE]}: is in `{section}` and of patient {item[Keys.PATIENT]!r}, as is "
                    f"{scored[item[Keys.PATIENT]]} in `{Keys.VALIDATION}`; expected each patient on one side only."
                )


def copy_problems(
    section: str, volumes: Mapping[str, Volume], labeled: Items, others: Mapping[str, Items]
) -> Iterator[str]:
    """Scans of other sections that have the voxels of one that is trained on with its label."""
    trained = {volumes[item[Keys.IMAGE]].checksum: item[Keys.IMAGE] for item in labeled if item[Keys.IMAGE] in volumes}
    for other, items in others.items():
        for item in items:
            path = item[Keys.IMAGE]
            copy = trained.get(volumes[path].checksum) if path in volumes else None
            if copy is not None and os.path.realpath(copy) != os.path.realpath(path):
                where = f"one is in `{other}`, the other in `{section}`"
                yield f"{path}: duplicates {copy}: {where}. List the scan in one section only."


def overlap_problems(
    section: str, labeled: Items, unlabeled: Items, validation: Items, ignore_label: int | None = None
) -> Iterator[str]:
    """
    Scans that are trained on with their label, in ``section``, and used elsewhere; one whose label leaves voxels open
    may be among the unlabeled as well, so that the teachers label these.
    """
    trained, others, scored = (
        {os.path.realpath(item[Keys.IMAGE]) for item in items} for items in (labeled, unlabeled, validation)
    )
    whole = {os.path.realpath(item[Keys.IMAGE]) for item in labeled if ignore_label is None and Keys.LABELS not in item}
    for path in sorted(trained & scored):
        yield f"{path}: is in both `{section}` and `{Keys.VALIDATION}`, which would leak training data into the scores."
    for path in sorted(whole & others):
        yield f"{path}: is in both `{section}` and `{Keys.UNLABELED}`. List it in one section only."
