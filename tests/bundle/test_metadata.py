# SPDX-License-Identifier: Apache-2.0
"""What ``metadata.json`` repeats of the configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dtlp_components.bundle.compose import compose_workflow
from dtlp_components.bundle.lint import check_metadata
from dtlp_components.bundle.metadata import compose_metadata
from dtlp_components.bundle.recipes import read_recipe


def test_metadata_repeats_the_facts_of_recipe_and_configuration(recipes: Path) -> None:
    recipe = replace(read_recipe("heart_5", recipes), references=["A paper."])
    metadata = compose_metadata(recipe, compose_workflow("train", recipe, recipes), recipes)
    image = metadata["network_data_format"]["inputs"]["image"]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert (image["num_channels"], image["spatial_shape"], image["value_range"]) == (1, [32, 48, 64], [])
    assert (pred["num_channels"], pred["spatial_shape"]) == (2, [32, 48, 64])
    assert pred["channel_def"] == {"0": "background", "1": "left atrium"}
    assert metadata["name"] == "Heart, 5 %"
    assert metadata["task"] == "Segmentation of the heart in cine MR"
    assert metadata["image_classes"] == "one channel, cine MR, 2 x 2 x 2 mm, z-score of the volume"
    assert metadata["label_classes"] == "one channel: 0 background, 1 left atrium"
    assert metadata["references"][-1] == "A paper."
    assert check_metadata(metadata, 2) == []


def test_range_of_values_follows_from_the_transform(recipes: Path) -> None:
    recipe = read_recipe("heart_5", recipes)
    scale = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 9, "b_min": -1, "b_max": 1}
    recipe = replace(recipe, sections={**recipe.sections, "common": {"intensity_transform": scale}})
    metadata = compose_metadata(recipe, compose_workflow("train", recipe, recipes), recipes)
    assert metadata["network_data_format"]["inputs"]["image"]["value_range"] == [-1, 1]
