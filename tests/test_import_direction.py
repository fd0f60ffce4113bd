# SPDX-License-Identifier: Apache-2.0
"""Dependencies flow one way: parts know keys and errors, and meet only in a bundle's JSON."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dtlp_components"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# small modules that know nothing of the rest
LEAVES = {"errors", "files", "keys"}
# what a part may import of the package, besides itself; parts that are not listed (commands) may import anything
ALLOWED = {
    **{leaf: set[str]() for leaf in LEAVES},
    **{part: LEAVES for part in ("data", "losses", "pseudo_labels", "metrics", "engines", "bundle_checks")},
    "handlers": LEAVES | {"losses", "metrics", "pseudo_labels"},  # they report what those compute
    "inferers": LEAVES | {"data", "pseudo_labels"},  # for the scan's grid and the entropy
    "networks": {"errors"},
    "make_bundle": {"errors", "files"},
}
NETWORK_PACKAGES = {"torch", "monai", *sys.stdlib_module_names}
OPTIONAL_PACKAGES = {"h5py", "highdicom", "matplotlib", "nrrd", "onnxruntime", "pydicom"}


def imported(node: ast.Import | ast.ImportFrom, module: Path) -> list[tuple[str, ...]]:
    """Imported names, split at the dots; those of the package begin with "dtlp_components" and a part."""
    if isinstance(node, ast.Import):
        return [tuple(alias.name.split(".")) for alias in node.names]
    folder = ("dtlp_components", *module.parent.parts)
    start = folder[: len(folder) - node.level + 1] if node.level else ()
    return [(*start, *(node.module or "").split("."), alias.name) for alias in node.names]


def imports(module: Path, scope: type[ast.AST] = ast.Module) -> set[tuple[str, ...]]:
    """All imports of a file, or those inside its functions."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    scopes = [node for node in ast.walk(tree) if isinstance(node, scope)]
    nodes = [node for s in scopes for node in ast.walk(s) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {tuple(filter(None, name)) for node in nodes for name in imported(node, module)}


def test_relative_import_is_read_as_a_path_in_the_package() -> None:
    (node,) = ast.parse("from ..keys import LossTerms").body
    assert isinstance(node, ast.ImportFrom)
    assert imported(node, Path("engines/trainer.py")) == [("dtlp_components", "keys", "LossTerms")]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_parts_import_only_what_they_may(module: Path) -> None:
    part = module.parts[0].removesuffix(".py")
    names = imports(module)
    if part in ALLOWED:
        inside = {name[1] for name in names if name[0] == "dtlp_components"}
        assert inside <= ALLOWED[part] | {part}
    if part == "networks":
        assert {name[0] for name in names} <= NETWORK_PACKAGES | {"dtlp_components"}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_functions_import_only_optional_packages(module: Path) -> None:
    # MONAI Label unloads a bundle's copy of the package once the network is built: a later import of it would fail
    names = imports(module, ast.FunctionDef) | imports(module, ast.AsyncFunctionDef)
    assert {name[0] for name in names} <= OPTIONAL_PACKAGES


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_package_is_imported_relatively(module: Path) -> None:
    # so that it works under another name, such as "scripts.dtlp_components" inside a packed bundle
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    absolute = [
        n for n in ast.walk(tree) if isinstance(n, ast.Import) or (isinstance(n, ast.ImportFrom) and not n.level)
    ]
    assert "dtlp_components" not in {name[0] for node in absolute for name in imported(node, module)}
