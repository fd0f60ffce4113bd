# SPDX-License-Identifier: Apache-2.0
"""JSON as people write it: four spaces, and what is short on one line."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["format_json"]

WIDTH = 116  # columns that a list or a small object may fill to stand on one line
SMALL = 4  # entries of an object that may stand on one line


def format_json(content: Any, indent: int = 0) -> str:
    """
    JSON text of ``content``, without a line break at its end.

    Lists of plain values, and small objects, stand on one line if they fit, longer lists of plain values and of
    names with values fill lines:
    ``json.dumps`` gives every number of a patch size a line of its own.

    Args:
        content: what :py:func:`json.dumps` takes.
        indent: spaces before the line that the text begins on.
    """
    short = json.dumps(content, ensure_ascii=False)
    if not isinstance(content, (dict, list)) or not content:
        return short
    if _may_be_short(content) and indent + len(short) <= WIDTH:
        return short
    inner = indent + 4
    if isinstance(content, dict):
        lines = [f"{json.dumps(str(key))}: {format_json(value, inner)}" for key, value in content.items()]
        if (
            "_target_" not in content
            and indent
            and not any(isinstance(value, (dict, list)) for value in content.values())
        ):
            lines = _filled(lines, WIDTH - inner)  # names and numbers, such as weights
    elif not any(isinstance(value, (dict, list)) for value in content):
        lines = _filled([json.dumps(value, ensure_ascii=False) for value in content], WIDTH - inner)
    else:
        lines = [format_json(value, inner) for value in content]
    start, end = "{}" if isinstance(content, dict) else "[]"
    body = f",\n{' ' * inner}".join(lines)
    return f"{start}\n{' ' * inner}{body}\n{' ' * indent}{end}"


def _may_be_short(content: Any) -> bool:
    if isinstance(content, dict):
        return len(content) <= SMALL and not any(
            isinstance(value, dict) or (isinstance(value, list) and not _may_be_short(value))
            for value in content.values()
        )
    return not any(isinstance(value, dict) for value in content) and all(
        not isinstance(value, list) or _may_be_short(value) for value in content
    )


def _filled(items: list[str], width: int) -> list[str]:
    """Items joined to lines of at most ``width`` columns, without the commas between lines."""
    lines = [items[0]]
    for item in items[1:]:
        if len(lines[-1]) + len(item) + 3 <= width:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return lines
