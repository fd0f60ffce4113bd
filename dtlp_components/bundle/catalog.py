# SPDX-License-Identifier: Apache-2.0
"""Which bundles there are: those in ``./bundles``, and those that only the recipes have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.datalists import section_sizes
from ..errors import InputError
from ..files import read_object
from ..keys import DatalistKeys
from ..tables import align
from .find import BUNDLES, INDEX, bundles_here

__all__ = ["list_bundles"]

HEAD = ("name", "here", "labeled:unlabeled", "weights", "modality", "task")
MODALITY = "network_data_format::inputs::image::modality"


def list_bundles() -> None:
    """
    List the bundles in ./bundles and those that can be rendered from recipes.

    A bundle that does not exist yet is rendered by the first command that names it. Scans are counted if the datalist
    exists; otherwise, the data have to be prepared first.

    Raises:
        InputError: if a bundle's or a recipe's file cannot be read.
    """
    here = bundles_here()
    recipes = [name for name in read_object(INDEX) if name not in here]
    rows = [_row(BUNDLES / name, **_facts_of_folder(BUNDLES / name)) for name in here]
    rows += [_row(BUNDLES / name, **_facts_of_recipe(name)) for name in recipes]
    print(align([HEAD, *rows]))
    if recipes:
        print("\nA bundle that does not exist yet is rendered into ./bundles when a command names it: dtlp train NAME")


def _row(folder: Path, task: str, modality: str, dataset_dir: str, datalist: str) -> tuple[str, ...]:
    return (
        folder.name,
        "yes" if folder.is_dir() else "no",
        _counts([folder / "datalist.json", Path(dataset_dir, datalist)]),
        "yes" if (folder / "models" / "model.pt").is_file() else "no",
        modality,
        task,
    )


def _counts(datalists: list[Path]) -> str:
    """Labeled and unlabeled scans of the first datalist that is there."""
    for file in datalists:
        if file.is_file():
            try:
                sizes = section_sizes(str(file))
            except InputError:
                return "unreadable"
            return f"{sizes.get(DatalistKeys.TRAINING, 0)}:{sizes.get(DatalistKeys.UNLABELED, 0)}"
    return "no data"


def _facts_of_folder(folder: Path) -> dict[str, str]:
    metadata = read_object(folder / "configs" / "metadata.json")
    config = read_object(folder / "configs" / "train.json")
    modality: Any = metadata
    for key in MODALITY.split("::"):
        modality = modality.get(key, {}) if isinstance(modality, Mapping) else {}
    # a literal of the configuration, "$@dataset_dir + '/datalist_5.json'"
    listed = str(config.get("datalist", "")).rpartition("/")[2].rstrip("'")
    return _facts(metadata.get("task"), modality, config.get("dataset_dir"), listed)


def _facts_of_recipe(name: str) -> dict[str, str]:
    """As a rendered bundle has them: the data set's, and over them those of the index."""
    entry = read_object(INDEX)[name]
    facts = read_object(INDEX.parent / "datasets" / f"{entry['dataset']}.json") | entry
    task = f"Segmentation of {facts['structures']}"
    return _facts(task, facts["modality"], f"data/{entry['dataset']}", f"datalist_{entry['list']}.json")


def _facts(task: Any, modality: Any, dataset_dir: Any, datalist: Any) -> dict[str, str]:
    facts = {"task": task, "modality": modality, "dataset_dir": dataset_dir, "datalist": datalist}
    return {name: "" if fact is None or fact == {} else str(fact) for name, fact in facts.items()}
