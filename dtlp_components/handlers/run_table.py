# SPDX-License-Identifier: Apache-2.0
"""A table in a run's logs that has the rows of this run alone, also after a resume."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import free_name, write_text
from ..tables import csv_text

__all__ = ["RunTable"]


class RunTable:
    """
    Rows with an ``iteration``, added to a CSV file as they come.

    Args:
        file: its place; an earlier run's file gets a name of its own.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._has_begun = False

    def begin(self, iteration: int) -> None:
        """Keep rows of this run up to the iteration that it goes on from, once; at 0 there are none."""
        if self._has_begun:
            return
        self._has_begun = True
        if not self.file.is_file():
            return
        if iteration == 0:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.file.stat().st_mtime))
            self.file.replace(free_name(self.file.with_name(f"{self.file.stem}-{stamp}{self.file.suffix}")))
            return
        rows = [row for row in self.read() if float(row.get("iteration") or 0) <= iteration]
        write_text(self.file, csv_text(rows) if rows else "")

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, which have the columns of those before."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.file.exists() or self.file.stat().st_size == 0
        with open(self.file, "a", encoding="utf-8", newline="") as file:
            file.write(csv_text([dict(row) for row in rows], header=is_new))

    def read(self) -> list[dict[str, str]]:
        """All rows; none where there is no file."""
        if not self.file.is_file():
            return []
        with open(self.file, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
