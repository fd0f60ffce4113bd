# SPDX-License-Identifier: Apache-2.0
"""A command that is printed can be pasted: what is put into it is a word of a shell, whatever a folder is called."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "dtlp_components"
COMMAND = re.compile(
    r"\b(dtlp [a-z-]+|python -m (dtlp_components|monai)|torchrun|monailabel start_server|tensorboard) "
)


def unquoted(tree: ast.AST) -> list[str]:
    """Expressions that f-strings put behind the first word of a command without `shlex`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            said = ""
            for part in node.values:
                if isinstance(part, ast.Constant):
                    said += str(part.value)
                elif COMMAND.search(said) and "shlex." not in (expression := ast.unparse(part)):
                    found.append(expression)
                said = said.rpartition("`")[2] if said.count("`") % 2 == 0 else said
    return found


def test_an_unquoted_word_is_found() -> None:
    text = (
        'f"Then: dtlp train {bundle}"; f"dtlp train {shlex.quote(bundle)}"; f"{bundle} is trained by `dtlp train X`."'
    )
    assert unquoted(ast.parse(text)) == ["{bundle}"]


def test_words_of_printed_commands_are_quoted() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {word}"
        for path in PACKAGE.rglob("*.py")
        for word in unquoted(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()
