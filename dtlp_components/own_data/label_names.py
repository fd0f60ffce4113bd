# SPDX-License-Identifier: Apache-2.0
"""Names of label values, from the files in which people keep them."""

from __future__ import annotations

import json
from typing import Any

from ..checks.literals import is_literal
from ..errors import InputError

__all__ = ["read_ignored", "read_label_names"]

IGNORE = "ignore"  # nnU-Net's name of the value of voxels that nobody labeled


def read_label_names(content: Any, origin: str) -> dict[int, str]:
    """
    Label names by value, from ``{"0": "background", "1": "liver"}``, ``{"background": 0, "liver": 1}`` (nnU-Net) or a
    list that begins with the background.

    nnU-Net's ``ignore`` is left out: it is no class (:py:func:`read_ignored`).

    Raises:
        InputError: if it is none of these, a value is named twice, or a name cannot be used in a configuration.
    """
    expected = f'{origin}: expected label names like {{"0": "background", "1": "liver"}}'
    pairs = _pairs(content)
    if not pairs:
        raise InputError(f"{expected}, got {json.dumps(content)[:80]}.")
    names: dict[int, str] = {}
    for value, name in pairs:
        if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).isdecimal():
            raise InputError(f"{expected}, got the value {value!r} for {name!r}.")
        if not isinstance(name, str):
            raise InputError(f"{expected}, got the name {json.dumps(name)[:80]} for the value {value}.")
        name = name.strip()
        if name.lower() == IGNORE:
            continue
        # what MONAI would change; the others end a cell of the README's table
        if not name or not is_literal(name) or "|" in name or not name.isprintable():
            raise InputError(
                f"{origin}: expected label names that do not begin with $, @ or % and have no #, | or nonprintable "
                f"characters, got {name!r}."
            )
        if int(value) in names:
            raise InputError(
                f"{origin}: expected one name for the value {value}, got both {names[int(value)]!r} and {name!r}."
            )
        names[int(value)] = "background" if int(value) == 0 and name.lower() == "background" else name
    if names.get(0, "background") != "background":
        raise InputError(f"{origin}: expected 'background' as the name of value 0, got {names[0]!r}.")
    if len({name.lower() for name in names.values()}) != len(names):
        raise InputError(
            f"{origin}: expected names that differ by more than upper and lower case, got {sorted(names.values())}."
        )
    return {0: "background"} | dict(sorted(names.items()))


def read_ignored(content: Any) -> int | None:
    """Value of voxels that nobody labeled, nnU-Net's ``ignore``, in any of these forms; ``None`` if it names none."""
    for value, name in _pairs(content):
        if isinstance(name, str) and name.strip().lower() == IGNORE and str(value).isdecimal():
            return int(value)
    return None


def _pairs(content: Any) -> list[tuple[Any, Any]]:
    """Values with their names; none if it is neither a list nor an object."""
    if isinstance(content, list):
        return [(str(value), name) for value, name in enumerate(content)]
    if not isinstance(content, dict):
        return []
    return [(key, name) if isinstance(name, str) else (name, key) for key, name in content.items()]
