# SPDX-License-Identifier: Apache-2.0
"""Labels that leave voxels open: of no class known, or of one of those that nobody drew in this scan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..keys import DatalistKeys

__all__ = ["open_classes", "undrawn_problems"]


def open_classes(
    items: Iterable[Mapping[str, Any]], label_names: Sequence[str], ignore_label: int | None = None
) -> list[list[int]]:
    """
    What an open voxel may be: a table whose row ``k`` belongs to the value ``-1 - k`` of a prepared label.

    Row 0 is every class: voxels that a label file marks with ``ignore_label``. Each further row is of the scans in
    which the same classes were drawn (``labels`` in their items): the background, and all that nobody drew. Where
    somebody drew, the class is known.

    Args:
        items: of a datalist's sections.
        label_names: of all classes, the background first.
        ignore_label: value in label files, if there is one.

    Returns:
        Class indices by row, ascending; an empty table if no voxel is open.

    Raises:
        InputError: if ``labels`` names a class that there is not.

    Example:
        >>> open_classes([{"labels": ["liver"]}, {}], ["background", "liver", "spleen"])
        [[0, 1, 2], [0, 2]]
    """
    numbers = {name: number for number, name in enumerate(label_names)}
    drawn: set[tuple[int, ...]] = set()
    for item in items:
        names = item.get(DatalistKeys.LABELS)
        if names is None:
            continue
        if unknown := [name for name in names if name not in numbers]:
            raise InputError(
                f"{item.get(DatalistKeys.LABEL, item.get(DatalistKeys.IMAGE))}: `{DatalistKeys.LABELS}`: expected "
                f"class names ({', '.join(label_names)}), got {unknown[0]!r}."
            )
        open_here = sorted({0, *range(len(label_names))} - {numbers[name] for name in names if numbers[name]})
        if len(open_here) > 1:  # else all of them were drawn
            drawn.add(tuple(open_here))
    if not drawn and ignore_label is None:
        return []
    return [list(range(len(label_names))), *map(list, sorted(drawn))]


def undrawn_problems(label: str, found: Iterable[str], drawn: Collection[str]) -> Iterator[str]:
    """
    One sentence if a label file has a class that its item's ``labels`` do not name.

    Args:
        label: the file.
        found: names of the classes in it.
        drawn: names in ``labels``.
    """
    if others := [name for name in found if name not in drawn]:
        yield (
            f"{label}: expected only the structures that `{DatalistKeys.LABELS}` of its item lists "
            f"({', '.join(drawn)}), got {others[0]!r}."
        )
