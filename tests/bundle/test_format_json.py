# SPDX-License-Identifier: Apache-2.0
"""JSON as people write it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dtlp_components.bundle.format_json import WIDTH, format_json


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([1, 2.0, None], "[1, 2.0, null]"),
        ({"_target_": "A", "x": 1}, '{"_target_": "A", "x": 1}'),
        ({"a": [1, 2], "b": {"c": {}}}, '{\n    "a": [1, 2],\n    "b": {\n        "c": {}\n    }\n}'),
        ([{"a": 1}, "@b"], '[\n    {"a": 1},\n    "@b"\n]'),
        ({"größer": "Herz"}, '{"größer": "Herz"}'),
    ],
)
def test_what_is_short_stands_on_one_line(content: Any, text: str) -> None:
    assert format_json(content) == text
    assert json.loads(text) == content


def test_long_lists_and_names_with_numbers_fill_lines() -> None:
    content = {"names": ["spleen"] * 40, "weights": {f"term_{i}": i / 4 for i in range(20)}}
    text = format_json(content)
    assert json.loads(text) == content
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH + 1  # and the comma at the end of a line
    # a line ends where the next word, of at most 16 columns, would not fit: all but the last line of a list are this
    # long
    full = [line for line in lines if line.endswith(",") and not line.endswith("],")]
    assert full
    assert all(len(line) > WIDTH - 20 for line in full)


def test_text_that_cannot_be_broken_may_be_longer() -> None:
    assert format_json(["x" * 200]).splitlines()[1] == f'    "{"x" * 200}"'
