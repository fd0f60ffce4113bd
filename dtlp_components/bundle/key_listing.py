# SPDX-License-Identifier: Apache-2.0
"""The keys of a bundle with their values, from the table of keys: ``dtlp keys``."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from ..checks.key_table import Key, key_table
from ..errors import InputError
from ..files import read_object
from .find import find_bundle

__all__ = ["key_lines", "print_keys"]

WORKFLOWS = ("train", "evaluate", "inference")
WIDTH = 120
LONGEST_VALUE = 44


def print_keys(bundle: str, workflow: str = "train", components: bool = False) -> None:
    """
    List the keys of a bundle: current value, allowed values, and meaning.

    Every key is a flag of `dtlp train`, `dtlp evaluate` or `dtlp segment`, and of MONAI's command.

    Args:
        bundle: folder of the bundle, or its name as `dtlp list` shows it.
        workflow: train, evaluate or inference.
        components: also list components, whose arguments can be set with --component::argument.

    Raises:
        InputError: if there is no such bundle or workflow.
    """
    if workflow not in WORKFLOWS:
        raise InputError(f"--workflow: expected one of {', '.join(WORKFLOWS)}, got {workflow!r}.")
    file = find_bundle(bundle) / "configs" / f"{workflow}.json"
    print("\n".join(key_lines(read_object(file, "a bundle's configuration"), file, components)))


def key_lines(config: dict[str, Any], file: Path, components: bool = False) -> list[str]:
    """
    The listing of a configuration, group by group.

    Args:
        config: content of the file.
        file: where it is from.
        components: list what is built, too.
    """
    lines, group = [f"Keys of {file}"], ""
    for key in key_table().values():
        if key.name not in config or not (key.is_value or components):
            continue
        if key.group != group:
            group = key.group
            lines += ["", group]
        value = config.get("displayable_configs", {}).get(key.name, config[key.name])
        shown = key.kind if not key.is_value else _shown(value)
        lines.append(f"  --{key.name} {shown}")
        lines += textwrap.wrap(_sentence(key), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.startswith("$@trained("):
        # the bundle's own value, which a record beside the weights replaces
        value = value.partition(", ")[2].removesuffix(")")
        return f"{value} (or the value recorded by training)"
    if isinstance(value, str) and value.startswith(("$", "@")):
        return "(computed)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _sentence(key: Key) -> str:
    meaning = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", key.meaning)
    unit = f"{key.unit} " if key.unit else ""
    expected = f" Expected: {key.expected}." if key.is_value else ""
    return f"{unit}{meaning}.{expected}"
