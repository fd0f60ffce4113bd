# SPDX-License-Identifier: Apache-2.0
"""A bundle from somebody's own folders: what follows from the scans, and writing it down."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .bundle_checks import check_config, check_metadata
from .checks import TWO_VOXELS, has_two_voxels
from .errors import InputError, raise_if_any
from .files import write_text
from .guess_settings import Choice, choose_settings
from .inspect_scans import FLAGS, Scan, ScanFacts, find_scans, inspect_scans, read_label_names, scan_table
from .keys import DatalistKeys as Keys
from .make_bundle import Layer, Recipe, bundle_names, render_recipe
from .memory import estimate_bytes, parse_memory
from .networks.vnet import VNet
from .prepare.common import check_seed, datalist, read_json, save_nifti

__all__ = ["new_bundle"]

COMMAND = "python -m dtlp_components new"
COMMENT = f"Made by {COMMAND} from the scans in datalist.json; see docs/README.md of this bundle."
COPIES = "scans"  # folder in the bundle for scans that had to be changed
TASK_WORDS = ("deepedit", "deepgrow", "detection", "classification")  # MONAI Label guesses the kind of task from these
TITLES = {
    Keys.TRAINING: "labelled",
    Keys.UNLABELED: "unlabelled",
    Keys.VALIDATION: "validation",
    Keys.TESTING: "testing",
}

Inspected = list[tuple[Scan, ScanFacts]]


def new_bundle(
    name: str,
    labeled: str,
    unlabeled: str = "",
    validation: str = "",
    testing: str = "",
    *,
    labels: str = "",
    output: str = "bundles",
    validation_share: float = 0.0,
    seed: int = 0,
    memory: str = "8GB",
    modality: str = "",
    intensity_window: list[float] | None = None,
    spacing_mm: list[float] | None = None,
    patch_size: list[int] | None = None,
    features: int | None = None,
    batch_size_labeled: int | None = None,
    batch_size_unlabeled: int | None = None,
    max_iterations: int | None = None,
    frame: int | None = None,
    remap: bool = False,
    skip_broken: bool = False,
    overwrite: bool = False,
) -> Path:
    """
    Make a bundle from folders of scans: inspect every scan, derive the settings, write list and configurations.

    Scans stay where they are and are named by their absolute paths. Label files of unlabelled scans are never opened.
    docs/adding_a_dataset.md says which layouts are understood and how each setting is derived.

    Args:
        name: of the bundle.
        labeled: folder (or datalist) of the labelled scans to train on.
        unlabeled: folder (or datalist) of the unlabelled ones; may be the same folder, if only some have labels.
        validation: folder (or datalist) of labelled scans to choose settings on.
        testing: folder (or datalist) of labelled scans to score at the end.
        labels: JSON file with the label names; else those in a dataset.json or datalist, else numbers.
        output: folder of the bundles.
        validation_share: share of the labelled scans to draw for validation.
        seed: of that draw.
        memory: what a training may take, such as 8GB.
        modality: CT or MR; guessed unless given.
        intensity_window: lowest and highest HU that a CT network sees, such as "[-175,275]".
        spacing_mm: grid to resample to, along x, y, z.
        patch_size: voxels along x, y, z, multiples of 16.
        features: channels at full resolution.
        batch_size_labeled: patches per iteration.
        batch_size_unlabeled: patches per iteration.
        max_iterations: length of the training.
        frame: number, from 0, of the volume to take from 4-D files; it is copied into the bundle.
        remap: copy the labels into the bundle with values 0, 1, 2, ... instead of those they have.
        skip_broken: leave broken unlabelled scans out.
        overwrite: replace what this command made before, as long as nothing was trained with it.

    Returns:
        The bundle's folder.

    Raises:
        InputError: if anything cannot be used; all broken scans are listed at once. Nothing is written then.
    """
    command = _command_line(locals())
    folder = Path(output, name)
    budget = _check_arguments(
        name=name, output=output, modality=modality, intensity_window=intensity_window, spacing_mm=spacing_mm,
        patch_size=patch_size, features=features, batch_size_labeled=batch_size_labeled,
        batch_size_unlabeled=batch_size_unlabeled, max_iterations=max_iterations, frame=frame,
        validation=validation, validation_share=validation_share, seed=seed, memory=memory,
    )  # fmt: skip

    # 1. what there is
    names_beside, scans = _find(
        {Keys.TRAINING: labeled, Keys.UNLABELED: unlabeled, Keys.VALIDATION: validation, Keys.TESTING: testing}
    )
    given_names = read_label_names(read_json(Path(labels), "label names"), labels) if labels else names_beside
    groups, skipped = _inspect_all(scans, frame, skip_broken)
    # names of scans often name patients: these go where the scans are named anyway, not into the README
    on_scans = [f"{path} is left out: {' '.join(problems)}" for path, problems in skipped.items()]
    shown = {f"{TITLES[s]} ({_domains(items)})": [f for _, f in items] for s, items in groups.items() if items}
    print(scan_table(shown, given_names))

    # 2. whether it can be used
    on_scans += _refuse_overlap(groups)
    values, label_names, notes = _label_values(groups, given_names, labels, remap)
    if validation_share:
        groups[Keys.TRAINING], groups[Keys.VALIDATION] = _draw_validation(groups[Keys.TRAINING], validation_share, seed)
    if not groups[Keys.UNLABELED]:
        notes.append("There are no unlabelled scans: this bundle trains on the labelled ones alone.")
    if not groups[Keys.VALIDATION]:
        notes.append("There is no validation: nothing shows whether teachers help. --validation_share 0.2 draws one.")

    # 3. what follows from it
    choices = choose_settings(
        {section: [facts for _, facts in items] for section, items in groups.items()}, len(label_names), budget,
        {"modality": modality, "intensity_window": intensity_window, "spacing_mm": spacing_mm, "patch_size": patch_size,
         "features": features, "batch_size_labeled": batch_size_labeled, "batch_size_unlabeled": batch_size_unlabeled,
         "max_iterations": max_iterations},
        memory,
    )  # fmt: skip
    print("\nSettings")
    for key, choice in choices.items():
        print(f"  {key}: {json.dumps(choice.value)}\n      {choice.why}")
    for note in [*on_scans, *notes]:
        print(f"Note: {note}")
    if on_scans:
        notes.append(
            f"Remarks on single scans (repeated, or left out): {len(on_scans)}, the `notes` in `datalist.json`, which "
            "`pack` leaves behind."
        )

    # 4. the files
    mapping = {value: i for i, value in enumerate(values)}
    changed = remap and any(value != i for value, i in mapping.items())
    copies, listed = _plan_copies(groups, folder, frame, mapping if changed else None)
    recipe = _recipe(name, output, command, groups, label_names, choices, notes)
    files = render_recipe(recipe)
    how_made = {"name": name, "made_by": command, **({"seed": seed} if validation_share else {})}
    files["datalist.json"] = _dump(_datalist(listed, label_names, how_made | ({"notes": on_scans} if on_scans else {})))
    _check_files(files, len(label_names))
    if _is_current(folder, files, copies, overwrite):
        print(f"\n{folder} is already what this command would write.")
    else:
        for target, (source, is_label) in copies.items():
            _write_copy(Path(source), target, frame, mapping if changed and is_label else None)
        for path, text in files.items():
            write_text(str(folder / path), text)
        print(
            f"\nWrote {folder}: {', '.join(f'{len(items)} {TITLES[s]}' for s, items in groups.items() if items)} scans."
        )
    _print_commands(folder, groups)
    return folder


# --- arguments


def _check_arguments(
    *, name: str, output: str, modality: str, intensity_window: Sequence[float] | None,
    spacing_mm: Sequence[float] | None, patch_size: Sequence[int] | None, features: int | None,
    batch_size_labeled: int | None, batch_size_unlabeled: int | None, max_iterations: int | None, frame: int | None,
    validation: str, validation_share: float, seed: int, memory: str,
) -> int:  # fmt: skip
    """Refuse what cannot be meant, all at once; bytes of ``memory``."""
    budget = parse_memory(memory)
    check_seed(seed)
    problems = []
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        problems.append(f"found the name {name!r}, wanted letters, digits, _ and -, beginning with a letter or digit.")
    if word := next((word for word in TASK_WORDS if word in name.lower()), None):
        problems.append(
            f"found the name {name!r}, wanted one without {word!r}, which makes MONAI Label guess another task."
        )
    if name in bundle_names():
        problems.append(f"found the name {name!r}, which is a bundle of this project; wanted another one.")
    if output[:1] in tuple("$@%"):
        problems.append(
            f"--output: found {output!r}, wanted a folder that does not begin with $, @ or % (MONAI would evaluate it)."
        )
    if modality not in ("", "CT", "MR"):
        problems.append(f"--modality: found {modality!r}, wanted CT or MR.")
    if intensity_window is not None:
        if len(intensity_window) != 2 or not intensity_window[0] < intensity_window[1]:
            problems.append(f'--intensity_window: found {intensity_window}, wanted two rising numbers: "[-175,275]".')
        if modality == "MR":
            problems.append("--intensity_window: found together with --modality MR, wanted CT: MR has no unit.")
    if spacing_mm is not None and (len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm)):
        problems.append(f'--spacing_mm: found {spacing_mm}, wanted three positive numbers: "[1.0,1.0,2.5]".')
    if patch_size is not None:
        try:
            VNet.check_patch_size(patch_size)
        except ValueError as error:
            problems.append(f"--patch_size: {error}")
        else:
            if has_two_voxels(patch_size, VNet.divisor):
                problems.append(f"--patch_size: found {patch_size}, which {TWO_VOXELS}; wanted a larger one.")
    for flag, number, least in (
        ("features", features, 1),
        ("batch_size_labeled", batch_size_labeled, 1),
        ("batch_size_unlabeled", batch_size_unlabeled, 0),
        ("max_iterations", max_iterations, 1),
        ("frame", frame, 0),
    ):
        if number is not None and number < least:
            problems.append(f"--{flag}: found {number}, wanted {least} or more.")
    if not 0 <= validation_share < 1:
        problems.append(f"--validation_share: found {validation_share}, wanted a share from 0 to below 1.")
    if validation and validation_share:
        problems.append("found --validation and --validation_share, wanted one of the two.")
    raise_if_any(problems, "Cannot make the bundle")
    return budget


def _command_line(arguments: Mapping[str, Any]) -> str:
    """The command that makes the same bundle again."""
    words = [COMMAND, shlex.quote(arguments["name"])]
    for key, parameter in inspect.signature(new_bundle).parameters.items():
        value = arguments[key]
        # overwriting says nothing of the bundle
        if key in ("name", "overwrite") or value == parameter.default and type(value) is type(parameter.default):
            continue
        words += [f"--{key}", shlex.quote(value if isinstance(value, str) else repr(value))]
    return " ".join(words)


# --- scans


def _find(paths: Mapping[Keys, str]) -> tuple[dict[int, str], dict[Keys, list[Scan]]]:
    """Label names that lie beside the labelled scans, and the scans of every section, each with its domain."""
    found = {section: find_scans(path, section) for section, path in paths.items() if path or section == Keys.TRAINING}
    scans = {section: found[section].scans if section in found else [] for section in paths}
    labeled, unlabeled = paths[Keys.TRAINING], paths[Keys.UNLABELED]
    if unlabeled and Path(unlabeled).is_dir() and Path(unlabeled).resolve() == Path(labeled).resolve():
        # one folder in which only some scans have a label
        scans[Keys.UNLABELED] = [scan for scan in scans[Keys.TRAINING] if scan.label is None]
        scans[Keys.TRAINING] = [scan for scan in scans[Keys.TRAINING] if scan.label is not None]
        if not scans[Keys.UNLABELED]:
            raise InputError(f"--unlabeled {unlabeled}: found a label for every scan, wanted some without.")
    problems = []
    for section, items in scans.items():
        missing = [scan.image for scan in items if scan.label is None]
        if section != Keys.UNLABELED and missing and len(missing) == len(items):
            problems.append(
                f"--{FLAGS[section]} {paths[section]}: found {len(items)} images and no labels, wanted labels in labelsTr "
                "beside imagesTr, in labels beside images, or in files of the same name that end in _label."
            )
        elif section != Keys.UNLABELED:
            advice = "; to use it without, give the same folder with --unlabeled" if section == Keys.TRAINING else ""
            problems += [f"{image}: found no label, wanted one in --{FLAGS[section]}{advice}." for image in missing]
    raise_if_any(problems, "Cannot make the bundle")

    homes = {section: item.home for section, item in found.items()}
    for section, home in homes.items():
        # two folders of one name are told apart by the name of the folder above
        twice = len({other for other in homes.values() if other.name == home.name}) > 1
        name = f"{home.parent.name}/{home.name}" if twice else home.name
        scans[section] = [replace(scan, domain=scan.domain or name) for scan in scans[section]]
    return found[Keys.TRAINING].label_names, scans


def _domains(items: Inspected) -> str:
    return ", ".join(dict.fromkeys(scan.domain for scan, _ in items))


def _inspect_all(
    scans: Mapping[Keys, list[Scan]], frame: int | None, skip_broken: bool
) -> tuple[dict[Keys, Inspected], dict[str, list[str]]]:
    """Every section's scans with what was read, and the unlabelled ones that are left out."""
    groups: dict[Keys, Inspected] = {}
    problems: list[str] = []
    skipped: dict[str, list[str]] = {}
    for section, items in scans.items():
        groups[section], broken = inspect_scans(items, frame, section != Keys.UNLABELED, f"reading {TITLES[section]}")
        if section == Keys.UNLABELED and skip_broken:
            skipped = broken
        else:
            problems += [sentence for sentences in broken.values() for sentence in sentences]
            if section == Keys.UNLABELED and broken:
                problems[-1] += " (--skip_broken True leaves broken unlabelled scans out.)"
    raise_if_any(problems, "Cannot make the bundle")
    return groups, skipped


def _refuse_overlap(groups: Mapping[Keys, Inspected]) -> list[str]:
    """Refuse a scan that is trained on with its label and used elsewhere; notes on other repetitions."""
    seen: dict[str, tuple[Keys, str]] = {}
    problems, notes = [], []
    for section, items in groups.items():  # the labelled scans come first
        for scan, facts in items:
            other = seen.setdefault(facts.checksum, (section, scan.image))
            if other == (section, scan.image):
                continue
            sentence = f"{scan.image} ({TITLES[section]}) is the same scan as {other[1]} ({TITLES[other[0]]})"
            if other[0] == Keys.TRAINING and section != Keys.TRAINING:
                why = "is no news" if section == Keys.UNLABELED else "would score what was learnt"
                problems.append(f"{sentence}, which {why}; wanted it in one of the two.")
            else:
                notes.append(f"{sentence}.")
    raise_if_any(problems, "Cannot make the bundle")
    return notes


def _label_values(
    groups: Mapping[Keys, Inspected], given: Mapping[int, str], labels: str, remap: bool
) -> tuple[list[int], list[str], list[str]]:
    """Label values in the files in the order of the classes, the classes' names, and notes."""
    counted = {
        s: [(scan, f.label_counts or {}) for scan, f in items] for s, items in groups.items() if s != Keys.UNLABELED
    }
    training = counted[Keys.TRAINING]
    found = sorted({value for _, counts in training for value in counts})
    if len(found) == 1:
        what = f"the label {training[0][0].label} holds" if len(training) == 1 else f"all {len(training)} labels hold"
        raise InputError(
            f"Cannot make the bundle: {what} only the value {found[0]}, wanted at least one labelled structure."
        )

    origin = f"--labels {labels}" if labels else "the label names beside the labelled scans"
    values = sorted({0, *(given or found)})
    if given:
        unknown = {v: scan for items in counted.values() for scan, counts in items for v in counts if v not in values}
        raise_if_any(
            [
                f"{scan.label}: found the value {value}, wanted only those that {origin} names: {values}; name it there."
                for value, scan in sorted(unknown.items())
            ],
            "Cannot make the bundle",
        )
    else:
        problems = [
            f"{scan.label}: found the values {sorted(set(counts) - set(values))}, which no labelled training scan has: {values}."
            for section, items in counted.items()
            for scan, counts in items
            if section != Keys.TRAINING and set(counts) - set(values)
        ]
        raise_if_any(problems, "Cannot make the bundle")
    if values != list(range(len(values))) and not remap:
        mapping = ", ".join(f"{value} to {i}" for i, value in enumerate(values) if value != i)
        raise InputError(
            f"Cannot make the bundle: found the label values {values}, wanted 0 to {len(values) - 1} without a gap. Either "
            f"--remap True writes copies of the labels into the bundle with {mapping}, or --labels names every value up "
            f"to {values[-1]}, also those that no scan has."
        )
    names = [given.get(value, "background" if value == 0 else f"label {value}") for value in values]
    notes = [
        f"No labelled training scan has {name!r} (value {value}): it cannot be learnt."
        for value, name in zip(values, names)
        if value not in found
    ]
    empty = sum(not any(value > 0 for value in counts) for _, counts in training)
    if empty:
        notes.append(f"{empty} of {len(training)} labels are empty.")
    return values, names, notes


def _draw_validation(items: Inspected, share: float, seed: int) -> tuple[Inspected, Inspected]:
    """Deal labelled scans to training and validation: ``share``, rounded, at least one to each."""
    count = max(1, round(share * len(items)))
    if count >= len(items):
        raise InputError(
            f"--validation_share: found {share} of {len(items)} labelled scans, wanted at least one to be left for training."
        )
    # RandomState, not default_rng: NumPy promises that its draws never change
    drawn = set(np.random.RandomState(seed).permutation(len(items))[:count].tolist())
    left = [item for i, item in enumerate(items) if i not in drawn]
    if not any(value > 0 for _, facts in left for value in facts.label_counts or ()):
        raise InputError("--validation_share: found only empty labels left for training, wanted another --seed.")
    return left, [item for i, item in enumerate(items) if i in drawn]


# --- writing


def _plan_copies(
    groups: Mapping[Keys, Inspected], folder: Path, frame: int | None, mapping: Mapping[int, int] | None
) -> tuple[dict[Path, tuple[str, bool]], dict[Keys, list[Scan]]]:
    """Files to write (target to source, and whether it is a label), and the scans with the paths to list."""
    copies: dict[Path, tuple[str, bool]] = {}
    listed: dict[Keys, list[Scan]] = {}

    def place(source: str, section: Keys, case: str, is_label: bool) -> str:
        if Path(source).is_dir() or not ((is_label and mapping) or _is_4d(source, frame)):
            return source
        target = folder / COPIES / FLAGS[section] / f"{case}_{'label' if is_label else 'image'}.nii.gz"
        copies[target] = (source, is_label)
        return str(target.relative_to(folder))

    for section, items in groups.items():
        listed[section] = [
            replace(
                scan,
                image=place(scan.image, section, scan.case, False),
                label=place(scan.label, section, scan.case, True) if scan.label and section != Keys.UNLABELED else None,
            )
            for scan, _ in items
        ]
    return copies, listed


def _is_4d(path: str, frame: int | None) -> bool:
    if frame is None:
        return False
    shape: tuple[int, ...] = nib.load(path).shape  # type: ignore[attr-defined]
    return len(shape) > 3 and shape[3] > 1


def _write_copy(source: Path, target: Path, frame: int | None, mapping: Mapping[int, int] | None) -> None:
    """A 3-D copy of a NIfTI file: one volume of it, and other label values."""
    image: Any = nib.load(source)
    voxels = np.asanyarray(image.dataobj)
    if voxels.ndim > 3:
        voxels = voxels.reshape(*voxels.shape[:3], -1)[..., frame if voxels.shape[3] > 1 else 0]
    if mapping is not None:
        remapped = np.zeros(voxels.shape, np.uint8 if len(mapping) <= 256 else np.uint16)
        for value, new in mapping.items():
            remapped[voxels == value] = new
        voxels = remapped
    elif voxels.dtype == np.float64:
        voxels = voxels.astype(np.float32)  # what a scale factor in the header makes of integers
    save_nifti(target, voxels, image.affine)


def _datalist(
    listed: Mapping[Keys, list[Scan]], label_names: Sequence[str], how_made: Mapping[str, Any]
) -> dict[str, Any]:
    def items(section: Keys) -> list[dict[str, str]]:
        return [
            {
                Keys.IMAGE.value: scan.image,
                **({Keys.LABEL.value: scan.label} if scan.label is not None else {}),
                Keys.DOMAIN.value: scan.domain,
            }
            for scan in listed[section]
        ]

    return datalist(
        {str(i): label for i, label in enumerate(label_names)},
        training=items(Keys.TRAINING),
        unlabeled=items(Keys.UNLABELED),
        validation=items(Keys.VALIDATION),
        testing=items(Keys.TESTING),
        **how_made,
    )


def _recipe(
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
        "description": f"Student of DTLP-Net, a V-Net that segments {structures} in {modality}, trained on few labelled and many unlabelled scans",
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
    overrides["inference"] = {"input": _folder_to_segment(groups)}
    layer = Layer(COMMAND, overrides, _readme(name, command, groups, label_names, choices, notes, intensity))
    return Recipe(
        name,
        [layer],
        data_license=(
            f"Data set: scans of whoever made this bundle with `{COMMAND}`; datalist.json names every file\n"
            "Licence:  not known to this project. Whoever gave you the scans decides what may be done with them, and with\n"
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
    counts = [f"{len(items)} {TITLES[s]} ({_domains(items)})" for s, items in groups.items() if items]
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
        "optimizer": "Optimiser: SGD (momentum 0.9, Nesterov, weight decay 3e-5)",
        "performance": "Not measured yet.",
        "memory": f"is estimated to take {estimate / 1e9:.1f} GB",
        "limits": "\n".join(f"- {note}" for note in ["What was guessed was not tried out.", *notes]),
        "references": "",
    }


def _folder_to_segment(groups: Mapping[Keys, Inspected]) -> str:
    """A folder of NIfTI images, or of DICOM series, that inference can start with."""
    for section in (Keys.TESTING, Keys.UNLABELED, Keys.VALIDATION, Keys.TRAINING):
        images = [scan.image for scan, _ in groups[section]]
        if files := [image for image in images if Path(image).is_file()]:
            return str(Path(files[0]).parent)
        if images:
            return os.path.commonpath(images)
    return ""


def _check_files(files: Mapping[str, str], num_classes: int) -> None:
    """What the tests of the project check of its own bundles."""
    problems = check_metadata(json.loads(files["configs/metadata.json"]), num_classes)
    for workflow in ("train", "evaluate", "inference"):
        problems += check_config(json.loads(files[f"configs/{workflow}.json"]))
    raise_if_any(problems, "Cannot make the bundle")


def _is_current(folder: Path, files: Mapping[str, str], copies: Mapping[Path, Any], overwrite: bool) -> bool:
    """
    Whether nothing is to be written.

    Raises:
        InputError: if writing would change what somebody may rely on.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: found a file, wanted a folder or nothing.")
    there = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    if not there:
        return False
    differing = [
        path for path, text in files.items() if path in there and there[path].read_text("utf-8", "replace") != text
    ]
    missing = [path for path in files if path not in there] + [str(c) for c in copies if not c.is_file()]
    if not differing and not missing:
        return True
    mine = set(files) | {target.relative_to(folder).as_posix() for target in copies}
    others = sorted(path for path in there if path not in mine and not path.startswith(f"{COPIES}/"))
    advice = "choose another name, or move the folder away"
    if others:
        raise InputError(
            f"{folder}: exists and holds {', '.join(others[:5])}, which this command did not write; {advice}."
        )
    config = there.get("configs/train.json")
    if config is not None and read_json(config, "a bundle's configuration").get("_comment") != COMMENT:
        raise InputError(f"{folder}: exists and was not made by this command; {advice}.")
    if differing and not overwrite:
        raise InputError(
            f"{folder}: exists with other content in {', '.join(differing)}; {advice}, or add --overwrite True."
        )
    return False


def _print_commands(folder: Path, groups: Mapping[Keys, Inspected]) -> None:
    configs = (folder / "configs").as_posix()
    run = "python -m monai.bundle run"
    print("\nNext, from this folder:")
    print(f"  {run} training --config_file {shlex.quote(configs + '/train.json')}")
    if groups[Keys.TESTING] or groups[Keys.VALIDATION]:
        print(f"  {run} evaluating --config_file {shlex.quote(configs + '/evaluate.json')}")
    else:
        print(
            "  (to evaluate, labelled scans are needed that training does not see: --validation, --validation_share or --testing)"
        )
    where = shlex.quote(_folder_to_segment(groups))
    print(f"  {run} run --config_file {shlex.quote(configs + '/inference.json')} --input {where}")


def _dump(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
