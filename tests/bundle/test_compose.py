# SPDX-License-Identifier: Apache-2.0
"""Configurations composed of base and recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from dtlp_components.bundle.compose import (
    WORKFLOWS,
    apply_overrides,
    compose_overlays,
    compose_workflow,
    with_overlay,
)
from dtlp_components.bundle.recipes import Recipe, read_recipe
from dtlp_components.checks.key_table import key_table
from dtlp_components.errors import InputError
from tests.bundle.conftest import write_json


def heart(recipes: Path, name: str = "heart_5", **sections: dict[str, Any]) -> Recipe:
    recipe = read_recipe(name, recipes)
    return replace(recipe, sections={**recipe.sections, **sections})


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_root_keys_stand_in_the_order_of_the_table_under_a_comment(recipes: Path, workflow: str) -> None:
    config = compose_workflow(workflow, heart(recipes), recipes)
    assert list(config) == ["_comment", *(name for name in key_table() if name in config)]
    assert f"--config_file bundles/heart_5/configs/{workflow}.json" in config["_comment"][1]


def test_comment_says_how_long_a_training_is(recipes: Path) -> None:
    assert ", 70 iterations: python -m" in compose_workflow("train", heart(recipes, "heart_10"), recipes)["_comment"][1]


def test_run_stands_before_what_loads_scans(recipes: Path) -> None:
    # MONAI Label resolves the whole file from its beginning
    for workflow in WORKFLOWS:
        keys = list(compose_workflow(workflow, heart(recipes), recipes))
        assert all(keys.index("run") < keys.index(key) for key in ("train", "dataset", "checks") if key in keys)


def test_labels_give_names_and_number_of_classes(recipes: Path) -> None:
    config = compose_workflow("train", heart(recipes), recipes)
    assert (config["num_classes"], config["label_names"]) == (2, ["background", "left atrium"])


def test_training_has_literals_and_the_others_ask_the_record(recipes: Path) -> None:
    train, evaluate = (compose_workflow(name, heart(recipes), recipes) for name in ("train", "evaluate"))
    assert train["patch_size"] == [32, 48, 64]
    assert evaluate["patch_size"] == "$@trained('patch_size', [32, 48, 64])"
    assert evaluate["norm"] == "$@trained('norm', 'instance')"
    assert evaluate["preprocessing_variant"] == "native"  # an overlay sets it with what goes with it


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_value_but_texts_is_checked(recipes: Path, workflow: str) -> None:
    config = compose_workflow(workflow, heart(recipes), recipes)
    values = config["checks"]["settings"]["values"]
    table = key_table()
    assert values == {
        name: f"@{name}"
        for name in config
        if name in table and table[name].is_value and table[name].kind not in ("text", "path", "device")
    }
    assert "patch_size" in values


def test_root_key_without_an_entry_in_the_table_is_an_error(recipes: Path) -> None:
    with pytest.raises(InputError, match=r"expected root keys of recipes/base/keys\.json, got colour"):
        compose_workflow("train", heart(recipes, train={"+colour": 1}), recipes)


@pytest.mark.parametrize(
    "id", ["learning_rte", "weights::mik", "train::handlers::20::interval", "train::handlers::x", "amp::deeper"]
)
def test_unknown_id_is_an_error_that_names_recipe_and_id(recipes: Path, id: str) -> None:
    with pytest.raises(InputError, match=rf"index\.json \(heart_5\), overrides of train: `{id}` does not exist"):
        compose_workflow("train", heart(recipes, train={id: 1}), recipes)


def test_common_override_cannot_reach_an_id_of_one_workflow(recipes: Path) -> None:
    with pytest.raises(InputError, match="overrides of common: `amp` does not exist"):
        compose_workflow("evaluate", heart(recipes, common={"amp": True}), recipes)


def test_key_in_common_and_workflow_is_an_error(recipes: Path) -> None:
    content = json.loads((recipes / "base/evaluate.json").read_text())
    write_json(recipes / "base/evaluate.json", {**content, "device": "cpu"})
    with pytest.raises(InputError, match=r"\['device'\] are in base/common.json"):
        compose_workflow("evaluate", heart(recipes), recipes)


def test_plus_merges_a_dict_extends_a_list_and_adds_an_id() -> None:
    parser = ConfigParser({"weights": {"mix": 1, "mic": 1}, "train": {"handlers": ["a"]}})
    apply_overrides(parser, {"+weights": {"mic": 3}, "+train::handlers": ["b"], "+train::seed": 4}, "test")
    assert parser.get() == {"weights": {"mix": 1, "mic": 3}, "train": {"handlers": ["a", "b"], "seed": 4}}


def test_plus_does_not_grow_the_recipes_own_list() -> None:
    addition = {"+handlers": ["b"]}
    apply_overrides(ConfigParser({"other": 1}), addition, "first")
    parser = ConfigParser({"other": 1})
    apply_overrides(parser, addition, "second")
    apply_overrides(parser, addition, "third")
    assert parser["handlers"] == ["b", "b"]
    assert addition == {"+handlers": ["b"]}


def test_plus_needs_a_parent_and_matching_kinds() -> None:
    with pytest.raises(InputError, match=r"test: `\+tarin::seed` cannot be added, since `tarin` does not exist"):
        apply_overrides(ConfigParser({"train": {}}), {"+tarin::seed": 1}, "test")
    with pytest.raises(InputError, match="base recipe has int and the override list"):
        apply_overrides(ConfigParser({"train": 1}), {"+train": [1]}, "test")


def test_overlay_has_to_fit_every_workflow_that_it_goes_over(recipes: Path) -> None:
    transforms = {"deterministic_transforms": [{"_target_": "ScaleIntensityd", "keys": "image"}]}
    with pytest.raises(InputError, match="overlay published over evaluate: `amp` does not exist"):
        compose_overlays(heart(recipes, published={**transforms, "amp": True}), recipes)
    overlays = compose_overlays(heart(recipes, published=transforms), recipes)
    assert list(overlays) == ["paper", "multi_gpu_train", "published"]
    published = overlays["published"]
    assert published["preprocessing_variant"] == "published"
    assert [t["_target_"] for t in published["deterministic_transforms"]] == [
        "LoadImaged",
        "EnsureChannelFirstd",
        "ScaleIntensityd",
    ]
    for workflow in WORKFLOWS:
        merged = with_overlay(compose_workflow(workflow, heart(recipes), recipes), published)
        assert merged["deterministic_transforms"] == published["deterministic_transforms"]


def test_recipe_without_the_variant_has_no_such_overlay(recipes: Path) -> None:
    assert list(compose_overlays(heart(recipes), recipes)) == ["paper", "multi_gpu_train"]


def test_overlay_is_what_monai_makes_of_a_list_of_files(recipes: Path, tmp_path: Path) -> None:
    train, paper = (
        compose_workflow("train", heart(recipes), recipes),
        compose_overlays(heart(recipes), recipes)["paper"],
    )
    files = [str(tmp_path / name) for name in ("train.json", "paper.json")]
    for file, content in zip(files, (train, paper), strict=True):
        write_json(Path(file), content)
    assert with_overlay(train, paper) == ConfigParser.load_config_files(files)
    assert with_overlay(train, paper)["weights"]["student_labeled"] == 0.0
    assert train["weights"]["student_labeled"] == 1.0
