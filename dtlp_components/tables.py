# SPDX-License-Identifier: Apache-2.0
"""Tables as text: in columns for a terminal, as CSV for a program, as Markdown for a page; and spans of time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

__all__ = ["align", "csv_text", "indented", "markdown", "number_of", "time_text"]


def align(rows: Sequence[Sequence[str]], right: bool = False) -> str:
    """
    Rows with their cells below each other, two spaces between columns, none at a line's end.

    Args:
        rows: cells; a row may end early.
        right: align all columns but the first to the right, as numbers are.
    """
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right and i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    )


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None, header: bool = True) -> str:
    """
    Rows as CSV; a cell that a row does not have is empty.

    Args:
        rows: values by column.
        columns: in their order; those of the first row if not given.
        header: begin with the columns' names.

    Raises:
        ValueError: if a row has a column that is not among `columns`.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0] if columns is None else columns), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def indented(rows: Sequence[Sequence[str]]) -> str:
    """Aligned rows below a line that begins a block."""
    return "\n".join(f"  {line}" for line in align(rows).splitlines())


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table in Markdown, the first of them its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def number_of(count: int, noun: str) -> str:
    """
    A count with its noun, whose plural ends in s.

    Example:
        >>> number_of(1, "case"), number_of(0, "case")
        ('1 case', '0 cases')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def time_text(seconds: float) -> str:
    """
    A span of time in its two largest units, as every log and every command says it.

    Examples:
        >>> time_text(0.634), time_text(42.4), time_text(250), time_text(7500), time_text(183600)
        ('0.63 s', '42 s', '4 min 10 s', '2 h 05 min', '2 d 03 h')
    """
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
