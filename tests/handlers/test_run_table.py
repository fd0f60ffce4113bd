# SPDX-License-Identifier: Apache-2.0
"""A table with the rows of one run."""

from __future__ import annotations

from pathlib import Path

from dtlp_components.handlers.run_table import RunTable


def fill(file: Path, start: int, stop: int) -> list[str]:
    """Rows of a run from one iteration to another; what the table has then."""
    table = RunTable(file)
    table.begin(start)
    for iteration in range(start + 1, stop + 1):
        table.begin(iteration)  # only the first call counts
        table.add([{"iteration": iteration, "value": 10 * iteration}])
    return [row["iteration"] for row in table.read()]


def test_rows_after_the_checkpoint_are_replaced_and_an_earlier_run_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "logs/losses.csv"
    assert fill(file, 0, 3) == ["1", "2", "3"]
    assert fill(file, 1, 4) == ["1", "2", "3", "4"]
    assert fill(file, 0, 1) == ["1"]
    (kept,) = file.parent.glob("losses-*.csv")
    assert [row["value"] for row in RunTable(kept).read()] == ["10", "20", "30", "40"]


def test_table_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert RunTable(tmp_path / "none.csv").read() == []
