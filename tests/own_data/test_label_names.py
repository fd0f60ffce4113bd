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
        (["background", "$__import__('os')"], r"found the label name \"\$__import__"),
        ({"1": " $__import__('os')"}, r"found the label name \"\$__import__"),
        ({"1": "\u00a0$__import__('os')"}, r"found the label name \"\$__import__"),
        ({"1": "\t@run"}, "found the label name '@run'"),
        ({"1": " %names.json"}, "found the label name '%names.json'"),
        ({"1": "C#7"}, "found the label name 'C#7'"),
        ({"1": "\u00a0"}, "found the label name ''"),
        ({"0": "air", "1": "liver"}, "found 'air' as the name of 0"),
        ({"0": "background", "1": "Liver", "2": "liver"}, "differ in lower case"),
        ({"background": 0, "liver": 1, "spleen": 1}, "found two names for the value 1"),
        ({"background": 0, "whole tumor": [1, 2]}, r"found the value \[1, 2\] for 'whole tumor'"),
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
