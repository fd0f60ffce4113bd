# SPDX-License-Identifier: Apache-2.0
"""Every bundle in ``bundles/``: current, complete, and free of what fails only at run time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils import BundleProperty, BundlePropertyConfig

from dtlp_components.bundle.compose import method_names, with_overlay
from dtlp_components.bundle.lint import check_config, check_metadata
from dtlp_components.bundle.recipes import RECIPES
from dtlp_components.bundle.render import check_bundles, render
from dtlp_components.checks.key_table import check_values, key_table

BUNDLES = Path(__file__).parents[2] / "bundles"
NAMES = list(json.loads((RECIPES / "index.json").read_text(encoding="utf-8")))
CONFIGS = sorted(BUNDLES.glob("*/configs/*.json"))
METHODS = sorted(BUNDLES.glob("*/configs/methods/*.json"))
WORKFLOWS = [path for path in CONFIGS if path.stem in ("train", "evaluate", "inference")]
OVERLAYS = [path for path in CONFIGS if path.stem in ("paper", "published", "multi_gpu_train")]
FOLDERS = sorted({path.parents[1] for path in CONFIGS})

# ids a user, MONAI Label or the docs rely on: in every bundle the same
OPTIONS = {
    "bundle_root", "dataset_dir", "output_dir", "device", "num_classes", "spacing_mm", "patch_size", "features", "run",
}  # fmt: skip
REQUIRED = {
    "train": OPTIONS | {
        "datalist", "seed", "batch_size_labeled", "batch_size_unlabeled", "max_iterations", "iterations_per_epoch",
        "val_interval", "learning_rate", "amp", "ddim_steps", "resume", "num_workers", "weights", "training",
        "network_def", "unlabeled",
    },
    "evaluate": OPTIONS | {"datalist", "eval_section", "num_workers", "evaluating", "network_def"},
    "inference": OPTIONS | {"network_def", "preprocessing", "postprocessing", "inferer"},
}  # fmt: skip
# MONAI Label guesses the kind of task from these
TASK_WORDS = ("deepedit", "deepgrow", "detection", "classification")


def name_of(path: Path) -> str:
    return str(path.relative_to(BUNDLES))


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_every_recipe_has_its_bundle() -> None:
    assert NAMES
    assert set(NAMES) <= {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("name", NAMES)
def test_bundle_is_what_the_recipes_render(name: str) -> None:
    assert check_bundles(BUNDLES, [name]) == [], "edit dtlp_components/recipes/, then run make bundles"


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_bundle_is_complete(folder: Path) -> None:
    missing = [path for path in render("phantom_10") if not (folder / path).is_file()]
    assert not missing


@pytest.mark.parametrize("config", WORKFLOWS, ids=name_of)
def test_arguments_references_and_names_exist(config: Path) -> None:
    assert check_config(load(config)) == []


@pytest.mark.parametrize("overlay", OVERLAYS, ids=name_of)
def test_overlay_fits_what_it_goes_over(overlay: Path) -> None:
    for workflow in ("train",) if overlay.stem != "published" else ("train", "evaluate", "inference"):
        config = with_overlay(load(overlay.with_name(f"{workflow}.json")), load(overlay))
        assert check_config(config) == [], workflow


def test_every_root_key_is_in_the_table_and_every_entry_is_a_root_key() -> None:
    used = {key for config in WORKFLOWS for key in load(config)} - {"_comment"}
    assert used == set(key_table())


def test_configurations_are_short() -> None:
    # those of the Model Zoo have 307 to 424 lines and 17 to 44 root keys
    for name, lines in {"train": 720, "evaluate": 226, "inference": 294}.items():
        assert len((BUNDLES / f"la_5/configs/{name}.json").read_text(encoding="utf-8").splitlines()) <= lines, name
    assert len(load(BUNDLES / "la_5/configs/train.json")) <= 116


# the same in every bundle, but for the comment
@pytest.mark.parametrize("overlay", [path for path in METHODS if path.parents[2].name == "phantom_10"], ids=name_of)
def test_overlay_of_a_method_fits_the_training(overlay: Path) -> None:
    config = with_overlay(load(overlay.parents[1] / "train.json"), load(overlay))
    assert check_config(config) == []
    assert config["method"] == overlay.stem
    assert check_values(load(overlay)) == []


def test_every_method_of_the_table_has_its_overlay_in_every_bundle() -> None:
    choices = set(key_table()["method"].choices)
    assert choices == {"dtlp", *method_names()}
    for folder in FOLDERS:
        assert {path.stem for path in (folder / "configs/methods").glob("*.json")} == choices - {"dtlp"}


@pytest.mark.parametrize("config", WORKFLOWS, ids=name_of)
def test_options_are_the_same_in_every_bundle(config: Path) -> None:
    assert REQUIRED[config.stem] - load(config).keys() == set()


@pytest.mark.parametrize("config", WORKFLOWS, ids=name_of)
def test_ids_that_monai_requires_exist(config: Path) -> None:
    # evaluate.json has no properties of its own in MONAI; as an evaluator it is nearest to inference
    properties = TrainProperties if config.stem == "train" else InferProperties
    required = {p[BundlePropertyConfig.ID] for p in properties.values() if p[BundleProperty.REQUIRED]}
    parser = ConfigParser(load(config))
    missing = {id for id in required if id not in parser}
    if config.stem == "evaluate":
        missing = {id for id in missing if f"validate::{id}" not in parser}
    assert not missing


@pytest.mark.parametrize("config", [path for path in WORKFLOWS if path.stem == "train"], ids=name_of)
def test_ids_that_monai_label_overwrites_are_literal(config: Path) -> None:
    content = load(config)
    parser = ConfigParser(content)
    for id in ("train", "train::trainer", "train::dataset", "validate::dataset", "network_def"):
        assert isinstance(parser[id], dict), id
    assert isinstance(parser["train::handlers"], list)
    assert all(isinstance(handler, dict) for handler in parser["train::handlers"])
    # an empty run id resolves the whole file: a second list would train a second time
    assert content["training"] == "@run"


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_metadata_is_valid_and_agrees_with_the_classes_of_every_workflow(folder: Path) -> None:
    metadata = load(folder / "configs/metadata.json")
    for workflow in REQUIRED:
        parser = ConfigParser({**load(folder / f"configs/{workflow}.json"), "model_file": "none/models/model.pt"})
        facts = {key: parser.get_parsed_content(key) for key in ("num_classes", "patch_size", "bundle_name")}
        assert check_metadata(metadata, facts["num_classes"]) == [], workflow
        assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == facts["patch_size"]
        assert facts["bundle_name"] == folder.name


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_name_does_not_mislead_monai_label(folder: Path) -> None:
    assert not [word for word in TASK_WORDS if word in folder.name.lower()]
