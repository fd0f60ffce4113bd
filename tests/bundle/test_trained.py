# SPDX-License-Identifier: Apache-2.0
"""A bundle together with what its training recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dtlp_components.bundle.trained import find_trained
from dtlp_components.errors import InputError
from dtlp_components.networks.vnet import VNet

BUNDLES = Path(__file__).parents[2] / "bundles"


def write_run(folder: Path, **settings: Any) -> str:
    (folder / "models").mkdir(parents=True)
    network = VNet(num_classes=2, features=settings.get("features", 32), norm="instance")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    if settings:
        (folder / "logs").mkdir()
        (folder / "logs" / "model_settings.json").write_text(json.dumps(settings))
    return str(folder)


def test_recorded_settings_are_in_every_workflow_and_the_others_are_literals(tmp_path: Path) -> None:
    trained = find_trained(str(BUNDLES / "la_5"), write_run(tmp_path, features=4, correlation_stage=3))
    for workflow in ("train", "evaluate", "inference"):
        config = trained.config(workflow)
        assert (config["features"], config["norm"], config["patch_size"]) == (4, "instance", [112, 112, 80])
    assert trained.config("train")["correlation_stage"] == 3
    assert trained.changed_settings == {"features": 4}
    assert trained.load_student().features == 4


def test_without_a_record_the_bundles_own_settings_are_taken(tmp_path: Path) -> None:
    trained = find_trained(str(BUNDLES / "la_5"), write_run(tmp_path))
    assert (trained.settings, trained.changed_settings) == ({}, {})
    assert trained.config()["features"] == 32


def test_variant_of_the_training_comes_with_its_overlay(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", features=4, preprocessing_variant="published")
    config = find_trained(str(BUNDLES / "la_5"), run).config()
    assert config["inferer"]["mode"] == "constant"
    assert config["deterministic_transforms"][-1]["_target_"] == "ScaleIntensityd"
    bundle = Path(shutil.copytree(BUNDLES / "phantom_10", tmp_path / "phantom"))
    with pytest.raises(InputError, match=r"configs/published\.json: no such file, but .* trained with it"):
        find_trained(str(bundle), run).config()


def test_missing_bundle_and_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the folder of a bundle, got one without configs/inference\.json"):
        find_trained(str(tmp_path))
    with pytest.raises(InputError, match=r"No weights at .*Train first"):
        find_trained(str(BUNDLES / "la_5"), str(tmp_path))
