# SPDX-License-Identifier: Apache-2.0
"""The sentences of docs/how-to/troubleshooting.md against those that the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/how-to/troubleshooting.md").read_text(encoding="utf-8")
SENTENCES = re.findall(r"^### `(.+)`$", PAGE, flags=re.MULTILINE)
ANYTHING = "…"


def sentences_of(file: Path) -> Iterator[str]:
    """Every text of a module, with three dots in place of what is filled in."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else ANYTHING for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


SOURCE = [text for file in sorted((ROOT / "dtlp_components").rglob("*.py")) for text in sentences_of(file)]


def test_page_quotes_sentences() -> None:
    assert len(SENTENCES) >= 20
    assert len(set(SENTENCES)) == len(SENTENCES)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_quoted_sentence_is_said_by_the_code(sentence: str) -> None:
    pieces = [piece.strip() for piece in sentence.split(ANYTHING) if piece.strip()]
    assert any(len(piece) > 8 for piece in pieces), "too little to find it by"
    in_order = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
    assert any(in_order.search(text) for text in SOURCE)
