# SPDX-License-Identifier: Apache-2.0
"""
The tables of keys in the documentation, from the table of keys and the base: ``python -m
dtlp_components.bundle.key_docs``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from ..checks.key_table import Key, key_table
from ..files import read_object, write_text
from ..tables import markdown
from .compose import WORKFLOWS
from .recipes import RECIPES

__all__ = ["BEGIN", "END", "key_tables", "main", "with_key_tables"]

BEGIN, END = "<!-- keys: begin, rendered from recipes/base/keys.json -->", "<!-- keys: end -->"
HEAD = ("key", "in", "default", "unit", "what it may be", "meaning")
# what recipes set for every bundle
SET_BY_RECIPES = ("bundle_name", "dataset_dir", "datalist", "prepare_hint", "num_classes", "label_names")


def key_tables(recipes: str | Path = RECIPES) -> str:
    """Markdown: a table for each group of keys, with the defaults of the base."""
    base = {part: read_object(Path(recipes) / "base" / f"{part}.json") for part in ("common", *WORKFLOWS)}
    groups: dict[str, list[list[str]]] = {}
    for key in key_table().values():
        there = [part for part in WORKFLOWS if key.name in base[part] or key.name in base["common"]]
        values = {_default(key, base["common" if key.name in base["common"] else part]) for part in there}
        row = [f"`{key.name}`", ", ".join(there) if len(there) < len(WORKFLOWS) else "all"]
        row += [values.pop() if len(values) == 1 else "the workflow's", key.unit]
        row += [key.expected if key.is_value else key.kind, key.meaning]
        groups.setdefault(key.group, []).append([cell.replace("|", "\\|") for cell in row])
    return "\n\n".join(f"### {group.capitalize()}\n\n{markdown([HEAD, *rows])}" for group, rows in groups.items())


def _default(key: Key, config: dict[str, Any]) -> str:
    value = config[key.name]
    if key.name in SET_BY_RECIPES:
        return "the bundle's"
    if not key.is_value:
        return ""
    if (isinstance(value, dict) and "_target_" in value) or (isinstance(value, str) and value.startswith(("$", "@"))):
        return "computed"
    return f"`{json.dumps(value)}`" if key.kind != "weights" else "see there"


def with_key_tables(text: str) -> str:
    """A page with the tables between its two marks made anew."""
    # a function, since a replacement text would have its backslashes read
    return re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n\n{key_tables()}\n\n{END}", text, flags=re.S
    )


def main(pages: list[str]) -> None:
    """Write the tables into pages that have the marks."""
    for page in pages:
        write_text(page, with_key_tables(Path(page).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(sys.argv[1:])
