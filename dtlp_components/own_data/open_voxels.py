# SPDX-License-Identifier: Apache-2.0
"""Labeled scans in which voxels are open: nobody labeled them, or not every class was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..data.partial_labels import open_classes, undrawn_problems
from ..errors import raise_if_any
from ..keys import DatalistKeys as Keys
from .find import Scan
from .sections import Inspected

__all__ = ["open_notes", "refuse_undrawn", "with_open_voxels"]

ALSO = "These scans are also listed as unlabeled, so that the teachers can label the rest."


def refuse_undrawn(groups: Mapping[Keys, Inspected], label_names: Sequence[str], values: Sequence[int]) -> None:
    """
    Refuse scans whose ``labels`` name a class that there is not, or lack one that was drawn.

    Args:
        groups: scans of every section.
        label_names: of the classes, in their order.
        values: in the label files, in that order.
    """
    names = dict(zip(values, label_names, strict=True))
    problems: list[str] = []
    for section, items in groups.items():
        for scan, facts in items:
            if section == Keys.UNLABELED or scan.drawn is None:
                continue
            open_classes([{Keys.LABEL.value: scan.label, Keys.LABELS.value: scan.drawn}], label_names)
            found = [names[value] for value in sorted(facts.label_counts or ()) if value and value in names]
            problems += undrawn_problems(str(scan.label), found, scan.drawn)
    raise_if_any(problems, "Cannot create the bundle")


def open_notes(groups: Mapping[Keys, Inspected], label_names: Sequence[str]) -> list[str]:
    """What to tell of such scans, one sentence for each kind."""
    training = groups[Keys.TRAINING]
    notes = []
    ignored = [facts.ignored / sum([facts.ignored, *(facts.label_counts or {}).values()]) for _, facts in training]
    if count := sum(share > 0 for share in ignored):
        notes.append(
            f"{count} of {len(training)} labeled scans contain voxels marked to be ignored, up to {max(ignored):.0%} "
            f"of a scan. {ALSO}"
        )
    partly = [scan for scan, _ in training if scan.drawn is not None]
    if partly:
        missing = [name for name in label_names[1:] if any(name not in (scan.drawn or ()) for scan in partly)]
        notes.append(
            f"In {len(partly)} of {len(training)} labeled scans, nobody annotated {', '.join(missing)}; background "
            f"there may belong to any of those. {ALSO}"
        )
    return notes


def with_open_voxels(groups: Mapping[Keys, Inspected], listed: Mapping[Keys, Sequence[Scan]]) -> list[Scan]:
    """Labeled scans to list as unlabeled too, if there are unlabeled scans to train on at all."""
    if not groups[Keys.UNLABELED]:
        return []
    return [
        scan
        for (_, facts), scan in zip(groups[Keys.TRAINING], listed[Keys.TRAINING], strict=True)
        if facts.ignored or scan.drawn is not None
    ]
