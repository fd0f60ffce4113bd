# SPDX-License-Identifier: Apache-2.0
"""What a bundle of somebody's own scans adds to the base recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundle.render import Layer, Recipe
from ..keys import DatalistKeys as Keys
from .memory import estimate_bytes
from .plan import Choice
from .sections import TITLES, Inspected, domains

__all__ = ["COMMAND", "COMMENT", "folder_to_segment", "recipe_of"]

COMMAND = "python -m dtlp_components new"
COMMENT = f"Made by {COMMAND} from the scans in datalist.json; see docs/README.md of this bundle."


def recipe_of(
    name: str, output: str, command: str, groups: Mapping[Keys, Inspected], label_names: Sequence[str],
    choices: Mapping[str, Choice], notes: Sequence[str],
) -> Recipe:  # fmt: skip
    """What the bundle adds to the base, in the form of a recipe."""
    modality, structures = choices["modality"].value, ", ".join(label_names[1:])
    spacing = choices["spacing_mm"].value
    common: dict[str, Any] = {
        "dataset_name": name,
        "dataset_dir": "@bundle_root",
        "datalist": "$@bundle_root + '/datalist.json'",
        "prepare_hint": command,
        "num_classes": len(label_names),
        "label_names": list(label_names),
        "spacing_mm": spacing,
        "patch_size": choices["patch_size"].value,
        "features": choices["features"].value,
    }
    if Path(output) != Path("bundles"):
        common["bundle_root"] = Path(output, name).as_posix()
    metadata: dict[str, Any] = {
        "name": name,
        "task": f"Segmentation of {structures} in {modality}",
        "description": f"Student of DTLP-Net, a V-Net that segments {structures} in {modality}, trained on few labeled and many unlabeled scans",
        "data_source": "the user's own scans, see datalist.json",
        "network_data_format::inputs::image::modality": modality,
        "network_data_format::outputs::pred::channel_def": {str(i): label for i, label in enumerate(label_names)},
        "label_classes": "one channel: " + ", ".join(f"{i} {label}" for i, label in enumerate(label_names)),
        "pred_classes": f"{len(label_names)} channels of logits; softmax gives the probabilities of the classes",
    }
    intensity = "z-score of the volume"
    if modality == "CT":
        low, high = choices["intensity_window"].value
        common["intensity_transform"] = {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        }
        metadata["network_data_format::inputs::image::value_range"] = [0, 1]
        intensity = f"{low:g} to {high:g} HU scaled to 0 to 1 and clipped"
    metadata["image_classes"] = f"one channel, {modality}, {' x '.join(f'{s:g}' for s in spacing)} mm, {intensity}"

    keys = ("batch_size_labeled", "batch_size_unlabeled", "max_iterations", "cache_rate")
    overrides: dict[str, dict[str, Any]] = {
        "common": common,
        "train": {key: choices[key].value for key in keys},
        "metadata": metadata,
    }
    if not groups[Keys.TESTING] and groups[Keys.VALIDATION]:
        overrides["evaluate"] = {"eval_section": Keys.VALIDATION.value}
    overrides["inference"] = {"input": folder_to_segment(groups)}
    layer = Layer(COMMAND, overrides, _readme(name, command, groups, label_names, choices, notes, intensity))
    return Recipe(
        name,
        [layer],
        data_license=(
            f"Data set: scans of whoever made this bundle with `{COMMAND}`; datalist.json names every file\n"
            "License:  not known to this project. Whoever gave you the scans decides what may be done with them, and with\n"
            "          weights trained on them. Replace this text by their terms before you share the bundle.\n"
        ),
        comment=COMMENT,
        texts={
            "origin": f"Made by `{COMMAND}`; the settings it guessed, and why, are listed below. The files may be edited.",
            "data_page": "Every scan is named in [datalist.json](../datalist.json).",
            "bundle_path": Path(os.path.relpath(Path(output, name))).as_posix(),
            "method_page": _page("method.md", Path(output, name)),
            "bundles_page": _page("bundles.md", Path(output, name)),
            "scans_place": "Scans are named by their full paths in `datalist.json`: make the bundle again if they move.",
        },
    )


def _page(name: str, folder: Path) -> str:
    """A link from a bundle's README to a page of the project if it lies where it does for the project's own bundles."""
    link = f"../../../docs/{name}"
    if os.path.isfile(os.path.normpath(os.path.join(folder.absolute(), "docs", link))):
        return f"[docs/{name}]({link})"
    return f"`docs/{name}` in the repository of dtlp_components"


def _readme(
    name: str, command: str, groups: Mapping[Keys, Inspected], label_names: Sequence[str],
    choices: Mapping[str, Choice], notes: Sequence[str], intensity: str,
) -> dict[str, str]:  # fmt: skip
    counts = [f"{len(items)} {TITLES[s]} ({domains(items)})" for s, items in groups.items() if items]
    table = "\n".join(
        f"| `{key}` | {json.dumps(choices[key].value)} | {unit} |"
        for key, unit in (
            ("batch_size_labeled", "patches"),
            ("batch_size_unlabeled", "patches"),
            ("cache_rate", "share of volumes kept in memory"),
        )
    )
    base = "| `learning_rate` | 0.01 | at the start |\n| `weights::mic` | 1.0 | masked images |"
    # no key in front: a line is what was chosen and why, not a table of the configuration
    why = "\n".join(
        f"- {key.replace('_', ' ')} {json.dumps(choice.value)}: {choice.why}." for key, choice in choices.items()
    )
    batch_size = max(choices[f"batch_size_{kind}"].value for kind in ("labeled", "unlabeled"))
    estimate = estimate_bytes(choices["patch_size"].value, choices["features"].value, batch_size, len(label_names))
    return {
        "title": name,
        "tags": f"Segmentation, {choices['modality'].value}, Semi-supervised",
        "summary": f"Segments {', '.join(label_names[1:])} in {choices['modality'].value}.",
        "data": f"The scans that `{COMMAND}` was given.",
        "split": f"Scans: {', '.join(counts)}.",
        "labels": "\n".join(f"| {i} | {label} |" for i, label in enumerate(label_names)),
        "intensity": intensity,
        "max_iterations": json.dumps(choices["max_iterations"].value),
        "training": f"{table}\n{base}\n\nHow these were chosen:\n\n{why}",
        "optimizer": "Optimizer: SGD (momentum 0.9, Nesterov, weight decay 3e-5)",
        "performance": "Not measured yet.",
        "memory": f"is estimated to take {estimate / 1e9:.1f} GB",
        "limits": "\n".join(f"- {note}" for note in ["What was guessed was not tried out.", *notes]),
        "references": "",
    }


def folder_to_segment(groups: Mapping[Keys, Inspected]) -> str:
    """A folder of NIfTI images, or of DICOM series, that inference can start with."""
    for section in (Keys.TESTING, Keys.UNLABELED, Keys.VALIDATION, Keys.TRAINING):
        images = [scan.image for scan, _ in groups[section]]
        if files := [image for image in images if Path(image).is_file()]:
            return str(Path(files[0]).parent)
        if images:
            return os.path.commonpath(images)
    return ""
