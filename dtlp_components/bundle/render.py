# SPDX-License-Identifier: Apache-2.0
"""Renders the bundles from the recipes: ``python -m dtlp_components.bundle.render --help``."""

from __future__ import annotations

import argparse
import difflib
import json
import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import MERGE_KEY, merge_kv
from monai.utils.misc import check_key_duplicates

from ..errors import InputError
from ..files import write_text

__all__ = [
    "COMMANDS_FROM",
    "METADATA_FACTS",
    "ORIGIN",
    "RECIPES",
    "Layer",
    "Recipe",
    "apply_overrides",
    "bundle_names",
    "check_bundles",
    "main",
    "render",
    "render_recipe",
    "write_bundles",
]

RECIPES = Path(__file__).parents[1] / "recipes"
COMMAND = "python -m dtlp_components.bundle.render"
WORKFLOWS = ("train", "evaluate", "inference")
SECTIONS = ("common", *WORKFLOWS, "metadata")

# ids of metadata.json -> the fact in common.json they repeat, so that the two cannot drift apart
METADATA_FACTS = {
    "network_data_format::inputs::image::num_channels": "in_channels",
    "network_data_format::inputs::image::spatial_shape": "patch_size",
    "network_data_format::outputs::pred::num_channels": "num_classes",
    "network_data_format::outputs::pred::spatial_shape": "patch_size",
}
# sentences of a README that do not hold of a packed bundle
COMMANDS_FROM = "From the root of the repository."
ORIGIN = "Rendered from `dtlp_components/recipes/`; edit there."
# README placeholders that most recipes leave alone
README_DEFAULTS = {
    "orientation": "orientation to RAS",
    "published": "There is no other variant.",
    "commands_from": COMMANDS_FROM,
    "tags": "Segmentation, Semi-supervised",
}
LABEL_NAMES = "network_data_format::outputs::pred::channel_def"


@dataclass
class Layer:
    """What a data set or a bundle changes in the base: override ids by section, and README placeholders."""

    origin: str  # file (and entry) for error messages
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    readme: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.overrides) - set(SECTIONS))
        if unknown:
            raise InputError(f"{self.origin}: no section {unknown} to override; there are {list(SECTIONS)}.")


@dataclass
class Recipe:
    """
    All that one bundle adds to the base.

    Args:
        name: of the bundle.
        layers: over the base, first to last; the last wins.
        data_license: text of ``docs/data_license.txt``.
        comment: where the configurations come from, written at their head.
        texts: README placeholders about places: ``origin`` (of the rendered files), ``data_page`` (more on the data),
            ``bundle_path`` (from the repository's root), ``scans_place`` (where the scans are), ``method_page`` and
            ``bundles_page`` (links to, or names of, these pages of the project).
    """

    name: str
    layers: list[Layer]
    data_license: str
    comment: str
    texts: dict[str, str]


def bundle_names(recipes: str | Path = RECIPES) -> list[str]:
    """Names of all bundles in ``index.json`` of the recipes, in its order."""
    return list(_read_json(Path(recipes) / "index.json"))


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
    return render_recipe(_read_recipe(name, Path(recipes)), recipes)


def render_recipe(recipe: Recipe, recipes: str | Path = RECIPES) -> dict[str, str]:
    """
    Compose the files of one bundle from the base and a recipe, which need not come from a file.

    ``bundle_name``, and what ``metadata.json`` repeats of ``common.json`` (channels, patch size), are filled in here.
    README placeholders (``$name``) are the literal values at the root of ``common.json`` and the ``readme`` entries.

    Args:
        recipe: what the bundle adds to the base.
        recipes: folder with ``base``.

    Returns:
        Text of every generated file by its path relative to the bundle's folder.

    Raises:
        InputError: if a layer overrides an id that does not exist, or contradicts another.
    """
    base = Path(recipes) / "base"
    layers = [*recipe.layers, Layer(recipe.layers[-1].origin, {"common": {"bundle_name": recipe.name}})]

    common = _read_json(base / "common.json")
    facts = _compose({"common": common}, layers)
    files = {}
    for workflow in WORKFLOWS:
        config = _compose({"common": common, workflow: _read_json(base / f"{workflow}.json")}, layers)
        files[f"configs/{workflow}.json"] = _dump({"_comment": recipe.comment} | config)
    metadata = _compose({"metadata": _read_json(base / "metadata.json")}, layers)
    files["configs/metadata.json"] = _dump(_fill_metadata(metadata, facts, f"metadata of {recipe.name}"))
    files["configs/logging.conf"] = _read(base / "logging.conf")
    files["docs/README.md"] = _fill_readme(base / "README.md.in", facts, recipe.texts, layers)
    files["docs/data_license.txt"] = recipe.data_license
    files["LICENSE"] = _read(base / "LICENSE")
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


def apply_overrides(parser: ConfigParser, overrides: dict[str, Any], origin: str) -> None:
    """
    Set every ``id: value`` pair in place, as ``monai.bundle run`` does, except that an id has to exist already.

    Args:
        parser: the configuration to change.
        overrides: values by id, such as ``"train::trainer::max_epochs"`` or ``"train::handlers::0::interval"``.
            ``"+id"`` merges a dict or list into the existing one, or adds an id that does not exist yet.
        origin: the recipe, for error messages.

    Raises:
        InputError: if an id does not exist, does exist but cannot be merged into, or has no parent.
    """
    for id, value in overrides.items():
        plain_id = id.removeprefix(MERGE_KEY)
        parent = plain_id.replace("#", "::").rpartition("::")[0]
        if id == plain_id and id not in parser:
            raise InputError(f"{origin}: `{id}` does not exist in the base recipe; to add it, write `+{id}`.")
        if parent not in parser:
            raise InputError(f"{origin}: `{id}` cannot be added, since `{parent}` does not exist in the base recipe.")
        value = deepcopy(value)  # merging would otherwise grow a list that belongs to the recipe
        if plain_id not in parser:
            parser[plain_id] = value
            continue
        try:
            merge_kv(parser, id, value)
        except ValueError as e:
            raise InputError(
                f"{origin}: `{id}` merges dict into dict or list into list, but the base recipe has "
                f"{type(parser[plain_id]).__name__} and the override {type(value).__name__}."
            ) from e


def main(args: Sequence[str] | None = None) -> None:
    """Command line: write bundles, or compare them with the recipes (``--check``)."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Render bundles from dtlp_components/recipes.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="bundles to render (default: all)")
    parser.add_argument("--output", default="bundles", help="folder that holds the bundles (default: bundles)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    parser.add_argument("--recipes", default=RECIPES, help="folder of the recipes (default: those of the package)")
    options = parser.parse_args(args)
    names = options.names or None
    if options.check:
        diffs = check_bundles(options.output, names, options.recipes)
        if diffs:
            print("\n".join(diffs))
            raise InputError(f"{len(diffs)} files differ: edit dtlp_components/recipes/, then run {COMMAND}")
        print(f"{options.output}: current")
    else:
        for path in write_bundles(names, options.output, options.recipes):
            print(path)


def _read_recipe(name: str, recipes: Path) -> Recipe:
    """The recipe of a bundle of ``index.json``."""
    index = _read_json(recipes / "index.json")
    if name not in index:
        raise InputError(f"{recipes / 'index.json'}: no bundle `{name}`; there are {', '.join(index)}.")
    entry = dict(index[name])
    origin = f"{recipes / 'index.json'} ({name})"
    dataset = entry.pop("dataset", None)
    if not isinstance(dataset, str):
        raise InputError(f"{origin}: `dataset` should name a file in {recipes / 'datasets'}, but got {dataset!r}.")
    dataset_file = recipes / "datasets" / f"{dataset}.json"
    layers = []
    for source, content in ((str(dataset_file), _read_json(dataset_file)), (origin, entry)):
        unknown = sorted(set(content) - {"overrides", "readme"})
        if unknown:
            raise InputError(f"{source}: unknown keys {unknown}; expected `overrides` and `readme`.")
        layers.append(Layer(source, **content))
    page = f"docs/data/{dataset}.md"
    return Recipe(
        name,
        layers,
        _read(recipes / "datasets" / f"{dataset}.license.txt"),
        comment=f"Generated from dtlp_components/recipes: edit there, then run {COMMAND}",
        texts={
            "origin": ORIGIN,
            "data_page": f"More on the data, its layout and its known defects: [{page}](../../../{page}).",
            "bundle_path": f"bundles/{name}",
            "method_page": "[docs/method.md](../../../docs/method.md)",
            "bundles_page": "[docs/bundles.md](../../../docs/bundles.md)",
            "scans_place": f"`--dataset_dir DIR` says where the scans are, if not in `data/{dataset}`.",
        },
    )


def _compose(parts: dict[str, dict[str, Any]], layers: list[Layer]) -> dict[str, Any]:
    """Join the base's parts (section name -> content), then apply each layer's overrides of these sections."""
    joined: dict[str, Any] = {}
    for section, content in parts.items():
        twice = sorted(joined.keys() & content.keys())
        if twice:
            raise InputError(f"base/{section}.json: {twice} are in {' and '.join(f'base/{p}.json' for p in parts)}.")
        joined |= deepcopy(content)
    parser = ConfigParser(joined)
    for layer in layers:
        for section in parts:
            apply_overrides(parser, layer.overrides.get(section, {}), f"{layer.origin}, overrides of {section}")
    config: dict[str, Any] = parser.get()
    return config


def _fill_metadata(metadata: dict[str, Any], facts: dict[str, Any], origin: str) -> dict[str, Any]:
    """Copy the facts of ``METADATA_FACTS`` into the metadata and compare the label names with ``num_classes``."""
    parser = ConfigParser(metadata)
    for id, fact in METADATA_FACTS.items():
        written = parser.get(id)
        if written is not None and fact in facts and written != facts[fact]:
            raise InputError(
                f"{origin}: `{id}` is {written}, but `{fact}` in the common recipe is {facts[fact]}; "
                f"write null in the metadata, then the value is taken from there."
            )
        if written is None:
            if fact not in facts:
                raise InputError(f"{origin}: `{id}` is not given, and neither is `{fact}` in base/common.json.")
            parser.set(deepcopy(facts[fact]), id)
    names = parser.get(LABEL_NAMES, {})
    expected = [str(i) for i in range(parser["network_data_format::outputs::pred::num_channels"])]
    if list(names) != expected:
        raise InputError(
            f"{origin}: `{LABEL_NAMES}` names the classes {list(names)}, but `num_classes` wants {expected}."
        )
    filled: dict[str, Any] = parser.get()
    return filled


def _fill_readme(template: Path, facts: dict[str, Any], texts: dict[str, str], layers: list[Layer]) -> str:
    """Substitute placeholders: facts of the common recipe, defaults, ``texts``, each layer's ``readme``; last wins."""
    literals = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items() if not _is_computed(v)}
    values = literals | README_DEFAULTS | texts
    text = _read(template)
    expected = {match["named"] or match["braced"] for match in Template.pattern.finditer(text)} - {None}
    for layer in layers:
        unused = sorted(set(layer.readme) - expected)
        if unused:
            raise InputError(f"{layer.origin}: `readme` fills {unused}, which {template} does not have.")
        values |= layer.readme
    missing = sorted(expected - set(values))
    if missing:
        raise InputError(f"{template}: no recipe fills {missing} (a dollar sign for the reader is written `$$`).")
    try:
        return Template(text).substitute(values)
    except ValueError as e:
        raise InputError(f"{template}: {e} (a dollar sign for the reader is written `$$`).") from e


def _is_computed(value: Any) -> bool:
    """Whether a value is not a literal that a README could print."""
    return isinstance(value, dict) or (isinstance(value, str) and value.startswith(("$", "@", "%")))


def _rendered(names: Iterable[str] | None, output: str | Path, recipes: str | Path) -> list[tuple[Path, str]]:
    names = bundle_names(recipes) if names is None else list(names)
    return [(Path(output) / name / path, text) for name in names for path, text in render(name, recipes).items()]


def _dump(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=4, ensure_ascii=False) + "\n"


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _read(path: Path) -> str:
    text = _text_of(path)
    if text is None:
        raise InputError(f"{path}: no such recipe file.")
    return text


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # MONAI only warns of a key that is written twice
            content = json.loads(_read(path), object_pairs_hook=check_key_duplicates)
    except (ValueError, UserWarning) as e:
        raise InputError(f"{path}: not a readable JSON recipe: {e}") from e
    if not isinstance(content, dict):
        raise InputError(f"{path}: a recipe is a JSON object, but got {type(content).__name__}.")
    return content


if __name__ == "__main__":
    main()
