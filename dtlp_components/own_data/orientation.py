# SPDX-License-Identifier: Apache-2.0
"""Whether scans lie alike: what their files say of it, and what labels and brightness show where files say nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from ..keys import DatalistKeys as Keys
from .inspect import ScanFacts
from .sections import TITLES, Inspected

__all__ = ["mirrored_axes", "orientation_notes"]

AXES = ("left to right", "back to front", "feet to head")
ALIKE = 0.75  # share of a group's scans that must agree for the group to have a direction
SURE = 0.7  # correlation of two groups' profiles from which on one is called the mirror image of the other
LEAST = 5  # scans of a group, fewer show nothing


def orientation_notes(groups: Mapping[Keys, Inspected]) -> list[str]:
    """
    One sentence on scans whose files do not say how the patient lies, and one for every group that seems mirrored.

    Programs that know no orientation write the identity, with the first voxel at the origin: every reader takes it for
    RAS or LPS. Two such sets may lie upside down to each other, and a network that is trained on one then finds nothing
    in the other.

    Args:
        groups: scans by section, with what was read of them.
    """
    unknown = {section: sum(not facts.oriented for _, facts in items) for section, items in groups.items()}
    if not sum(unknown.values()):
        return []
    counts = ", ".join(
        f"{unknown[section]} of {len(items)} {TITLES[section]}" for section, items in groups.items() if items
    )
    notes = []
    labeled = [facts for _, facts in groups[Keys.TRAINING]]
    for section, items in groups.items():
        if section == Keys.TRAINING or not (unknown[section] or unknown[Keys.TRAINING]):
            continue
        for axis, reason in mirrored_axes(labeled, [facts for _, facts in items]).items():
            notes.append(
                f"The {TITLES[section]} scans seem to be mirrored {AXES[axis]} relative to the labeled ones: {reason}. "
                "Compare a scan of each group; if they are mirrored, flip the files of one group or train with "
                f'mirrored copies: --mirror_axes "[{axis}]".'
            )
    found = "no sign of this was found" if not notes else "see below"
    return [
        f"Scans whose files do not record the patient's orientation (affine without rotation or origin): {counts}. "
        f"Some may be mirrored relative to others; {found}.",
        *notes,
    ]


def mirrored_axes(first: Sequence[ScanFacts], second: Sequence[ScanFacts]) -> dict[int, str]:
    """
    Axes (0 left to right, 1 back to front, 2 feet to head) along which one group seems to be the other's mirror image.

    Where both groups have labels, the order of two structures along the axis decides; else the course of brightness:
    the part of each scan's profile that mirroring turns around, which most scans of a group must share.

    Args:
        first: scans of one group.
        second: of the other.

    Returns:
        The reason for each such axis, as a clause.
    """
    if min(len(first), len(second)) < LEAST:
        return {}
    found: dict[int, str] = {}
    for axis in range(3):
        order = _order(first, axis), _order(second, axis)
        if shared := sorted(order[0].keys() & order[1].keys()):
            turned = [pair for pair in shared if order[0][pair] != order[1][pair]]
            if len(turned) > len(shared) / 2:
                a, b = turned[0]
                found[axis] = f"labels {a} and {b} are in reverse order"
            continue
        profiles = [_direction([facts.profiles[axis] for facts in group]) for group in (first, second)]
        if profiles[0] is None or profiles[1] is None:
            continue
        correlation = float(np.corrcoef(profiles[0], profiles[1])[0, 1])
        if correlation < -SURE:
            found[axis] = f"the brightness profile along this axis is reversed (correlation {correlation:.2f})"
    return found


def _order(group: Sequence[ScanFacts], axis: int) -> dict[tuple[int, int], bool]:
    """For pairs of labels whose order along the axis nearly all scans share: whether the first comes first."""
    order = {}
    labels = sorted(set().union(*(facts.centers for facts in group)))
    for a, b in combinations(labels, 2):
        steps = [facts.centers[b][axis] - facts.centers[a][axis] for facts in group if {a, b} <= facts.centers.keys()]
        ahead = sum(step > 0 for step in steps)
        if len(steps) >= LEAST and max(ahead, len(steps) - ahead) >= 0.9 * len(steps):
            order[a, b] = ahead > len(steps) / 2
    return order


def _direction(profiles: Sequence[np.ndarray]) -> np.ndarray | None:
    """The mean odd part of profiles, ``None`` if the scans do not share it."""
    odd = np.array([profile - profile[::-1] for profile in profiles])
    others = odd.sum(axis=0) - odd  # a scan's own course always agrees with itself
    return odd.mean(axis=0) if np.mean((odd * others).sum(axis=1) > 0) >= ALIKE else None
