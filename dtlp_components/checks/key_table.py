# SPDX-License-Identifier: Apache-2.0
"""The one table of keys: what every root key of a bundle's JSON is, and which values it may have."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["COMPONENTS", "Key", "check_values", "key_table", "model_keys"]

TABLE = Path(__file__).parents[1] / "recipes" / "base" / "keys.json"

# kinds of what is built or derived; every other kind is that of a value, which has bounds
COMPONENTS = frozenset({"component", "block", "computed", "list"})

# a text with one of these in front would be evaluated or looked up by MONAI
COMPUTED = ("$", "@", "%")


@dataclass(frozen=True)
class Key:
    """
    An entry of the table.

    Args:
        name: of the key.
        group: heading of the table that it is in; groups are in the order in which a configuration is read.
        kind: ``flag``, ``integer``, ``number``, ``text``, ``path``, ``choice``, ``integers``, ``numbers``, ``names``,
            ``weights``, ``device``, or one of ``COMPONENTS``.
        meaning: a phrase, in Markdown.
        unit: of the value; empty if it has none.
        minimum: least value.
        above: what the value has to exceed.
        maximum: largest value.
        below: what the value must not reach.
        length: of a list.
        scalar: whether one number may stand for a list of equal ones.
        distinct: whether a list may have every value once only.
        null: whether there may be no value.
        choices: of the kind ``choice``.
        model: ``student`` if the weights of ``model.pt`` can only be used with the same value, ``teachers`` if those of
            ``last.pt``; empty otherwise.
        label: whether MONAI Label offers it as an option of the model; the value is a flag or one number, since its
            viewers take a list for a choice.
    """

    name: str
    group: str
    kind: str
    meaning: str
    unit: str = ""
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    length: int | None = None
    scalar: bool = False
    distinct: bool = False
    null: bool = False
    choices: tuple[str, ...] = ()
    model: str = ""
    label: bool = False

    @property
    def is_value(self) -> bool:
        """Whether a person may set it, on the command line or in the file."""
        return self.kind not in COMPONENTS

    @property
    def expected(self) -> str:
        """What the value may be, as a phrase, such as ``an integer from 1``."""
        phrase = {
            "flag": ", ".join(["True or False, capitalized", *map(repr, self.choices)]).replace(", '", " or '"),
            "integer": "an integer",
            "number": "a number",
            "text": "a string",
            "path": "a path",
            "choice": "one of " + ", ".join(map(repr, self.choices)),
            "integers": f"a list of {self.length or ''} integers".replace("  ", " "),
            "numbers": f"a list of {self.length or ''} numbers".replace("  ", " "),
            "names": "a list of strings",
            "weights": "a number of at least 0 for every loss term",
            "device": "a device, such as cpu or cuda:0",
        }[self.kind]
        if self.minimum is not None and self.minimum == self.maximum:
            return _plain(self.minimum)
        text = phrase + self._bounds()
        if self.kind == "number" and self.choices:
            text += f", or {' or '.join(map(repr, self.choices))}"
        if self.scalar:
            text = f"a number or {text}"
        return text + (", all different" if self.distinct else "") + (", or None" if self.null else "")

    def _bounds(self) -> str:
        start = ", each " if self.length else " "
        if self.minimum is not None and self.maximum is not None:
            return f"{start}from {_plain(self.minimum)} to {_plain(self.maximum)}"
        bounds = [
            f"{word} {_plain(bound)}"
            for word, bound in (
                ("at least" if self.length else "of at least", self.minimum), ("greater than", self.above),
                ("at most", self.maximum), ("less than", self.below),
            )
            if bound is not None
        ]  # fmt: skip
        return start + " and ".join(bounds) if bounds else ""

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is of the key's kind and within its bounds; never evaluates anything."""
        if value is None:
            return self.null
        if self.kind in ("text", "path"):
            return isinstance(value, str)
        if self.kind == "flag":
            return isinstance(value, bool) or (isinstance(value, str) and value in self.choices)
        if self.kind == "choice":
            return isinstance(value, str) and value in self.choices
        if self.kind == "names":
            return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
        if self.kind == "weights":
            return isinstance(value, Mapping) and all(_is_number(w) and w >= 0 for w in value.values())
        if self.kind in ("integer", "number"):
            return self._is_within(value) or (isinstance(value, str) and value in self.choices)
        if self.kind in ("integers", "numbers"):
            if self.scalar and self._is_within(value):
                return True
            return (
                isinstance(value, (list, tuple))
                and (self.length is None or len(value) == self.length)
                and all(self._is_within(item) for item in value)
                and not (self.distinct and len(set(value)) < len(value))
            )
        return True  # a device, which only torch knows, or a component

    def _is_within(self, number: Any) -> bool:
        if not _is_number(number) or (self.kind.startswith("integer") and not isinstance(number, int)):
            return False
        return (
            (self.minimum is None or number >= self.minimum)
            and (self.above is None or number > self.above)
            and (self.maximum is None or number <= self.maximum)
            and (self.below is None or number < self.below)
        )

    def problem(self, value: Any) -> str | None:
        """One sentence if ``value`` cannot be meant, else ``None``."""
        if self.accepts(value):
            return None
        return f"--{self.name}: expected {self.expected}, got {value!r}.{self._way_out(value)}"

    def _way_out(self, value: Any) -> str:
        if self.kind == "flag" and isinstance(value, str) and value.lower() in ("true", "false"):
            return f" Write --{self.name} {value.capitalize()}"
        if self.kind == "path" and _is_number(value):
            return f" If a folder's name is a number, write --{self.name} ./{value}"
        if self.kind in ("integers", "numbers") and self.length:
            return f' Write it in quotes: --{self.name} "{[16 if self.kind == "integers" else 0.5] * self.length}"'
        return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


@functools.cache
def key_table() -> dict[str, Key]:
    """Every key by its name, in the order in which a configuration is read."""
    groups = json.loads(TABLE.read_text(encoding="utf-8"))
    names = [name for keys in groups.values() for name in keys]
    if len(set(names)) < len(names):
        raise ValueError(f"{TABLE}: keys in two groups: {sorted({n for n in names if names.count(n) > 1})}.")
    return {
        name: Key(name, group, **{**entry, "choices": tuple(entry.get("choices", ()))})
        for group, keys in groups.items()
        for name, entry in keys.items()
    }


def model_keys(*, teachers: bool = False) -> list[str]:
    """Keys whose values weights cannot be used without: those of the student, or of the teachers as well."""
    return [key.name for key in key_table().values() if key.model == "student" or (teachers and key.model)]


def check_values(values: Mapping[str, Any]) -> list[str]:
    """
    One sentence per value that cannot be meant. Keys that the table does not have, somebody's own, are not looked at.

    Args:
        values: by the name of their key.
    """
    table = key_table()
    problems = (table[name].problem(value) for name, value in values.items() if name in table and table[name].is_value)
    return [problem for problem in problems if problem is not None]
