# SPDX-License-Identifier: Apache-2.0
"""Recipes: what a data set and a bundle add to the base, read from ``recipes/`` or made by ``new``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.utils.misc import check_key_duplicates

from ..errors import InputError

__all__ = [
    "COMMAND",
    "PAGES",
    "RECIPES",
    "Recipe",
    "bundle_names",
    "read_json_recipe",
    "read_recipe",
    "read_text_recipe",
]

RECIPES = Path(__file__).parents[1] / "recipes"
COMMAND = "dtlp render"

# keys of a data set's recipe and of an entry of index.json that are facts of the bundle
FACTS = ("title", "modality", "image", "structures", "source", "tags", "intensity", "labels", "references")
SECTIONS = ("common", "train", "evaluate", "inference", "published", "paper", "metadata")
OF_THE_DATA_SET = {*FACTS, *SECTIONS, "readme"} - {"title"}
OF_THE_BUNDLE = {*FACTS, *SECTIONS, "dataset", "list", "max_iterations", "split", "performance"}
# pages of docs/ that a bundle's README links, by the first word of its placeholder
PAGES = {
    "method": "explanation/method.md",
    "differs": "explanation/what-differs-from-the-paper.md",
    "bundles": "reference/bundles.md",
}


@dataclass(frozen=True)
class Recipe:
    """
    All that one bundle adds to the base.

    Args:
        name: of the bundle.
        origin: files that it comes from, for error messages.
        title: of the README, and the name in ``metadata.json``.
        modality: ``CT`` or ``MR``.
        image: what an image is, such as ``late gadolinium-enhanced MR``.
        structures: what is segmented in what, such as ``the left atrium in MR``.
        source: of the data.
        labels: names of the classes, the background first.
        intensity: what is done with intensities, in words.
        references: papers, for the README and ``metadata.json``.
        tags: of the README.
        sections: overrides by id of ``common`` (which all workflows share), ``train``, ``evaluate``, ``inference``,
            ``metadata``; ``published``, the overlay of that name; and ``paper``, what goes over the base's.
        readme: texts of the README by placeholder.
        data_license: text of ``docs/data_license.txt``.
        comment: where the configurations come from, written at their head.
    """

    name: str
    origin: str
    title: str
    modality: str
    image: str
    structures: str
    source: str
    labels: list[str]
    intensity: str
    data_license: str
    comment: str
    references: list[str] = field(default_factory=list)
    tags: str = "Segmentation, Semi-supervised"
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    readme: dict[str, str] = field(default_factory=dict)


def bundle_names(recipes: str | Path = RECIPES) -> list[str]:
    """Names of all bundles in ``index.json`` of the recipes, in its order."""
    return list(read_json_recipe(Path(recipes) / "index.json"))


def read_recipe(name: str, recipes: str | Path = RECIPES) -> Recipe:
    """
    The recipe of a bundle of ``index.json``: its data set's, and its entry, which wins.

    Args:
        name: of the bundle.
        recipes: folder of the recipes.

    Raises:
        InputError: if there is no such bundle, or a recipe cannot be read or has a key that none has.
    """
    folder = Path(recipes)
    index = read_json_recipe(folder / "index.json")
    if name not in index:
        raise InputError(f"{folder / 'index.json'}: expected one of the bundles {', '.join(index)}, got {name!r}.")
    entry, origin = dict(index[name]), f"{folder / 'index.json'} ({name})"
    dataset = entry.get("dataset")
    if not isinstance(dataset, str):
        raise InputError(f"{origin}: `dataset`: expected the name of a file in {folder / 'datasets'}, got {dataset!r}.")
    dataset_file = folder / "datasets" / f"{dataset}.json"
    content = read_json_recipe(dataset_file)
    _refuse_unknown(content, OF_THE_DATA_SET, str(dataset_file))
    _refuse_unknown(entry, OF_THE_BUNDLE, origin)

    sections = {s: {**content.get(s, {}), **entry.get(s, {})} for s in SECTIONS if s in content or s in entry}
    places = {"dataset_dir": f"data/{dataset}", "datalist": f"$@dataset_dir + '/datalist_{entry.get('list', '')}.json'"}
    sections["common"] = {**places, **sections.get("common", {})}
    if "max_iterations" in entry:
        sections["train"] = {**sections.get("train", {}), "max_iterations": entry["max_iterations"]}
    facts: dict[str, Any] = {
        fact: entry.get(fact, content.get(fact)) for fact in FACTS if fact in entry or fact in content
    }
    missing = sorted({"title", "modality", "image", "structures", "source", "intensity", "labels"} - facts.keys())
    if missing:
        raise InputError(f"{origin}: expected {', '.join(missing)} here or in {dataset_file}, got none.")
    page = f"docs/reference/data/{dataset}.md"
    texts = {
        "origin": "Rendered from `dtlp_components/recipes/`; edit there.",
        "data_page": f"More on the data, its layout and its known defects: [{page}](../../../{page}).",
        "bundle_path": f"bundles/{name}",
        **{f"{key}_page": f"[docs/{place}](../../../docs/{place})" for key, place in PAGES.items()},
        "scans_place": f"`--dataset_dir DIR` says where the scans are, if not in `data/{dataset}`.",
    }
    own = {key: entry[key] for key in ("split", "performance") if key in entry}
    return Recipe(
        name=name,
        origin=origin,
        sections=sections,
        readme={**texts, **content.get("readme", {}), **own},
        data_license=read_text_recipe(folder / "datasets" / f"{dataset}.license.txt"),
        comment=f"Generated from dtlp_components/recipes: edit there, then run {COMMAND}",
        **facts,
    )


def _refuse_unknown(content: Mapping[str, Any], known: set[str], origin: str) -> None:
    if unknown := sorted(set(content) - known):
        raise InputError(f"{origin}: expected keys among {', '.join(sorted(known))}, got {', '.join(unknown)}.")


def read_text_recipe(path: Path) -> str:
    """
    Text of a recipe's file.

    Raises:
        InputError: if there is none.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such recipe file.")
    return path.read_text(encoding="utf-8")


def read_json_recipe(path: Path) -> dict[str, Any]:
    """
    Content of a recipe's file, in which no key may be written twice.

    Raises:
        InputError: if there is none, or it is something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # MONAI only warns of a key that is written twice
            content = json.loads(read_text_recipe(path), object_pairs_hook=check_key_duplicates)
    except (ValueError, UserWarning) as error:
        raise InputError(f"{path}: not a readable JSON recipe: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content
