# SPDX-License-Identifier: Apache-2.0
"""
The floors of the house: ground, parts, bundle, tools, door; nothing imports upwards, and no file is in the wrong room.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dtlp_components"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# Rooms by floor, the lowest first. A module may import what is on a lower floor, and of its own floor its own room
# only.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "files", "keys", "processes", "run_folder", "tables", "__version__"}),  # ground
    frozenset({"metrics", "networks", "data"}),  # parts, from here
    frozenset({"losses", "pseudo_labels", "transforms"}),
    frozenset({"inferers", "methods"}),
    frozenset({"handlers", "engines", "checks"}),  # to here
    frozenset({"bundle"}),
    frozenset({"parts"}),  # the public names
    frozenset({"datasets", "own_data", "deploy", "report", "bench", "experiments", "labeling"}),  # tools
    frozenset({"command_line"}),
    frozenset({"demo", "cli"}),  # the door
    frozenset({"__init__", "__main__"}),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# what a room may know of another on its floor, and why
NEIGHBORS = {
    ("bench", "own_data"),  # the estimate that its measurement is compared with
    ("experiments", "report"),  # an experiment ends with the table of its scores
    ("deploy", "report"),  # pictures of label maps
    ("own_data", "report"),  # a picture of the labeled scans
    ("labeling", "report"),  # pictures of scans
    ("labeling", "deploy"),  # label maps are written as segment writes them
    ("experiments", "labeling"),  # rounds of labels, simulated
    ("files", "errors"),  # a file that cannot be read is an error of the user's
    ("processes", "errors"),  # one of several processes tells why all end
}
# only errors on the ground floor: a network can be taken elsewhere with nothing but torch and MONAI
NARROW = {"networks": {"errors"}}
NETWORK_PACKAGES = {"torch", "monai", *sys.stdlib_module_names}
# commands, which no JSON names; they import MONAI only where they need it
LAZY = {Path("bundle/find.py"), Path("bundle/launch.py"), Path("bundle/start.py")}
# or such as a packed bundle, which only segments, does without
OPTIONAL_PACKAGES = {"dicomweb_client", "h5py", "highdicom", "jinja2", "matplotlib", "nrrd", "onnxruntime", "pydicom"}


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


def test_every_room_has_a_floor() -> None:
    assert {module.parts[0].removesuffix(".py") for module in MODULES} <= FLOOR_OF.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if module.name == "__init__.py"], ids=str)
def test_room_says_what_belongs_in_it(module: Path) -> None:
    assert ast.get_docstring(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_imports_upwards(module: Path) -> None:
    room = module.parts[0].removesuffix(".py")
    names = imports(module)
    inside = {name[1] for name in names if name[0] == "dtlp_components"} - {room}
    upwards = {other for other in inside if FLOOR_OF[other] >= FLOOR_OF[room] and (room, other) not in NEIGHBORS}
    assert not upwards
    if room in NARROW:
        assert inside <= NARROW[room]
    if room == "networks":
        assert {name[0] for name in names} <= NETWORK_PACKAGES | {"dtlp_components"}


@pytest.mark.parametrize("module", [module for module in MODULES if module not in LAZY], ids=str)
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
