# SPDX-License-Identifier: Apache-2.0
"""The scans of every section of a data set: found, read, compared, and the labels they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.volumes import value_problems
from ..errors import InputError, raise_if_any
from ..keys import DatalistKeys as Keys
from .channels import ONE, Channels
from .find import FLAGS, Found, Scan, find_scans
from .inspect import Content, ScanFacts, inspect_scans

__all__ = [
    "TITLES",
    "FoundSections",
    "Inspected",
    "domains",
    "draw_validation",
    "find_sections",
    "inspect_sections",
    "label_values",
    "refuse_overlap",
]

TITLES = {
    Keys.TRAINING: "labeled",
    Keys.UNLABELED: "unlabeled",
    Keys.VALIDATION: "validation",
    Keys.TESTING: "testing",
}
Inspected = list[tuple[Scan, ScanFacts]]


@dataclass(frozen=True)
class FoundSections:
    """
    What the folders of a data set hold.

    Attributes:
        scans: of every section, each with its domain.
        label_names: that lie beside the labeled scans.
        modality: of the labeled scans, if a ``dataset.json`` says it; else empty.
        notes: what was passed over, one sentence each.
        channels: of all images.
        ignored: value of voxels that nobody labeled, if the label names beside the labeled scans say so.
    """

    scans: dict[Keys, list[Scan]]
    label_names: dict[int, str]
    modality: str
    notes: list[str]
    channels: Channels
    ignored: int | None


def find_sections(
    paths: Mapping[Keys, str], frame: int | None = None, channels: Channels | None = None
) -> FoundSections:
    """
    Find the scans of every section in its place.

    Args:
        paths: by section.
        frame: number of the one channel to take of several; all of them if ``None``.
        channels: that the user has named; else those of the labeled scans.
    """
    training = find_scans(paths[Keys.TRAINING], Keys.TRAINING, frame, channels)
    found = {Keys.TRAINING: training}
    given = training.channels if training.channels.count > 1 else channels
    found |= {
        section: find_scans(path, section, frame, given)
        for section, path in paths.items()
        if path and section != Keys.TRAINING
    }
    _refuse_other_channels(paths, found)
    scans = {section: found[section].scans if section in found else [] for section in paths}
    labeled, unlabeled = paths[Keys.TRAINING], paths[Keys.UNLABELED]
    if unlabeled and Path(unlabeled).is_dir() and Path(unlabeled).resolve() == Path(labeled).resolve():
        # one folder in which only some scans have a label
        scans[Keys.UNLABELED] = [scan for scan in scans[Keys.TRAINING] if scan.label is None]
        scans[Keys.TRAINING] = [scan for scan in scans[Keys.TRAINING] if scan.label is not None]
        if not scans[Keys.UNLABELED]:
            raise InputError(f"--unlabeled {unlabeled}: expected some scans without a label, but every scan has one.")
    problems = []
    for section, items in scans.items():
        missing = [scan.image for scan in items if scan.label is None]
        if section != Keys.UNLABELED and missing and len(missing) == len(items):
            problems.append(
                f"--{FLAGS[section]} {paths[section]}: expected labels in labelsTr next to imagesTr, in labels next to "
                f"images, or in files of the same name ending in _label, got {len(items)} images and no labels."
            )
        elif section != Keys.UNLABELED:
            advice = (
                ". To use it without a label, pass the same folder as --unlabeled" if section == Keys.TRAINING else ""
            )
            problems += [f"{image}: expected a label in --{FLAGS[section]}, got none{advice}." for image in missing]
    raise_if_any(problems, "Cannot create the bundle")

    homes = {section: item.home for section, item in found.items()}
    for section, home in homes.items():
        # two folders of one name are told apart by the name of the folder above
        twice = len({other for other in homes.values() if other.name == home.name}) > 1
        name = f"{home.parent.name}/{home.name}" if twice else home.name
        scans[section] = [replace(scan, domain=scan.domain or name) for scan in scans[section]]
    notes = [note for item in found.values() for note in item.notes]
    of_all = training.channels
    if of_all.count == 1 and any(item.channels != of_all for item in found.values()):
        of_all = ONE  # names end as each place has them; the list tells the files
    return FoundSections(
        scans, training.label_names, training.modality, [*dict.fromkeys(notes)], of_all, training.ignored
    )


def _refuse_other_channels(paths: Mapping[Keys, str], found: Mapping[Keys, Found]) -> None:
    """Every section has the channels of the labeled scans; of files with a fourth axis, reading tells."""
    of_labeled = found[Keys.TRAINING].channels

    def told(channels: Channels) -> str:
        kind = "channel" if channels.count == 1 else "channels"
        return f"{channels.count} {kind}" + (f" ({', '.join(channels.endings)})" if channels.endings else "")

    raise_if_any(
        [
            f"--{FLAGS[section]} {paths[section]}: expected {told(of_labeled)} as in the labeled scans, got "
            f"{told(place.channels)}. Use --channels to name the ones that all scans have, or --frame 0 to use only "
            "the first nnU-Net channel."
            for section, place in found.items()
            if place.channels.count != of_labeled.count
        ],
        "Cannot create the bundle",
    )


def domains(items: Inspected) -> str:
    return ", ".join(dict.fromkeys(scan.domain for scan, _ in items))


def inspect_sections(
    scans: Mapping[Keys, list[Scan]], content: Content, skip_broken: bool
) -> tuple[dict[Keys, Inspected], dict[str, list[str]]]:
    """Every section's scans with what was read, and the unlabeled ones that are left out."""
    groups: dict[Keys, Inspected] = {}
    problems: list[str] = []
    skipped: dict[str, list[str]] = {}
    for section, items in scans.items():
        groups[section], broken = inspect_scans(items, content, section != Keys.UNLABELED, f"reading {TITLES[section]}")
        if section == Keys.UNLABELED and skip_broken:
            skipped = broken
        else:
            problems += [sentence for sentences in broken.values() for sentence in sentences]
            if section == Keys.UNLABELED and broken:
                problems[-1] += " (--skip_broken True leaves out broken unlabeled scans.)"
    raise_if_any(problems, "Cannot create the bundle")
    return groups, skipped


def refuse_overlap(groups: Mapping[Keys, Inspected]) -> list[str]:
    """Refuse a scan that is trained on with its label and used elsewhere; notes on other repetitions."""
    seen: dict[str, tuple[Keys, str]] = {}
    problems, notes = [], []
    for section, items in groups.items():  # the labeled scans come first
        for scan, facts in items:
            other = seen.setdefault(facts.checksum, (section, scan.image))
            if other == (section, scan.image):
                continue
            sentence = f"{scan.image} ({TITLES[section]}) duplicates {other[1]} ({TITLES[other[0]]})"
            if other[0] == Keys.TRAINING and section != Keys.TRAINING:
                why = "adds no information" if section == Keys.UNLABELED else "would leak training data into the scores"
                problems.append(f"{sentence} and {why}; list it in one section only.")
            else:
                notes.append(f"{sentence}.")
    raise_if_any(problems, "Cannot create the bundle")
    return notes


def label_values(
    groups: Mapping[Keys, Inspected], given: Mapping[int, str], labels: str, remap: bool
) -> tuple[list[int], list[str], list[str]]:
    """Label values in the files in the order of the classes, the classes' names, and notes."""
    counted = {
        s: [(scan, f.label_counts or {}) for scan, f in items] for s, items in groups.items() if s != Keys.UNLABELED
    }
    training = counted[Keys.TRAINING]
    found = sorted({value for _, counts in training for value in counts})
    if len(found) == 1:
        what = f"{training[0][0].label} has" if len(training) == 1 else f"all {len(training)} labels have"
        raise InputError(
            f"Cannot create the bundle: expected at least one labeled structure, but {what} only the value {found[0]}."
        )

    origin = f"--labels {labels}" if labels else "the label names stored with the labeled scans"
    values = sorted({0, *(given or found)})
    if given:
        raise_if_any(
            [
                problem
                for items in counted.values()
                for scan, counts in items
                for problem in value_problems(
                    str(scan.label), counts, values, f" Other values are not in {origin}; add them there."
                )
            ],
            "Cannot create the bundle",
        )
    else:
        problems = [
            f"{scan.label}: expected the values {values} of the labeled training scans, got also "
            f"{sorted(set(counts) - set(values))}."
            for section, items in counted.items()
            for scan, counts in items
            if section != Keys.TRAINING and set(counts) - set(values)
        ]
        raise_if_any(problems, "Cannot create the bundle")
    if values != list(range(len(values))) and not remap:
        mapping = ", ".join(f"{value} to {i}" for i, value in enumerate(values) if value != i)
        raise InputError(
            f"Cannot create the bundle: expected label values from 0 to {len(values) - 1} without gaps, got {values}. "
            f"Either use --remap True to write copies of the labels into the bundle with {mapping}, or use --labels to "
            f"name every value up to {values[-1]}, including those that no scan has."
        )
    names = [given.get(value, "background" if value == 0 else f"label {value}") for value in values]
    notes = [
        f"No labeled training scan contains {name!r} (value {value}), so it cannot be learned."
        for value, name in zip(values, names, strict=True)
        if value not in found
    ]
    empty = sum(not any(value > 0 for value in counts) for _, counts in training)
    if empty:
        notes.append(f"{empty} of {len(training)} label maps are empty.")
    return values, names, notes


def draw_validation(
    items: Inspected, share: float, seed: int, patients: Sequence[str] | None = None
) -> tuple[Inspected, Inspected]:
    """
    Deal labeled scans to training and validation: ``share``, rounded, at least one to each.

    Args:
        items: labeled scans.
        share: of them for validation.
        seed: of the draw.
        patients: of each scan its patient, all of whose scans are dealt to one side; all different if not given.

    Raises:
        InputError: if no patient can be spared, since every one is the only one with some class.
    """
    count = max(1, round(share * len(items)))
    if count >= len(items):
        raise InputError(
            f"--validation_share: expected a fraction that leaves at least one scan for training, got {share} of "
            f"{len(items)} labeled scans."
        )
    names = [str(i) for i in range(len(items))] if patients is None else list(patients)
    classes = [{value for value in facts.label_counts or () if value > 0} for _, facts in items]
    needed = set().union(*classes)
    drawn: set[int] = set()
    # RandomState, not default_rng: NumPy promises that its draws never change
    order = np.random.RandomState(seed).permutation(len(items)).tolist()
    for name in dict.fromkeys(names[i] for i in order):
        group = {i for i in range(len(items)) if names[i] == name}
        left = set(range(len(items))) - drawn - group
        # training keeps at least one scan of every class
        if set().union(*(classes[i] for i in left)) == needed and left:
            drawn |= group
        if len(drawn) >= count:
            break
    if not drawn:
        raise InputError(
            "--validation_share: expected at least two patients with every label; no patient can be set aside, because "
            "each is the only one with some label."
        )
    return (
        [item for i, item in enumerate(items) if i not in drawn], [item for i, item in enumerate(items) if i in drawn]
    )  # fmt: skip
