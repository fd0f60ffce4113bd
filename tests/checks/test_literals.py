# SPDX-License-Identifier: Apache-2.0
"""A text of a person's goes through MONAI's configuration as it was typed."""

from __future__ import annotations

import pytest
from monai.bundle import ConfigParser

from dtlp_components.checks.literals import is_expression, is_literal, literal, literal_words

TEXTS = [
    "out/a", "a b", "$x", "@x", "%x", "@", "$", "a#1", "#", "a@::b", "a%::b", "it's", "it's #1", 'both \' and " #',
    "$HOME/x", "back\\slash#", "tab\t#", "größe#", "$'a'", "@run", "%train.json::run", "\udcff#", " $x", "2024",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_monai_reads_what_was_typed(text: str) -> None:
    parser = ConfigParser({"x": 1, "run": 2, "inner": {"path": literal(text)}, "list": [literal(text)]})
    assert parser.get_parsed_content("inner") == {"path": text}
    assert parser.get_parsed_content("list") == [text]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_is_left_alone_only_if_monai_leaves_it_alone(text: str) -> None:
    if is_literal(text):
        assert literal(text) == text
        assert ConfigParser({"x": 1, "path": text}).get_parsed_content("path") == text
    else:
        assert literal(text) != text


def test_expression_computes_and_a_name_does_not() -> None:
    assert all(map(is_expression, ["$@dataset_dir + '/list.json'", "@dataset_dir", "$'a' + \"b\""]))
    assert not any(map(is_expression, ["$x", "$HOME/data", "a", "%x", 3, None]))


def test_paths_of_a_command_line_are_read_as_they_were_typed() -> None:
    words = [
        "run", "training", "--output_dir", "a#1", "--dataset_dir=2024", "--cache-dir", "@x", "--features", "16",
        "--datalist", "$@dataset_dir + '/list.json'", "--studies_dir", "None", "--prepare_hint", "a#1",
    ]  # fmt: skip
    assert literal_words(words) == [
        "run", "training", "--output_dir", "$'a\\x231'", "--dataset_dir=./2024", "--cache-dir", "$'\\x40x'",
        "--features", "16", "--datalist", "$@dataset_dir + '/list.json'", "--studies_dir", "None", "--prepare_hint",
        "a#1",
    ]  # fmt: skip
    assert literal_words(["run", "--output_dir"]) == ["run", "--output_dir"]
