# SPDX-License-Identifier: Apache-2.0
"""A bundle from somebody's own folders."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from monai.data import MetaTensor
from monai.transforms import LoadImage

from ..bundle.recipes import bundle_names
from ..bundle.render import render_recipe
from ..checks.arguments import check_seed
from ..checks.key_table import check_values
from ..checks.settings import patch_size_problems
from ..data.channel_files import shown_channel
from ..data.readers import ScanReader
from ..errors import raise_if_any
from ..files import json_text, read_json, write_text
from ..handlers.training_curves import save_figure
from ..keys import DatalistKeys as Keys
from ..report.scan_view import draw_sheet
from ..run_folder import RunFolder
from .channels import Channels, channel_notes, read_channels
from .duration import duration_sentence, seconds_of_a_step
from .find import Scan
from .inspect import Content
from .label_names import read_ignored, read_label_names
from .masks import with_masks
from .memory import CACHE_SHARE, Room, gpu_bytes, parse_memory
from .open_voxels import open_notes, refuse_undrawn, with_open_voxels
from .orientation import orientation_notes
from .patients import with_patients
from .plan import Choice, cached_bytes, choose_settings
from .recipe import COMMAND, folder_to_segment, recipe_of
from .report import scan_table
from .sections import (
    TITLES,
    Inspected,
    domains,
    draw_validation,
    find_sections,
    inspect_sections,
    label_values,
    refuse_overlap,
)
from .write import check_files, is_current, list_scans, plan_copies, write_copy

__all__ = ["new_bundle"]

ON_SHEET = 24  # labeled scans, evenly spread over all of them
TASK_WORDS = ("deepedit", "deepgrow", "detection", "classification")  # MONAI Label guesses the kind of task from these


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
    gpu_memory: str = "",
    modality: str = "",
    intensity_window: list[float] | None = None,
    spacing_mm: list[float] | None = None,
    patch_size: list[int] | None = None,
    features: int | None = None,
    batch_size_labeled: int | None = None,
    batch_size_unlabeled: int | None = None,
    max_iterations: int | None = None,
    channels: str = "",
    channel_dropout: float = 0.0,
    frame: int | None = None,
    ignore_label: int | None = None,
    patient: str = "",
    remap: bool = False,
    skip_broken: bool = False,
    overwrite: bool = False,
) -> Path:
    """
    Create a bundle from folders of scans: inspect every scan, derive the settings, write datalist and configurations.

    Scans stay where they are; the bundle refers to them by absolute path. Label files of unlabeled scans are never
    opened. See docs/get-started/own-scans.md for the supported layouts and for how each setting is derived.

    Args:
        name: name of the bundle.
        labeled: folder (or datalist) of labeled scans to train on.
        unlabeled: folder (or datalist) of unlabeled scans; may be the same folder if only some scans have labels.
        validation: folder (or datalist) of labeled scans for validation.
        testing: folder (or datalist) of labeled scans for the final test.
        labels: JSON file with the label names; by default, those in a dataset.json or datalist, or else numbers.
        output: folder in which the bundle is created.
        validation_share: fraction of the labeled scans to set aside for validation.
        seed: random seed for that split.
        memory: how much of the computer's memory training may use, such as 8GB.
        gpu_memory: how much GPU memory training may use, such as 24GB; by default, what is free on the GPU, if any.
        modality: CT or MR; guessed by default.
        intensity_window: lowest and highest HU passed to a CT network, such as "[-175,275]".
        spacing_mm: voxel spacing to resample to, along x, y, z.
        patch_size: voxels along x, y, z, multiples of 16.
        features: number of feature channels at full resolution.
        batch_size_labeled: labeled patches per iteration.
        batch_size_unlabeled: unlabeled patches per iteration.
        max_iterations: number of training iterations.
        channels: file-name endings of a scan's channels, such as t1,t2,flair, or the number of channels along a file's
            fourth axis; by default, detected from file names or a dataset.json.
        channel_dropout: fraction of training patches that lose one channel; above 0, scans may lack channels.
        frame: index, from 0, of the one volume to take from 4-D files (it is copied into the bundle), or of the one
            nnU-Net channel to take (_0000, _0001).
        ignore_label: value that marks unlabeled voxels in label files; by default, nnU-Net's ignore, if a dataset.json
            defines it.
        patient: regular expression that finds the patient in a scan's name, so that validation gets whole patients;
            guessed by default.
        remap: copy the labels into the bundle with the values 0, 1, 2, ... instead of their original ones.
        skip_broken: leave out broken unlabeled scans.
        overwrite: replace what this command wrote before, as long as nothing was trained with it.

    Returns:
        The bundle's folder.

    Raises:
        InputError: if anything cannot be used; all broken scans are listed at once. Nothing is written then.
    """
    command = _command_line(locals())
    folder = Path(output, name)
    room = _check_arguments(
        name=name, output=output, modality=modality, intensity_window=intensity_window, spacing_mm=spacing_mm,
        patch_size=patch_size, features=features, batch_size_labeled=batch_size_labeled,
        batch_size_unlabeled=batch_size_unlabeled, max_iterations=max_iterations, frame=frame,
        channels=channels, channel_dropout=channel_dropout, ignore_label=ignore_label,
        validation=validation, validation_share=validation_share, seed=seed, memory=memory, gpu_memory=gpu_memory,
    )  # fmt: skip

    # 1. what there is
    found = find_sections(
        {Keys.TRAINING: labeled, Keys.UNLABELED: unlabeled, Keys.VALIDATION: validation, Keys.TESTING: testing},
        frame, read_channels(channels),
    )  # fmt: skip
    named = read_json(Path(labels), "label names") if labels else None
    given_names = read_label_names(named, labels) if labels else found.label_names
    if ignore_label is None:
        ignore_label = read_ignored(named) if labels else found.ignored
    scans, are_named, guess = with_patients(found.scans, patient)
    scans, structures, given_names = with_masks(scans, given_names)
    content = Content(frame, found.channels, ignore_label, structures, channel_dropout > 0)
    groups, skipped = inspect_sections(scans, content, skip_broken)
    # names of scans often name patients: these go where the scans are named anyway, not into the README
    on_scans = [f"{path} was left out: {' '.join(problems)}" for path, problems in skipped.items()]
    shown = {f"{TITLES[s]} ({domains(items)})": [f for _, f in items] for s, items in groups.items() if items}
    print(scan_table(shown, given_names))

    # 2. whether it can be used
    on_scans += [*found.notes, *guess, *refuse_overlap(groups)]
    if validation_share:
        dealt = draw_validation(
            groups[Keys.TRAINING], validation_share, seed, [scan.patient for scan, _ in groups[Keys.TRAINING]]
        )
        groups[Keys.TRAINING], groups[Keys.VALIDATION] = dealt
    values, label_names, notes = label_values(groups, given_names, labels, remap)
    refuse_undrawn(groups, label_names, values)
    notes += [*channel_notes(found.channels), *orientation_notes(groups), *open_notes(groups, label_names)]
    if not groups[Keys.UNLABELED]:
        notes.append("There are no unlabeled scans: this bundle trains on the labeled scans only.")
    if not groups[Keys.VALIDATION]:
        notes.append(
            "There is no validation set, so nothing will show whether the teachers help. --validation_share 0.2 sets "
            "aside a fifth of the labeled scans."
        )

    # 3. what follows from it
    choices = choose_settings(
        {section: [facts for _, facts in items] for section, items in groups.items()}, len(label_names), room,
        {"modality": modality, "named_modality": found.modality, "intensity_window": intensity_window,
         "spacing_mm": spacing_mm, "patch_size": patch_size,
         "features": features, "batch_size_labeled": batch_size_labeled, "batch_size_unlabeled": batch_size_unlabeled,
         "max_iterations": max_iterations, "in_channels": found.channels.count},
    )  # fmt: skip
    print("\nSettings")
    for key, choice in choices.items():
        print(f"  {key}: {json.dumps(choice.value)}\n      {choice.why}")
    notes += _disk_notes(Path(output), choices, groups, found.channels.count)
    for note in [*on_scans, *notes]:
        print(f"Note: {note}")
    if on_scans:
        notes.append(
            f"Notes on individual scans (duplicates, or left out): {len(on_scans)}, listed under `notes` in "
            "`datalist.json`, which `pack` does not include."
        )

    # 4. the files
    mapping = {value: i for i, value in enumerate(values)}
    changed = remap and any(value != i for value, i in mapping.items())
    if changed and ignore_label is not None:
        mapping[ignore_label] = len(values)
    copies, listed = plan_copies(groups, folder, frame, mapping if changed else None)
    listed[Keys.UNLABELED] = [*listed[Keys.UNLABELED], *with_open_voxels(groups, listed)]
    ignored = mapping.get(ignore_label, ignore_label) if ignore_label is not None else None
    recipe = recipe_of(
        name, output, command, groups, label_names, choices, notes, found.channels, ignored, channel_dropout
    )
    files = render_recipe(recipe)
    how_made = {"name": name, "made_by": command, **({"seed": seed} if validation_share else {})}
    files["datalist.json"] = json_text(
        list_scans(listed, label_names, how_made | ({"notes": on_scans} if on_scans else {}), are_named)
    )
    check_files(files, len(label_names))
    if is_current(folder, files, copies, overwrite):
        print(f"\n{folder} is already up to date; nothing was written.")
    else:
        for target, (source, is_label) in copies.items():
            write_copy(Path(source), target, frame, mapping if changed and is_label else None, structures)
        for path, text in files.items():
            write_text(folder / path, text)
        print(
            f"\nWrote {folder}: {', '.join(f'{len(items)} {TITLES[s]}' for s, items in groups.items() if items)} scans."
        )
    checked = {path: entry for items in groups.values() for _, facts in items for path, entry in facts.checked.items()}
    write_text(RunFolder(folder).checked_inputs, json.dumps(checked))
    _draw_sheet(folder, listed[Keys.TRAINING], values, label_names, bool(changed), found.channels)
    patch, features, batch = (choices[key].value for key in ("patch_size", "features", "batch_size_labeled"))
    step = seconds_of_a_step(patch, features, batch, len(label_names))
    print("\n" + duration_sentence(choices["max_iterations"].value, step, bool(groups[Keys.UNLABELED])))
    _print_commands(folder, groups, found.channels)
    return folder


def _draw_sheet(
    folder: Path, scans: Sequence[Scan], values: Sequence[int], label_names: Sequence[str], remapped: bool,
    channels: Channels,
) -> None:  # fmt: skip
    """A picture of the labeled scans: a swapped axis or a label on the wrong scan is seen before it is trained on."""
    read = LoadImage(reader=ScanReader(), ensure_channel_first=True)
    shown = scans[:: -(-len(scans) // ON_SHEET)]

    def volume(file: str | None) -> MetaTensor:
        return cast(MetaTensor, read(str(folder / str(file))))

    found = range(len(values)) if remapped else values
    names = {value: name for value, name in zip(found, label_names, strict=True) if value}
    file = RunFolder(folder).labeled_scans
    items = ((s.case, volume(shown_channel(s.image, channels.endings)), volume(s.label)) for s in shown)
    save_figure(draw_sheet(items, len(shown), names), file)
    print(f"Check your labels in {file.absolute()}")


def _disk_notes(
    output: Path, choices: Mapping[str, Choice], groups: Mapping[Keys, Inspected], in_channels: int
) -> list[str]:
    """A sentence on the disk that the bundle's cache takes, and one if there is not that much."""
    if not choices["cache_dir"].value:
        return []
    facts = {section: [of_scan for _, of_scan in items] for section, items in groups.items()}
    needed = cached_bytes(facts, choices["spacing_mm"].value, in_channels)
    there = next(place for place in (output.absolute(), *output.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < 1.05 * needed:
        return [
            f"The preprocessed scans need {needed / 1e9:.2g} GB of disk space, but {there} has only {free / 1e9:.2g} "
            "GB free: train with a --cache_dir on another disk."
        ]
    return [
        f"The first training run writes a {needed / 1e9:.2g} GB cache into the bundle's folder; later runs reuse it."
    ]


def _check_arguments(
    *, name: str, output: str, modality: str, intensity_window: Sequence[float] | None,
    spacing_mm: Sequence[float] | None, patch_size: Sequence[int] | None, features: int | None,
    batch_size_labeled: int | None, batch_size_unlabeled: int | None, max_iterations: int | None, frame: int | None,
    channels: str, channel_dropout: float, ignore_label: int | None, validation: str, validation_share: float,
    seed: int, memory: str, gpu_memory: str,
) -> Room:  # fmt: skip
    """Refuse what cannot be meant, all at once; what a training may take."""
    budget, gpu = parse_memory(memory), gpu_bytes(gpu_memory)
    check_seed(seed)
    problems = []
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        problems.append(f"NAME: expected letters, digits, _ and -, beginning with a letter or digit, got {name!r}.")
    if word := next((word for word in TASK_WORDS if word in name.lower()), None):
        problems.append(
            f"NAME: expected a name without {word!r}, from which MONAI Label would infer another task, got {name!r}."
        )
    if name in bundle_names():
        problems.append(f"NAME: expected a name that no bundle of this project has, got {name!r}.")
    if modality not in ("", "CT", "MR"):
        problems.append(f"--modality: expected CT or MR, got {modality!r}.")
    if intensity_window is not None:
        if len(intensity_window) != 2 or not intensity_window[0] < intensity_window[1]:
            problems.append(
                f'--intensity_window: expected two increasing numbers, such as "[-175,275]", got {intensity_window}.'
            )
        if modality == "MR":
            problems.append("--intensity_window: expected --modality CT, got MR, whose intensities have no fixed unit.")
    keys = {
        "spacing_mm": spacing_mm, "patch_size": patch_size, "features": features,
        "batch_size_labeled": batch_size_labeled, "batch_size_unlabeled": batch_size_unlabeled,
        "max_iterations": max_iterations, "channel_dropout": channel_dropout,
    }  # fmt: skip
    problems += check_values({key: value for key, value in keys.items() if value is not None})
    if patch_size is not None and not check_values({"patch_size": patch_size}):
        problems += patch_size_problems(patch_size, "instance")
    if frame is not None and frame < 0:
        problems.append(f"--frame: expected an integer of at least 0, got {frame}.")
    if frame is not None and channels:
        problems.append("expected either --frame or --channels, got both.")
    if ignore_label is not None and ignore_label < 1:
        problems.append(f"--ignore_label: expected an integer of at least 1, got {ignore_label}.")
    if not 0 <= validation_share < 1:
        problems.append(
            f"--validation_share: expected a fraction of at least 0 and less than 1, got {validation_share}."
        )
    if validation and validation_share:
        problems.append("expected either --validation or --validation_share, got both.")
    raise_if_any(problems, "Cannot create the bundle")
    if gpu is None:
        return Room((1 - CACHE_SHARE) * budget, budget, False, f"--memory {memory}")
    return Room(gpu, budget, True, f"--gpu_memory {gpu_memory or f'{gpu / 1e9:.0f}GB (currently free)'}")


def _command_line(arguments: Mapping[str, Any]) -> str:
    """The command that makes the same bundle again."""
    words = [COMMAND, shlex.quote(arguments["name"])]
    for key, parameter in inspect.signature(new_bundle).parameters.items():
        value = arguments[key]
        # overwriting says nothing of the bundle
        if key in ("name", "overwrite") or (value == parameter.default and type(value) is type(parameter.default)):
            continue
        words += [f"--{key}", shlex.quote(value if isinstance(value, str) else repr(value))]
    return " ".join(words)


def _print_commands(folder: Path, groups: Mapping[Keys, Inspected], channels: Channels) -> None:
    configs = (folder / "configs").as_posix()
    run = "python -m monai.bundle run"
    attempt = ["train", folder.as_posix(), "--hours", "0.5", "--output_dir", (folder / "try").as_posix()]
    print("\nNext commands, to run from this folder (the first is a half-hour trial run):")
    print(f"  {shlex.join(['python', '-m', 'dtlp_components', *attempt])}")
    print(f"  {run} training --config_file {shlex.quote(configs + '/train.json')}")
    if groups[Keys.TESTING] or groups[Keys.VALIDATION]:
        print(f"  {run} evaluating --config_file {shlex.quote(configs + '/evaluate.json')}")
    else:
        print(
            "  (evaluation needs labeled scans that are not used for training: --validation, --validation_share or "
            "--testing)"
        )
    where = shlex.quote(folder_to_segment(groups, channels))
    print(f"  {run} run --config_file {shlex.quote(configs + '/inference.json')} --input {where}")
