# SPDX-License-Identifier: Apache-2.0
"""Tables of scans and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..tables import align
from .inspect import _PERCENTILES, ScanFacts

__all__ = ["scan_table"]


def scan_table(groups: Mapping[str, Sequence[ScanFacts]], label_names: Mapping[int, str]) -> str:
    """
    Two tables as text: the scans of every group, and the labels with their volumes.

    Args:
        groups: title to scans, none of them empty.
        label_names: by value.
    """
    rows = [["", *groups]]
    rows.append(["scans", *(str(len(facts)) for facts in groups.values())])
    for axis, name in enumerate("xyz"):
        rows.append([f"voxels {name}", *(_spread([f.shape[axis] for f in facts]) for facts in groups.values())])
    for axis, name in enumerate("xyz"):
        rows.append([f"mm {name}", *(_spread([f.spacing_mm[axis] for f in facts]) for facts in groups.values())])
    rows.append(["minimum", *(_spread([f.minimum for f in facts]) for facts in groups.values())])
    for i, percent in enumerate(_PERCENTILES):
        rows.append([f"{percent:g} %", *(_spread([f.percentiles[i] for f in facts]) for facts in groups.values())])
    rows.append(["maximum", *(_spread([f.maximum for f in facts]) for facts in groups.values())])
    rows.append(["stored as", *(", ".join(sorted({f.orientation for f in facts})) for facts in groups.values())])
    text = "Scans: minimum / median / maximum; x, y, z are the patient's axes\n" + align(rows)

    labeled = {title: counted for title, facts in groups.items() if (counted := _counted(facts))}
    rows = [["value", "name", *(f"{title}: scans, ml" for title in labeled)]]
    for value in sorted(
        label_names.keys() | {v for facts in labeled.values() for f in facts for v in f.label_counts or ()}
    ):
        row = [str(value), label_names.get(value, "")]
        for facts in labeled.values():
            present = [(f.label_counts or {}).get(value, 0) * f.voxel_ml for f in facts]
            present = [ml for ml in present if ml > 0]
            row.append(f"{len(present)} of {len(facts)}, {_spread(present)}" if present else f"0 of {len(facts)}")
        rows.append(row)
    return f"{text}\n\nLabels: number of scans that contain them, and minimum / median / maximum volume\n{align(rows)}"


def _counted(facts: Sequence[ScanFacts]) -> list[ScanFacts]:
    return [f for f in facts if f.label_counts is not None]


def _spread(values: Iterable[float]) -> str:
    three = [f"{x:.4g}" for x in np.percentile(list(values), (0, 50, 100))]
    return " / ".join(three if len(set(three)) > 1 else three[:1])
