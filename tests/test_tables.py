# SPDX-License-Identifier: Apache-2.0
"""Tables as text."""

from __future__ import annotations

import pytest

from dtlp_components.tables import align, csv_text, markdown, time_text

ROWS = [["", "ml"], ["left lung", "12.5"], ["spleen"]]


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_with_a_letter() -> None:
    assert align(ROWS) == "           ml\nleft lung  12.5\nspleen"


def test_numbers_stand_at_the_right_and_names_at_the_left() -> None:
    assert align(ROWS, right=True) == "             ml\nleft lung  12.5\nspleen"


def test_csv_leaves_empty_what_a_row_does_not_have_and_quotes_what_would_end_a_cell() -> None:
    rows = [{"scan": "a,b", "ml": 1.5}, {"scan": "c"}]
    assert csv_text(rows) == 'scan,ml\n"a,b",1.5\nc,\n'
    assert csv_text(rows, ["ml", "scan"], header=False) == '1.5,"a,b"\n,c\n'


def test_column_that_is_not_named_is_refused() -> None:
    with pytest.raises(ValueError, match="ml"):
        csv_text([{"scan": "a"}, {"scan": "b", "ml": 2}])


def test_first_row_is_the_head_in_markdown() -> None:
    assert markdown([["key", "value"], ["`a`", "1"]]) == "| key | value |\n|---|---|\n| `a` | 1 |"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.634, "0.63 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"), (3600, "1 h 00 min"), (86399, "23 h 59 min"), (2 * 86400 + 3 * 3600, "2 d 03 h"),
    ],
)  # fmt: skip
def test_time_is_told_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert time_text(seconds) == text
