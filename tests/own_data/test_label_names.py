# SPDX-License-Identifier: Apache-2.0
"""Label names in three forms, and those that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest

from dtlp_components.errors import InputError
from dtlp_components.own_data.label_names import read_ignored, read_label_names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["background", "$__import__('os')"], r"got \"\$__import__"),
        ({"1": " $__import__('os')"}, r"got \"\$__import__"),
        ({"1": "\u00a0$__import__('os')"}, r"got \"\$__import__"),
        ({"1": "\t@run"}, "got '@run'"),
        ({"1": " %names.json"}, "got '%names.json'"),
        ({"1": "C#7"}, "got 'C#7'"),
        ({"1": "\u00a0"}, "got ''"),
        ({"0": "air", "1": "liver"}, "expected 'background' as the name of value 0, got 'air'"),
        ({"0": "background", "1": "Liver", "2": "liver"}, "differ by more than upper and lower case"),
        ({"background": 0, "liver": 1, "spleen": 1}, "expected one name for the value 1"),
        ({"background": 0, "whole tumor": [1, 2]}, r"got the value \[1, 2\] for 'whole tumor'"),
        (["background", None], "got the name null for the value 1"),
        ("liver", "expected label names like"),
    ],
)
def test_label_names_that_cannot_be_used(content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_label_names(content, "names.json")


def test_label_names_in_any_of_three_forms_are_the_same() -> None:
    expected = {0: "background", 1: "liver"}
    for content in (["background", "liver"], {"1": "liver"}, {"liver": 1, "Background": 0}):
        assert read_label_names(content, "names.json") == expected


def test_nnunets_label_to_ignore_is_no_class_but_a_value() -> None:
    for content in ({"background": 0, "tumor": 1, "ignore": 2}, {"1": "tumor", "2": "Ignore "}):
        assert read_label_names(content, "dataset.json") == {0: "background", 1: "tumor"}
        assert read_ignored(content) == 2
    assert read_ignored(["background", "tumor"]) is None
    assert read_ignored(None) is None
