# SPDX-License-Identifier: Apache-2.0
"""Absolute paths in texts and configurations, which are not to leave the machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from monai.bundle import ReferenceResolver

__all__ = ["deep_paths", "names_a_path", "paths_in"]


# An absolute path, of POSIX, with a drive, or in a home folder, where a text can begin one. No path: what goes on from
# a word, $VARIABLE, <placeholder> or *, as in a/b, and a URL's, unless it is one of a file. Programs and devices that
# every machine has tell nothing.
PATH = re.compile(
    r"""(?:(?<![^\s"'`“”‘’„«(\[{=,;:|%–—])|(?<=file://)|(?<=:///))"""
    r"""(?:/(?!dev/(?:null|shm|std\w+)\b|(?:usr/)?bin/)|~(?:[a-z_][\w-]*)?/|[A-Za-z]:[/\\])"""
    r"""[\w.][^\s"'`“”‘’«»()\[\]{},;|<>]*"""
)


def names_a_path(text: str) -> bool:
    """Whether an absolute path is in a text, such as a command."""
    return PATH.search(text) is not None


def deep_paths(text: str) -> list[str]:
    """
    The different absolute paths in a text that lead through a folder: one name may as well be a server's ``/info``.
    """
    return [path for path in dict.fromkeys(PATH.findall(text)) if re.search(r"[/\\][^/\\]+[/\\]", path)]


def paths_in(config: Any, id: str = "") -> Iterator[tuple[str, str, str]]:
    """Ids of the texts and expressions that name an absolute path, what they are, and the path."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from paths_in(value, f"{id}::{key}" if id else key)
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from paths_in(value, f"{id}::{i}")
    elif isinstance(config, str):
        found = _expression_path(config[1:]) if config.startswith("$") else PATH.search(config)
        if found:
            yield id, config, found[0]


def _expression_path(expression: str) -> re.Match[str] | None:
    """
    The first absolute path in the quoted texts of an expression; what is added to another text is not its beginning.
    """
    try:
        tree = ast.parse(ReferenceResolver.id_matcher.sub("reference", expression).strip())
    except SyntaxError:  # cannot be evaluated either
        return PATH.search(expression)
    nodes = list(ast.walk(tree))
    added = {id(_start(node.right)) for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)}
    added |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
    texts = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = (PATH.search(str(text.value), 1 if id(text) in added else 0) for text in texts)
    return next(filter(None, found), None)


def _start(node: ast.expr) -> ast.expr:
    """What the text that a node makes begins with."""
    while isinstance(node, (ast.BinOp, ast.JoinedStr)):
        if isinstance(node, ast.JoinedStr) and not node.values:
            break
        node = node.left if isinstance(node, ast.BinOp) else node.values[0]
    return node
