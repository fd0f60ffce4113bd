# SPDX-License-Identifier: Apache-2.0
"""What a bundle of somebody's own scans adds to the base recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundle.recipes import PAGES, Recipe
from ..checks.literals import literal
from ..keys import DatalistKeys as Keys
from .channels import ONE, Channels
from .memory import estimate_bytes
from .plan import Choice
from .sections import TITLES, Inspected

__all__ = ["COMMAND", "COMMENT", "folder_to_segment", "recipe_of"]

COMMAND = "python -m dtlp_components new"
COMMENT = f"Made by {COMMAND} from the scans in datalist.json; see docs/README.md of this bundle."


def recipe_of(
    name: str, output: str, command: str, groups: Mapping[Keys, Inspected], label_names: Sequence[str],
    choices: Mapping[str, Choice], notes: Sequence[str], channels: Channels = ONE, ignored: int | None = None,
    channel_dropout: float = 0.0,
) -> Recipe:  # fmt: skip
    """What the bundle adds to the base, in the form of a recipe."""
    modality, structures = choices["modality"].value, ", ".join(label_names[1:])
    common: dict[str, Any] = {
        "dataset_dir": "@bundle_root",
        "datalist": "$@bundle_root + '/datalist.json'",
        "prepare_hint": literal(command),
        **{key: choices[key].value for key in ("spacing_mm", "patch_size", "features")},
    }
    if channels != ONE:
        common |= {"in_channels": channels.count, "channels": list(channels.endings)}
    if channel_dropout:
        common["channel_dropout"] = channel_dropout
    if ignored is not None:
        common["ignore_label"] = ignored
    if Path(output) != Path("bundles"):
        common["bundle_root"] = literal(Path(output, name).as_posix())
    intensity = "z-score of the volume" if channels.count == 1 else "z-score of each channel"
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
        intensity = f"{low:g} to {high:g} HU scaled to 0 to 1 and clipped"

    keys = ("batch_size_labeled", "batch_size_unlabeled", "max_iterations", "cache_dir")
    sections: dict[str, dict[str, Any]] = {
        "common": common,
        "train": {key: choices[key].value for key in keys},
        "inference": {"input": literal(folder_to_segment(groups, channels))},
    }
    if not groups[Keys.TESTING] and groups[Keys.VALIDATION]:
        sections["evaluate"] = {"eval_section": Keys.VALIDATION.value}
    return Recipe(
        name=name,
        origin=COMMAND,
        title=name,
        modality=modality,
        image=modality,
        structures=f"{structures} in {modality}",
        source="the user's own scans, see datalist.json",
        labels=list(label_names),
        intensity=intensity,
        tags=f"Segmentation, {modality}, Semi-supervised",
        sections=sections,
        readme=_readme(Path(output, name), groups, label_names, choices, notes),
        data_license=(
            f"Data set: your own scans, with which you created this bundle (`{COMMAND}`); datalist.json lists every "
            "file\nLicense:  not known to this project. Whoever gave you the scans decides what may be done with "
            "them, and\n          with weights trained on them. Replace this text with their terms before you share "
            "the bundle.\n"
        ),
        comment=COMMENT,
    )


def _page(name: str, folder: Path) -> str:
    """A link from a bundle's README to a page of the project if it lies where it does for the project's own bundles."""
    link = f"../../../docs/{name}"
    if os.path.isfile(os.path.normpath(os.path.join(folder.absolute(), "docs", link))):
        return f"[docs/{name}]({link})"
    return f"`docs/{name}` in the dtlp_components repository"


def _readme(
    folder: Path, groups: Mapping[Keys, Inspected], label_names: Sequence[str], choices: Mapping[str, Choice],
    notes: Sequence[str],
) -> dict[str, str]:  # fmt: skip
    # folders, which often name a patient, are in datalist.json alone: this text is packed
    counts = [f"{len(items)} {TITLES[s]}" for s, items in groups.items() if items]
    # no key in front: a line is what was chosen and why, not a table of the configuration
    why = "\n".join(
        f"- {key.replace('_', ' ')} {json.dumps(choice.value)}: {choice.why}." for key, choice in choices.items()
    )
    batch_size = max(choices[f"batch_size_{kind}"].value for kind in ("labeled", "unlabeled"))
    estimate = estimate_bytes(choices["patch_size"].value, choices["features"].value, batch_size, len(label_names))
    return {
        "origin": f"Created by `{COMMAND}`; the settings it derived are explained below. You may edit the files.",
        "data_page": "[datalist.json](../datalist.json) lists every scan.",
        "bundle_path": Path(os.path.relpath(folder)).as_posix(),
        **{f"{key}_page": _page(place, folder) for key, place in PAGES.items()},
        "scans_place": "`datalist.json` lists the scans by their full paths: recreate the bundle if they move.",
        "summary": f"Segments {', '.join(label_names[1:])} in {choices['modality'].value}.",
        "data": f"The scans passed to `{COMMAND}`.",
        "split": f"Scans: {', '.join(counts)}.",
        "training_note": f"How these were chosen:\n\n{why}",
        "memory": f"is estimated to take {estimate / 1e9:.1f} GB",
        "limits": "\n".join(f"- {note}" for note in ["The derived settings were not tested.", *notes]),
    }


def folder_to_segment(groups: Mapping[Keys, Inspected], channels: Channels) -> str:
    """A folder of NIfTI images, or of DICOM series, that inference can start with."""
    for section in (Keys.TESTING, Keys.UNLABELED, Keys.VALIDATION, Keys.TRAINING):
        images = [scan.image for scan, _ in groups[section]]
        if files := [image for image in images if Path(image).is_file()]:
            folders = {str(Path(file).parent) for file in files}
            # a folder for each patient: the one above them
            return os.path.commonpath(folders) if channels.endings else str(Path(files[0]).parent)
        if images:
            return os.path.commonpath(images)
    return ""
