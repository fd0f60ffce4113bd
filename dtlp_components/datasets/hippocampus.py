# SPDX-License-Identifier: Apache-2.0
"""Hippocampus (Medical Segmentation Decathlon, Task04): a seeded, recorded semi-supervised split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from ..checks.arguments import check_percent, check_seed
from ..data.datalists import datalist, refuse_changed_datalists
from ..errors import InputError
from ..files import place_file, read_json
from ..keys import DatalistKeys
from .pairs import describe_pair
from .published import name_cases, work_on_all, write_lists

__all__ = ["prepare_hippocampus"]

_EXPECTED = "the Decathlon folder Task04_Hippocampus with imagesTr, labelsTr and its dataset.json"


@dataclass(frozen=True)
class _Split:
    """Image paths of the four groups; ``labeled`` and ``unlabeled`` together are the training cases."""

    labeled: list[str]
    unlabeled: list[str]
    validation: list[str]
    testing: list[str]


def _draw_split(images: Iterable[str], seed: int, percent: int) -> _Split:
    """
    Deal the cases at random: 10 to validation, 50 to testing, the rest to training.

    With fewer than 200 cases the two shares are a twentieth and a quarter, which is 10 and 50 at 200. Of the training
    cases ``percent`` are labeled, rounded, at least one. The first cases drawn are the labeled ones, so that a larger
    percentage contains every smaller one of the same seed.
    """
    cases = sorted(images)
    if len(cases) < 4:
        raise InputError(
            f"dataset.json: expected at least 4 cases, one for each section of a datalist, got {len(cases)}."
        )
    num_validation, num_testing = (10, 50) if len(cases) >= 200 else (max(1, len(cases) // 20), max(1, len(cases) // 4))
    # RandomState, not default_rng: NumPy promises that its draws never change, and a split has to outlive a NumPy
    # version
    drawn = [cases[i] for i in np.random.RandomState(seed).permutation(len(cases))]
    num_training = len(cases) - num_validation - num_testing
    num_labeled = max(1, round(num_training * percent / 100))
    training, held_out = drawn[:num_training], drawn[num_training:]
    return _Split(
        sorted(training[:num_labeled]),
        sorted(training[num_labeled:]),
        sorted(held_out[:num_validation]),
        sorted(held_out[num_validation:]),
    )


def _read_listing(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Image path to label path of every case with a label, and the label names."""
    content = read_json(path, f"{_EXPECTED} as --source")
    items = content.get("training") if isinstance(content, dict) else None
    names = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(items, list) or not isinstance(names, dict) or not all(str(value).isdigit() for value in names):
        raise InputError(f"{path}: no list `training` or no table `labels` of value: name; expected {_EXPECTED}.")
    listing: dict[str, str] = {}
    for item in items:
        image, label = (_relative_path(path, item, key.value) for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL))
        if image in listing:
            raise InputError(f"{path}: expected each case only once, got {image} twice.")
        listing[image] = label
    return listing, {str(value): str(name) for value, name in names.items()}


def _relative_path(listing: Path, item: Any, key: str) -> str:
    value = item.get(key) if isinstance(item, dict) else None
    # PurePosixPath drops the leading "./" of the Decathlon's own lists
    path = PurePosixPath(value) if isinstance(value, str) else None
    if path is None or path.is_absolute() or ".." in path.parts:
        raise InputError(f"{listing}: expected a relative path as `{key}` of each training item, got {item!r}.")
    return str(path)


def _volumes(source: Path, folders: Sequence[str]) -> set[str]:
    """NIfTI files in ``folders``, without the ``._*`` companions macOS packs into archives."""
    files = (file for folder in folders for file in sorted((source / folder).glob("*.nii*")))
    return {file.relative_to(source).as_posix() for file in files if not file.name.startswith(".")}


def prepare_hippocampus(
    source: str, output: str, *, seed: int = 0, percent: int = 5, dry_run: bool = False
) -> Path | None:
    """
    Check the Decathlon's hippocampus scans, put them into ``output`` and write their datalists.

    The split is drawn over the cases ``dataset.json`` lists, whether their files are there or not, so that an
    incomplete download never moves the others: 10 validation and 50 testing cases of 200 or more, a twentieth and a
    quarter of fewer (at least one each); of the rest ``percent`` are labeled (rounded, at least one). Cases without an
    image or a label file are listed and excluded. Scans are hard-linked or copied, never converted. Writes
    ``datalist_<percent>.json``, ``datalist_100.json`` (every training case labeled) and ``manifest.json`` (shape,
    spacing, label counts and checksums of every case). A second run changes nothing.

    Args:
        source: folder with ``imagesTr``, ``labelsTr`` and ``dataset.json``.
        output: folder to write to; may be ``source``.
        seed: seed of the split.
        percent: percentage of the training cases that keep their label, 1 to 99.
        dry_run: check and print, but write nothing.

    Returns:
        Path of ``datalist_<percent>.json``, ``None`` with ``dry_run``.

    Raises:
        InputError: if a file is broken, or an image and its label do not belong together (all such cases are listed),
            or a file in ``output`` has another content than this run would write.
    """
    check_seed(seed)
    check_percent(percent)
    source_dir, output_dir = Path(source), Path(output)
    listing, names = _read_listing(source_dir / "dataset.json")
    split = _draw_split(listing, seed, percent)

    # 1. what is there, against what should be
    listed_files = set(listing) | set(listing.values())
    folders = sorted({str(PurePosixPath(file).parent) for file in listed_files})
    present = {file for file in listed_files if (source_dir / file).is_file()}
    missing = sorted(listed_files - present)
    usable = {image: label for image, label in listing.items() if image in present and label in present}
    name_cases("Listed files that are missing; their cases are excluded", missing)
    name_cases("Files that dataset.json does not list; they are ignored", _volumes(source_dir, folders) - listed_files)

    # 2. the datalists, and whether they may be written
    def items(images: Iterable[str]) -> list[dict[str, str]]:
        return [
            {DatalistKeys.IMAGE.value: image, DatalistKeys.LABEL.value: usable[image]}
            for image in images
            if image in usable
        ]

    held_out = {"validation": items(split.validation), "testing": items(split.testing)}
    labeled, unlabeled = items(split.labeled), items(split.unlabeled)
    if not labeled:
        raise InputError(f"{source_dir}: expected {_EXPECTED}, got none of the labeled cases.")
    how_made: dict[str, Any] = {"seed": seed, "source": "Medical Segmentation Decathlon, Task04_Hippocampus"}
    partly = datalist(
        names, name=f"hippocampus_{percent}", **how_made, training=labeled, unlabeled=unlabeled, **held_out
    )
    everything = items(sorted(split.labeled + split.unlabeled))
    fully = datalist(names, name="hippocampus_100", **how_made, training=everything, **held_out)
    datalists = {f"datalist_{percent}.json": partly, "datalist_100.json": fully}
    refuse_changed_datalists(output_dir, datalists)

    # 3. every pair, all complaints at once
    def describe(image: str) -> dict[str, Any]:
        (item,) = items([image])
        return {**item, **describe_pair(source_dir / image, source_dir / usable[image], names)}

    cases = work_on_all(sorted(usable), describe, "checking")

    # 4. write
    print(
        f"{len(labeled)} labeled, {len(unlabeled)} unlabeled, {len(held_out['validation'])} validation and "
        f"{len(held_out['testing'])} testing cases (seed {seed}, {percent} % labeled)."
    )
    if dry_run:
        print(
            f"Dry run: would write {2 * len(usable)} files, {', '.join(datalists)} and manifest.json to {output_dir}."
        )
        return None
    for image, label in tqdm(sorted(usable.items()), desc="placing", unit="case"):
        place_file(source_dir / image, output_dir / image)
        place_file(source_dir / label, output_dir / label)
    write_lists(output_dir, datalists, {**how_made, "labels": names, "missing": missing, "cases": cases})
    return output_dir / f"datalist_{percent}.json"
