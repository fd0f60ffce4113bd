# SPDX-License-Identifier: Apache-2.0
"""``metadata.json`` of a bundle: what the recipe says, and what follows from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..checks.key_table import COMPUTED
from ..errors import InputError
from .compose import apply_overrides
from .recipes import RECIPES, Recipe, read_json_recipe

__all__ = ["METADATA_FACTS", "compose_metadata", "refuse_expressions"]

# ids of metadata.json -> the root key of the configuration that they repeat, so that the two cannot drift apart
METADATA_FACTS = {
    "network_data_format::inputs::image::num_channels": "in_channels",
    "network_data_format::inputs::image::spatial_shape": "patch_size",
    "network_data_format::outputs::pred::num_channels": "num_classes",
    "network_data_format::outputs::pred::spatial_shape": "patch_size",
}


def compose_metadata(recipe: Recipe, config: Mapping[str, Any], recipes: str | Path = RECIPES) -> dict[str, Any]:
    """
    Metadata with everything that the recipe and the training configuration say already.

    Args:
        recipe: of the bundle.
        config: its ``train.json``, whose facts are literal.
        recipes: folder with ``base``.
    """
    parser = ConfigParser(read_json_recipe(Path(recipes) / "base" / "metadata.json"))
    labels = {str(value): name for value, name in enumerate(recipe.labels)}
    spacing = config["spacing_mm"]
    grid = "" if spacing is None else f", {' x '.join(f'{side:g}' for side in spacing)} mm"
    derived = {
        "name": recipe.title,
        "task": f"Segmentation of {recipe.structures}",
        "description": f"Student of DTLP-Net, a V-Net for the segmentation of {recipe.structures}, trained on few "
        "labeled and many unlabeled scans",
        "data_source": recipe.source,
        "image_classes": f"{_channels(config)}, {recipe.image}{grid}, {recipe.intensity}",
        "label_classes": "one channel: " + ", ".join(f"{value} {name}" for value, name in labels.items()),
        "pred_classes": f"{len(labels)} channels of logits; softmax gives the probabilities of the classes",
        "+references": list(recipe.references),
        "network_data_format::inputs::image::modality": recipe.modality,
        "network_data_format::inputs::image::value_range": _value_range(config["intensity_transform"]),
        "network_data_format::inputs::image::channel_def": _channel_names(config),
        "network_data_format::outputs::pred::channel_def": labels,
        **{id: deepcopy(config[fact]) for id, fact in METADATA_FACTS.items()},
    }
    apply_overrides(parser, derived | recipe.sections.get("metadata", {}), f"{recipe.origin}, overrides of metadata")
    metadata: dict[str, Any] = parser.get()
    return metadata


def _channel_names(config: Mapping[str, Any]) -> dict[str, str]:
    count = config["in_channels"]
    several = config["channels"] or [f"channel {i}" for i in range(count)]
    names = ["image"] if count == 1 else several
    return {str(i): str(name) for i, name in enumerate(names)}


def _channels(config: Mapping[str, Any]) -> str:
    count = config["in_channels"]
    named = f" ({', '.join(config['channels'])})" if config["channels"] else ""
    return "one channel" if count == 1 else f"{count} channels{named}"


def _value_range(intensity_transform: Mapping[str, Any]) -> list[float]:
    """Least and largest intensity that the network sees; empty if there is no limit."""
    if intensity_transform["_target_"] == "ScaleIntensityRanged":
        return [intensity_transform["b_min"], intensity_transform["b_max"]]
    return [0, 1] if intensity_transform["_target_"] == "dtlp_components.CTOrMRIntensityd" else []


def refuse_expressions(metadata: Any, file: Path) -> None:
    """
    Make sure that metadata are texts and numbers: MONAI puts them into the configuration, where it evaluates texts.

    Args:
        metadata: content of ``metadata.json``, or a part of it.
        file: where it is from.

    Raises:
        InputError: if a text begins as what is evaluated or looked up does.
    """
    if isinstance(metadata, Mapping):
        for name, value in metadata.items():
            refuse_expressions(name, file)
            refuse_expressions(value, file)
    elif isinstance(metadata, (list, tuple)):
        for value in metadata:
            refuse_expressions(value, file)
    elif isinstance(metadata, str) and metadata.startswith(COMPUTED):
        raise InputError(f"{file}: expected strings and numbers, got {metadata[:60]!r}, which MONAI would evaluate.")
