# SPDX-License-Identifier: Apache-2.0
"""M&Ms (multi-vendor cardiac MR): annotated frames out of the cines, and the published lists for generalization."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.nifti import save_nifti
from ..errors import InputError
from ..keys import DatalistKeys
from .pairs import describe_converted, judge_pair, label_extent, load_pair
from .published import (
    Sections,
    case_item,
    find_files,
    name_cases,
    prepare_all,
    published_datalists,
    read_split,
    usable_cases,
)

__all__ = ["prepare_mnms"]

_SUBJECT, _FRAMES, _VENDOR = "external code", ("ed", "es"), "vendor"


def _load_cine(image: Path, label: Path, frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and label ``(x, y, z, frame)`` and their affine; the published ``frames`` have labels."""
    voxels, label_voxels, affine = load_pair(image, label, num_axes=4)
    labeled = [frame for frame in range(label_voxels.shape[3]) if label_voxels[..., frame].any()]
    if not set(frames) <= set(labeled):
        raise InputError(f"{label}: expected labels in the frames {list(frames)}, as published, got them in {labeled}.")
    if others := sorted(set(labeled) - set(frames)):
        tqdm.write(f"{label}: the frames {others} also have labels but are in no published list; they are excluded.")
    return voxels, label_voxels, affine


def _published_box(label: Path, classes: np.ndarray, affine: np.ndarray) -> list[list[int]]:
    """
    The published crop of a frame ``(x, y, z)``, in voxels as stored: the central two thirds of x and y, and z from the
    first slice with a label to the last one, which is left out.
    """
    first, last = label_extent(label, classes)[2]
    in_plane = [[size // 2 - size // 3, size // 2 + size // 3] for size in classes.shape[:2]]
    # without the last slice by a slip of the published code; a single slice stays, which is ours
    return [*in_plane, [first, max(last, first + 1)]]


def _read_spreadsheet(path: Path) -> dict[str, dict[str, str]]:
    """Subject to its row, keys in lower case; empty if the file is no table of subjects with ED and ES."""
    try:
        # what matters is ASCII, and no other letter may stand in the way
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        # spreadsheets separate with semicolons where the comma is the decimal point
        delimiter = ";" if lines and lines[0].count(";") > lines[0].count(",") else ","
        rows = [
            {key.strip().lower(): value.strip() for key, value in row.items() if key and isinstance(value, str)}
            for row in csv.DictReader(lines, delimiter=delimiter)
        ]
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a CSV file, or none.") from error
    return {row[_SUBJECT]: row for row in rows if {_SUBJECT, *_FRAMES} <= set(row)}


def _disagreements(
    rows: Mapping[str, Mapping[str, str]], frames: Mapping[str, Sequence[int]], vendors: Mapping[str, str]
) -> list[str]:
    """What a spreadsheet says otherwise than the published lists, in words."""
    found = []
    for subject in sorted(set(rows) & set(frames)):
        row = rows[subject]
        stated = {row[key].removesuffix(".0") for key in _FRAMES}
        if stated != {str(frame) for frame in frames[subject]}:
            found.append(f"{subject} has ED {row['ed']!r} and ES {row['es']!r}, published {list(frames[subject])}")
        if _VENDOR in row and row[_VENDOR] != vendors[subject]:
            found.append(f"{subject} has vendor {row[_VENDOR]!r}, published {vendors[subject]!r}")
    return found


def prepare_mnms(source: str, output: str, *, dry_run: bool = False) -> Path | None:
    """
    Cut the annotated frames out of the cardiac cines and write the published lists for domain generalization.

    Reads ``<subject>_sa.nii.gz`` and ``<subject>_sa_gt.nii.gz``, four-dimensional, at any depth, for the 320 subjects
    with annotations. Writes their two annotated frames (end of diastole and of systole) as ``imagesTr`` and
    ``labelsTr/<subject>_sa_<frame>.nii.gz``, frames counted from 0, on their own grid. The published lists name the
    frames; they must be the ones with labels. If a CSV file with the columns ``External code``, ``ED`` and ``ES`` (and
    ``Vendor``) is there, it is compared with them, and disagreements are named.

    Writes ``manifest.json`` and, for every vendor from ``a`` to ``d``, ``datalist_2_a.json``, ``datalist_5_a.json`` and
    ``datalist_100_a.json`` (2, 5 and 100 % labeled): ``training`` and ``unlabeled`` hold frames of the other three
    vendors, ``testing`` all frames of this one, which no other section has seen. There are no validation cases: none
    are published, and the published code chooses its checkpoint on the test cases. ``domain`` is the vendor of every
    case, ``A`` to ``D``; ``published_box`` is what the published code crops it to, which follows from its label, for
    unlabeled cases too. Published subjects that are missing are listed and excluded; other subjects are listed and
    ignored. An interrupted run resumes where it stopped: valid converted pairs are kept.

    Args:
        source: folder with the cines.
        output: folder to write to.
        dry_run: print what would be done, but write nothing.

    Returns:
        ``output``, ``None`` with ``dry_run``.

    Raises:
        InputError: if a subject is broken (all such subjects are listed, the others are converted) or present twice, if
            none of the labeled cases is there, or if an existing datalist has another content.
    """
    source_dir, output_dir = Path(source), Path(output)
    split = read_split("mnms")
    vendors = {subject: vendor for vendor, subjects in split["vendors"].items() for subject in subjects}
    frames: dict[str, list[int]] = {subject: [] for subject in sorted(vendors)}
    for case in (case for cases in split["test"].values() for case in cases):
        subject, frame = case.split("_sa_")
        frames[subject].append(int(frame))
    frames = {subject: sorted(numbers) for subject, numbers in frames.items()}

    # 1. what is there, against what was published
    images, labels = (
        find_files(
            source_dir, rf"(?P<case>[A-Z0-9]{{6}})_{kind}\.nii\.gz", f"<subject>_{kind}.nii.gz, such as A0S9V9_{kind}"
        )
        for kind in ("sa", "sa_gt")
    )
    usable = usable_cases(list(frames), images, set(images) - set(labels))
    disagreements: dict[str, list[str]] = {}
    for path in sorted(source_dir.rglob("*.csv")):
        if differs := _disagreements(_read_spreadsheet(path), frames, vendors):
            disagreements[path.name] = differs
            name_cases(f"{path} disagrees with the published lists, which are used", differs)

    # 2. the datalists
    items = {
        f"{subject}_sa_{frame}": case_item(f"{subject}_sa_{frame}", domain=vendors[subject])
        for subject in usable
        for frame in frames[subject]
    }
    settings = {}
    for name, lists in split["settings"].items():
        target, percent = name.removeprefix("to").rstrip("%").lower().split("_")
        labeled, unlabeled, testing = lists["labeled"], lists["unlabeled"], split["test"][lists["test_ref"]]
        settings[f"{percent}_{target}"] = Sections(labeled, unlabeled, testing=testing)
        settings[f"100_{target}"] = Sections(sorted([*labeled, *unlabeled]), testing=testing)
    datalists = published_datalists("mnms", split["label_map"], settings, items, split_source=split["source"])

    # 3. every subject, then the lists
    def convert(subject: str) -> list[dict[str, Any]]:
        @functools.cache  # one reading for both frames, and none if both are there
        def load() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return _load_cine(images[subject], labels[subject], frames[subject])

        def save(frame: int, image: Path, label: Path) -> None:
            voxels, label_voxels, affine = load()
            judge_pair(
                str(images[subject]),
                voxels[..., frame],
                str(labels[subject]),
                label_voxels[..., frame],
                affine,
                [int(value) for value in split["label_map"]],
            )
            save_nifti(image, voxels[..., frame], affine)
            # the label last, so that a pair exists only when it is complete
            save_nifti(label, label_voxels[..., frame].astype(np.uint8), affine)

        entries = []
        for frame in frames[subject]:
            item = items[f"{subject}_sa_{frame}"]
            image, label = (output_dir / item[key] for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL))
            write = functools.partial(save, frame, image, label)
            entries.append({**item, **describe_converted(image, label, split["label_map"], write, _published_box)})
        return entries

    return prepare_all(
        output_dir,
        datalists,
        usable,
        convert,
        verb="convert",
        dry_run=dry_run,
        split_source=split["source"],
        labels=split["label_map"],
        spreadsheet_disagreements=disagreements,
        missing=sorted(set(frames) - set(usable)),
    )
