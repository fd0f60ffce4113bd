# SPDX-License-Identifier: Apache-2.0
"""``docs/README.md`` of a bundle: the base's text, the recipe's, and what follows from the configuration."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from monai.bundle import ConfigParser

from ..checks.key_table import key_table
from ..errors import InputError
from .recipes import RECIPES, Recipe, read_text_recipe

__all__ = ["COMMANDS_FROM", "ORIGIN", "fill_readme", "optimizer_sentence", "training_table"]

# sentences that do not hold of a packed bundle
COMMANDS_FROM = "From the root of the repository."
ORIGIN = "Rendered from `dtlp_components/recipes/`; edit there."

# rows of every training table; what else a recipe sets comes after them
ROWS = (
    "patch_size", "spacing_mm", "features", "max_iterations", "batch_size_labeled", "batch_size_unlabeled",
    "learning_rate", "mask_ratio", "weights::mic", "weights::kd", "weights::rec", "weights::corr",
)  # fmt: skip
TERMS = {
    "mic": "masked images",
    "kd": "distillation",
    "rec": "reconstruction",
    "corr": "label propagation",
    "mix": "cross-set CutMix",
    "u": "pseudo-labels of unmixed images",
}
# what most recipes leave alone
DEFAULTS = {
    "orientation": "orientation to RAS",
    "published": "There is no other variant.",
    "commands_from": COMMANDS_FROM,
    "performance": "Not measured yet.",
    "training_note": "Patch, length, mask ratio and the weight of masked images are the paper's (Table I, and 300 "
    "epochs of half as many iterations as there are unlabeled scans); optimizer, burn-in and the other weights are "
    "what measured best in short trainings on other data. The overlay `configs/paper.json` is the paper's reading "
    "(`--config_file \"['$bundle_path/configs/train.json','$bundle_path/configs/paper.json']\"`); $differs_page lists "
    "them all.",
}
# around what a recipe says of the variant
PUBLISHED = """Variant `published` is what the compared papers did: {did} Windows every 16 × 16 × 4 voxels, averaged. \
`--metric_convention genericssl` scores on that grid, in voxels, as they did. It is an overlay, for training, \
evaluation and inference alike: \
`--config_file "['$bundle_path/configs/train.json','$bundle_path/configs/published.json']"`.

{rest}"""


def fill_readme(recipe: Recipe, config: Mapping[str, Any], recipes: str | Path = RECIPES) -> str:
    """
    Text of the README.

    Placeholders (``$name``) are literal values at the root of the configuration, texts of the recipe, and what is
    derived of them here.

    Args:
        recipe: of the bundle.
        config: its ``train.json``.
        recipes: folder with ``base``.

    Raises:
        InputError: if a placeholder is not filled, or the recipe fills one that there is not.
    """
    template = Path(recipes) / "base" / "README.md.in"
    text = read_text_recipe(template)
    literals = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    derived = {
        "title": recipe.title,
        "tags": recipe.tags,
        "intensity": recipe.readme.get("intensity", recipe.intensity),
        "labels": "\n".join(f"| {value} | {name} |" for value, name in enumerate(recipe.labels)),
        "training": training_table(recipe, config),
        "optimizer": optimizer_sentence(config["optimizer"]),
        "references": "\n".join(f"- {reference}" for reference in recipe.references),
    }
    texts = dict(recipe.readme)
    if "published_did" in texts:
        texts["published"] = PUBLISHED.format(did=texts.pop("published_did"), rest=texts.pop("published_rest")).strip()
    known = _placeholders(text) | _placeholders(DEFAULTS["training_note"]) | {"bundle_path", "intensity"}
    if unused := sorted(set(texts) - known):
        raise InputError(f"{recipe.origin}: `readme` fills {unused}, which {template} does not have.")
    values = {**literals, **DEFAULTS, **derived, **texts}
    # as a word of a shell; between double quotes the folder stands as it is
    values["bundle_word"] = shlex.quote(values.get("bundle_path", ""))
    # texts of recipes may name the bundle's folder
    places: dict[str, str] = {name: values[name] for name in ("bundle_path", "differs_page") if name in values}
    for name in ("published", "training_note"):
        values[name] = Template(values[name]).safe_substitute(places)
    if missing := sorted(_placeholders(text) - set(values)):
        raise InputError(f"{template}: no recipe fills {missing} (a dollar sign for the reader is written `$$`).")
    try:
        return Template(text).substitute(values)
    except ValueError as error:
        raise InputError(f"{template}: {error} (a dollar sign for the reader is written `$$`).") from error


def training_table(recipe: Recipe, config: Mapping[str, Any]) -> str:
    """Rows of the table of settings: those that every bundle has, and what else the recipe sets."""
    parser, table = ConfigParser(dict(config)), key_table()
    more = [
        id
        for id, value in {**recipe.sections.get("common", {}), **recipe.sections.get("train", {})}.items()
        if id not in ROWS
        and (
            id.startswith("weights::")
            or (id in table and table[id].is_value and table[id].kind not in ("text", "path"))
        )
        and not (isinstance(value, str) and value.startswith("$"))
    ]
    rows = []
    for id in (*ROWS, *more):
        if id.startswith("weights::"):
            what = f"weight of the term: {TERMS.get(id.partition('::')[2], id)}"
        else:
            what = f"{table[id].unit} {table[id].meaning}".strip() if table[id].unit else table[id].meaning
        rows.append(f"| `{id}` | {json.dumps(parser[id])} | {what} |")
    return "\n".join(rows)


def optimizer_sentence(optimizer: Mapping[str, Any]) -> str:
    """The optimizer in words, such as ``Optimizer: SGD (momentum 0.9, Nesterov, weight decay 3e-05)``."""
    numbers = []
    if "momentum" in optimizer:
        numbers.append(f"momentum {optimizer['momentum']:g}")
    if optimizer.get("nesterov"):
        numbers.append("Nesterov")
    if "weight_decay" in optimizer:
        numbers.append(f"weight decay {optimizer['weight_decay']:g}")
    name = optimizer["_target_"].rpartition(".")[2]
    return f"Optimizer: {name} ({', '.join(numbers)})" if numbers else f"Optimizer: {name}"


def _placeholders(text: str) -> set[str]:
    return {match["named"] or match["braced"] for match in Template.pattern.finditer(text)} - {None}
