# SPDX-License-Identifier: Apache-2.0
"""A bundle's configurations, composed of the base and a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import ID_SEP_KEY, MERGE_KEY, merge_kv

from ..checks.key_table import key_table, model_keys
from ..checks.literals import is_literal
from ..errors import InputError
from .recipes import RECIPES, Recipe, read_json_recipe

__all__ = ["WORKFLOWS", "apply_overrides", "compose_overlays", "compose_workflow", "method_names", "with_overlay"]

WORKFLOWS = ("train", "evaluate", "inference")

# kinds whose values are texts that may be computed of each other: they are checked on the command line alone, since a
# wrong one breaks the others before anybody can look
TEXTS = ("text", "path", "device")

DISPLAYABLE = "@displayable_configs::"

MULTI_GPU = "multi_gpu_train"

TRAINER = "trainer"  # what the overlays of methods share

LENGTHS = {"train": "training", "evaluate": "evaluating", "inference": "run"}


def compose_workflow(workflow: str, recipe: Recipe, recipes: str | Path = RECIPES) -> dict[str, Any]:
    """
    A workflow's configuration: ``common`` and the workflow's own keys of the base with the recipe's overrides, in the
    order of the table of keys, its settings listed for the checks.

    Args:
        workflow: ``train``, ``evaluate`` or ``inference``.
        recipe: what the bundle adds.
        recipes: folder with ``base``.

    Raises:
        InputError: if the recipe overrides an id that does not exist, or a root key is not in the table.
    """
    config = _compose_facts(workflow, recipe, Path(recipes))
    if workflow != "train":
        # the record beside the weights knows better; see checks/trained_settings.py
        for name in model_keys():
            if name in config and name != "preprocessing_variant" and not _is_computed(config[name]):
                config[name] = f"$@trained('{name}', {config[name]!r})"
    wrong = [text for text in (recipe.name, *recipe.labels) if not is_literal(text)]
    if wrong:
        raise InputError(f"{recipe.origin}: expected names that MONAI does not evaluate or change, got {wrong}.")
    table = key_table()
    unknown = sorted(set(config) - set(table))
    if unknown:
        raise InputError(f"{recipe.origin}: expected root keys of recipes/base/keys.json, got {', '.join(unknown)}.")
    if workflow == "inference":
        # MONAI Label puts what is set in its viewer there, so the keys have to look there too
        config["displayable_configs"] = {name: config[name] for name in table if table[name].label}
        config.update({name: f"{DISPLAYABLE}{name}" for name in config["displayable_configs"]})
    config["checks"]["settings"]["values"] = {
        name: f"@{name}" for name in table if name in config and table[name].is_value and table[name].kind not in TEXTS
    }
    ordered = {name: config[name] for name in table if name in config}
    return {"_comment": _comment(workflow, recipe, config), **ordered}


def compose_overlays(recipe: Recipe, recipes: str | Path = RECIPES) -> dict[str, dict[str, Any]]:
    """
    The variants of a bundle by the name of their file: what is merged over a workflow's configuration.

    ``paper``, ``multi_gpu_train`` and the methods to compare with go over ``train.json``; ``published``, of recipes
    that have it, over every workflow. Ids have to exist in each of them.
    """
    folder = Path(recipes)
    paper = read_json_recipe(folder / "base" / "paper.json") | recipe.sections.get("paper", {})
    overlays: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {"paper": (paper, ("train",))}
    # train.json needs none; MONAI Label asks for one by this name, in which it undoes the device that it has set
    overlays[MULTI_GPU] = (read_json_recipe(folder / "base" / f"{MULTI_GPU}.json"), ("train",))
    if published := recipe.sections.get("published"):
        load = _compose_facts("train", recipe, folder)["deterministic_transforms"][:2]  # the second puts channels first
        transforms = [*load, *published["deterministic_transforms"]]
        content = {"preprocessing_variant": "published", **published, "deterministic_transforms": transforms}
        overlays["published"] = (content, WORKFLOWS)
    overlays |= {f"methods/{name}": (_method(name, folder / "methods"), ("train",)) for name in method_names(folder)}
    rendered = {}
    for name, (content, workflows) in overlays.items():
        for workflow in workflows:
            parser = ConfigParser(_compose_facts(workflow, recipe, folder))
            apply_overrides(parser, content, f"{recipe.origin}, overlay {name} over {workflow}")
        files = [f"{_folder(recipe)}/configs/{file}.json" for file in (workflows[0], name)]
        start = "torchrun --nproc_per_node 2" if name == MULTI_GPU else "python"
        command = f'{start} -m monai.bundle run {LENGTHS[workflows[0]]} --config_file "{files}"'
        comment = [recipe.comment, f"Overlay of {', '.join(f'{w}.json' for w in workflows)}: {command}"]
        rendered[name] = {"_comment": comment, **content}
    return rendered


def method_names(recipes: str | Path = RECIPES) -> list[str]:
    """Methods that are trained instead of DTLP, by the names of their overlays."""
    return sorted(file.stem for file in (Path(recipes) / "methods").glob("*.json") if file.stem != TRAINER)


def _method(name: str, folder: Path) -> dict[str, Any]:
    """Overlay of a method; those that are not settings of DTLP's trainer bring the other one."""
    own = read_json_recipe(folder / f"{name}.json")
    if (method := own.pop("train::trainer::method", None)) is None:
        return {"method": name, **own}
    trainer = read_json_recipe(folder / f"{TRAINER}.json")
    trainer["train::trainer"]["method"] = method
    return {"method": name, **trainer, **own}


def with_overlay(config: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow's configuration with an overlay merged over it, as MONAI does with a list of files."""
    parser = ConfigParser(deepcopy(dict(config)))
    apply_overrides(parser, overlay, "the overlay")
    merged: dict[str, Any] = parser.get()
    return merged


def _compose_facts(workflow: str, recipe: Recipe, recipes: Path) -> dict[str, Any]:
    """The base's ``common`` and one workflow with the recipe's overrides."""
    base = {part: read_json_recipe(recipes / "base" / f"{part}.json") for part in ("common", workflow)}
    twice = sorted(base["common"].keys() & base[workflow].keys())
    if twice:
        raise InputError(f"base/{workflow}.json: {twice} are in base/common.json as well.")
    parser = ConfigParser({**base["common"], **base[workflow]})
    own = {"bundle_name": recipe.name, "num_classes": len(recipe.labels), "label_names": list(recipe.labels)}
    for part, overrides in (("common", own), *((part, recipe.sections.get(part, {})) for part in ("common", workflow))):
        apply_overrides(parser, overrides, f"{recipe.origin}, overrides of {part}")
    config: dict[str, Any] = parser.get()
    return config


def _folder(recipe: Recipe) -> str:
    return recipe.readme.get("bundle_path", f"bundles/{recipe.name}")


def _comment(workflow: str, recipe: Recipe, config: Mapping[str, Any]) -> list[str]:
    """What the file is, the command that runs it, and how long that is."""
    file = f"{_folder(recipe)}/configs/{workflow}.json"
    run = shlex.join(["python", "-m", "monai.bundle", "run", LENGTHS[workflow], "--config_file", file])
    what = {
        "train": "Trains on the sections `training` and `unlabeled` of the datalist, "
        f"{config.get('max_iterations')} iterations",
        "evaluate": "Scores a section of the datalist with the trained weights",
        "inference": "Segments scans with the trained weights",
    }[workflow]
    return [recipe.comment, f"{recipe.title}. {what}: {run}"]


def apply_overrides(parser: ConfigParser, overrides: Mapping[str, Any], origin: str) -> None:
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
        parent = plain_id.replace("#", ID_SEP_KEY).rpartition(ID_SEP_KEY)[0]
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
        except ValueError as error:
            raise InputError(
                f"{origin}: `{id}` merges dict into dict or list into list, but the base recipe has "
                f"{type(parser[plain_id]).__name__} and the override {type(value).__name__}."
            ) from error


def _is_computed(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "@", "%"))
