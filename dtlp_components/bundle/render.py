# SPDX-License-Identifier: Apache-2.0
"""Renders the bundles from the recipes, and compares those on disk with them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from ..files import write_text
from .compose import WORKFLOWS, compose_overlays, compose_workflow
from .format_json import format_json
from .metadata import compose_metadata
from .readme import fill_readme
from .recipes import RECIPES, Recipe, bundle_names, read_recipe, read_text_recipe

__all__ = ["check_bundles", "render", "render_recipe", "write_bundles"]


def render(name: str, recipes: str | Path = RECIPES) -> dict[str, str]:
    """
    Compose the files of one bundle: base, then its data set's recipe, then its entry in ``index.json``; the last wins.

    Args:
        name: name of the bundle, an entry of ``index.json``.
        recipes: folder of the recipes.

    Returns:
        Text of every generated file by its path relative to the bundle's folder.

    Raises:
        InputError: if a recipe cannot be read, overrides an id that does not exist, or contradicts another.
    """
    return render_recipe(read_recipe(name, recipes), recipes)


def render_recipe(recipe: Recipe, recipes: str | Path = RECIPES) -> dict[str, str]:
    """
    Compose the files of one bundle from the base and a recipe, which need not come from a file.

    Args:
        recipe: what the bundle adds to the base.
        recipes: folder with ``base``.

    Returns:
        Text of every generated file by its path relative to the bundle's folder.

    Raises:
        InputError: if the recipe overrides an id that does not exist, or contradicts another.
    """
    base = Path(recipes) / "base"
    configs = {workflow: compose_workflow(workflow, recipe, recipes) for workflow in WORKFLOWS}
    metadata = compose_metadata(recipe, configs["train"], recipes)
    contents = {**configs, **compose_overlays(recipe, recipes), "metadata": metadata}
    files = {f"configs/{name}.json": format_json(content) + "\n" for name, content in contents.items()}
    files["configs/logging.conf"] = read_text_recipe(base / "logging.conf")
    files["docs/README.md"] = fill_readme(recipe, configs["train"], recipes)
    files["docs/data_license.txt"] = recipe.data_license
    files["LICENSE"] = read_text_recipe(base / "LICENSE")
    return files


def write_bundles(
    names: Iterable[str] | None = None, output: str | Path = "bundles", recipes: str | Path = RECIPES
) -> list[Path]:
    """
    Write the generated files of bundles; everything else in their folders (weights, logs) is left alone.

    All are rendered before the first is written, so that a faulty recipe changes nothing.

    Args:
        names: bundles to write; all of ``index.json`` unless given.
        output: folder that holds one folder per bundle.
        recipes: folder of the recipes.

    Returns:
        The files whose text changed.
    """
    changed = [(path, text) for path, text in _rendered(names, output, recipes) if _text_of(path) != text]
    for path, text in changed:
        write_text(str(path), text)
    return [path for path, _ in changed]


def check_bundles(
    output: str | Path = "bundles", names: Iterable[str] | None = None, recipes: str | Path = RECIPES
) -> list[str]:
    """
    Compare bundles on disk with what the recipes render.

    Args:
        output: folder that holds one folder per bundle.
        names: bundles to compare; all of ``index.json`` unless given. Others, written by hand, are not looked at.
        recipes: folder of the recipes.

    Returns:
        One unified diff (from the file on disk to the recipes) per file that differs or is missing.
    """
    diffs = []
    for path, text in _rendered(names, output, recipes):
        found = _text_of(path)
        if found != text:
            lines = difflib.unified_diff(
                (found or "").splitlines(keepends=True),
                text.splitlines(keepends=True),
                fromfile=str(path) if found is not None else f"{path} (missing)",
                tofile=f"{path} (from the recipes)",
            )
            diffs.append("".join(lines))
    return diffs


def _rendered(names: Iterable[str] | None, output: str | Path, recipes: str | Path) -> list[tuple[Path, str]]:
    names = bundle_names(recipes) if names is None else list(names)
    return [(Path(output) / name / path, text) for name in names for path, text in render(name, recipes).items()]


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
