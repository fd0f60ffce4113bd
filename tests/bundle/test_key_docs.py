# SPDX-License-Identifier: Apache-2.0
"""Tables of keys for the documentation."""

from __future__ import annotations

from dtlp_components.bundle.key_docs import BEGIN, END, key_tables, with_key_tables
from dtlp_components.checks.key_table import key_table


def test_every_key_has_a_row_with_where_it_is_default_and_bounds() -> None:
    text = key_tables()
    for name in key_table():
        assert f"\n| `{name}` |" in text, name
    assert "| `features` | all | `32` | channels | an integer of at least 1 | at full resolution;" in text
    assert "| `seed` | train | `0` |  | an integer from 0 to 4294967294 |" in text
    assert "| `output_dir` | all | computed |  | a path |" in text
    assert "| `optimizer` | train |  |  | component |" in text


def test_only_what_is_between_the_marks_is_made_anew() -> None:
    page = with_key_tables(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert page == f"before\n{BEGIN}\n\n{key_tables()}\n\n{END}\nafter\n"
    assert with_key_tables(page) == page
    assert with_key_tables("no marks") == "no marks"
