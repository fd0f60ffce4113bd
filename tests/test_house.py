# SPDX-License-Identifier: Apache-2.0
"""The size of the house's rooms: one concept a file, a test file of the same name, few things in the hall."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dtlp_components"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
NAMED = [module for module in MODULES if module.name not in ("__init__.py", "__main__.py")]

LINES_OF_A_FILE, LINES_OF_A_CLASS, MODULES_OF_THE_ROOT = 400, 220, 11
LONG_CLASSES = {
    "engines/trainer.py: DTLPTrainer",  # one iteration of the paper, whose steps read each other's tensors
}
# tested through others so far
WITHOUT_TESTS = {
    "demo.py",  # minutes long: make demo
    "keys.py",  # nothing but names
    "parts.py",  # nothing but imports
}


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_module_has_a_test_file_of_its_name() -> None:
    without = {
        str(module) for module in NAMED if not (ROOT / "tests" / module.parent / f"test_{module.name}").is_file()
    }
    assert without <= WITHOUT_TESTS


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_file_is_short_enough_to_be_one_concept(module: Path) -> None:
    assert len((PACKAGE / module).read_text(encoding="utf-8").splitlines()) <= LINES_OF_A_FILE


def test_class_is_short_enough_to_be_one_concept() -> None:
    found = {
        f"{module}: {node.name}"
        for module in MODULES
        for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and lines_of(node) > LINES_OF_A_CLASS
    }
    assert found <= LONG_CLASSES


def test_few_modules_stand_in_the_root() -> None:
    assert len([module for module in MODULES if module.parent == Path()]) <= MODULES_OF_THE_ROOT
