# SPDX-License-Identifier: Apache-2.0
"""Texts of people in a configuration: MONAI evaluates some, looks others up, and writes ``#`` as ``::`` in all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fire.parser import DefaultParseValue

from .key_table import COMPUTED, key_table

__all__ = ["is_expression", "is_literal", "literal", "literal_words"]

# what an expression has that computes something: a quoted text, or a reference
EXPRESSION = re.compile(r"^\$.*['\"@]|^@", re.DOTALL)


def is_literal(text: str) -> bool:
    """Whether MONAI leaves a text of a configuration as it is."""
    return not text.startswith(COMPUTED) and "#" not in text and re.search("[@%]::", text) is None


def is_expression(value: Any) -> bool:
    """Whether a value for a path or a text is meant to be computed, as ``$@dataset_dir + '/list.json'``."""
    return isinstance(value, str) and EXPRESSION.search(value) is not None


def literal(text: str) -> str:
    """
    What a configuration has to hold for MONAI to read ``text``, as a path was typed: itself, or an expression.

    Examples:
        >>> literal("out/a")
        'out/a'
        >>> literal("out/a#1")
        "$'out/a\\\\x231'"
    """
    if is_literal(text):
        return text
    # in an expression too, # is replaced and @name looked up
    return "$" + re.sub("[#@%]", lambda sign: f"\\x{ord(sign[0]):02x}", repr(text))


def literal_words(words: Sequence[str]) -> list[str]:
    """
    Words of a ``monai.bundle run`` command line in which every path of the table of keys is read as it was typed.

    A folder named like a number or a list, which Fire would read as one, gets ``./`` in front. Expressions stay.
    """
    table = key_table()
    result = list(words)
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        key = table.get(flag.removeprefix("--").replace("-", "_")) if flag.startswith("--") else None
        if key is None or key.kind != "path":
            continue
        if equals:
            result[i] = f"{flag}={_as_typed(value, key.null)}"
        elif i + 1 < len(words):
            result[i + 1] = _as_typed(words[i + 1], key.null)
    return result


def _as_typed(value: str, null: bool) -> str:
    if value.startswith("--") or (null and value == "None"):
        return value
    if is_expression(value) and (value[0] == "$" or value[1:].partition("::")[0] in key_table()):
        return value
    read = DefaultParseValue(value)
    return literal(value if isinstance(read, str) else f"./{value}")
