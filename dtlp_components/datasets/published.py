# SPDX-License-Identifier: Apache-2.0
"""Published splits: a data set's cases found, prepared, and listed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.datalists import datalist, refuse_changed_datalists
from ..errors import InputError
from ..files import read_json, write_json
from ..keys import DatalistKeys
from ..tables import number_of

__all__ = [
    "Sections",
    "case_item",
    "find_files",
    "name_cases",
    "prepare_all",
    "published_datalists",
    "read_split",
    "usable_cases",
    "work_on_all",
    "write_lists",
]

_SPLITS = Path(__file__).parents[1] / "recipes" / "splits"


def read_split(name: str) -> dict[str, Any]:
    """The published split of a data set, from this package's ``recipes/splits/<name>.json``."""
    split: dict[str, Any] = read_json(_SPLITS / f"{name}.json", "the published split, part of this package")
    return split


def find_files(source: Path, pattern: str, expected: str, placed: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """
    Find one NIfTI file for each case, at any depth.

    Args:
        source: folder to look in.
        pattern: regular expression of the end of a path, which begins with a folder's or the file's name, with the
            group ``case``. So it leaves out the ``._*`` companions that macOS packs into archives.
        expected: what was looked for, for the error message.
        placed: where this command puts the file of a case: what an earlier run put there is no second copy of it.

    Returns:
        Case id to path.

    Raises:
        InputError: if there is no such file, or more than one of a case.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*.nii.gz")):
        match = re.search(f"(?:^|/){pattern}$", path.relative_to(source).as_posix())
        if match and path.is_file():
            found.setdefault(match["case"], []).append(path)
    if not found:
        raise InputError(
            f"{source}: expected the folder of the download, got one with no file {expected} at any depth."
        )
    for case, paths in found.items():
        if len(paths) > 1 and placed and placed.get(case) in paths:
            paths.remove(placed[case])
    if twice := {case: paths for case, paths in found.items() if len(paths) > 1}:
        raise InputError(
            "\n".join(
                f"{source}: expected each case only once, got {case} twice: {paths[0]} and {paths[1]}."
                for case, paths in twice.items()
            )
        )
    return {case: paths[0] for case, paths in found.items()}


def usable_cases(
    published: Sequence[str], found: Collection[str], without_label: Collection[str], label: str = "a label"
) -> list[str]:
    """
    Say which published cases are there, and name those that are not, and the other ones that are.

    Args:
        published: case ids of the split.
        found: case ids with an image.
        without_label: those among ``found`` that lack their label.
        label: what those lack, for the message.

    Returns:
        The published cases with image and label, in the order of ``published``.
    """
    usable = [case for case in published if case in found and case not in without_label]
    print(f"{len(usable)} of {len(published)} published cases found.")
    name_cases("Published cases that are missing; they are excluded", set(published) - set(found))
    name_cases(f"Cases without {label}; they are excluded", set(without_label) & set(published))
    name_cases("Cases that are not in the published split; they are ignored", set(found) - set(published))
    return usable


def case_item(case: str, folder: str = "Tr", domain: str = "") -> dict[str, str]:
    """Datalist item of ``images<folder>/<case>.nii.gz`` and its label, with ``domain`` unless that is empty."""
    item = {
        DatalistKeys.IMAGE.value: f"images{folder}/{case}.nii.gz",
        DatalistKeys.LABEL.value: f"labels{folder}/{case}.nii.gz",
    }
    return {**item, DatalistKeys.DOMAIN.value: domain} if domain else item


@dataclass(frozen=True)
class Sections:
    """Case ids of one datalist, named as :py:func:`datalist` names its items."""

    training: Sequence[str]
    unlabeled: Sequence[str] = ()
    validation: Sequence[str] = ()
    testing: Sequence[str] = ()


def published_datalists(
    dataset: str,
    labels: Mapping[str, str],
    settings: Mapping[str, Sections],
    items: Mapping[str, Mapping[str, str]],
    **how_made: Any,
) -> dict[str, dict[str, Any]]:
    """
    Datalists of a published split, of the cases that are there.

    Args:
        dataset: name of the data set.
        labels: label value, as text, to its name.
        settings: suffix of a datalist to its cases.
        items: case id to item, of the usable cases; the others are left out.
        how_made: further keys at the head of each file.

    Returns:
        File name to content. Settings without any labeled case are named and left out.
    """
    datalists = {}
    for suffix, sections in settings.items():
        name = f"datalist_{suffix}.json"
        usable = {
            section: [items[case] for case in cases if case in items] for section, cases in vars(sections).items()
        }
        if not usable[DatalistKeys.TRAINING]:
            print(f"{name} was not written: none of its {len(sections.training)} labeled cases was found.")
            continue
        datalists[name] = datalist(labels, name=f"{dataset}_{suffix}", **how_made, **usable)
    return datalists


def _with_boxes(content: Mapping[str, Any], boxes: Mapping[str, list[list[int]]]) -> dict[str, Any]:
    """A datalist whose items have the box of their image; an item that has one keeps its own."""
    key = DatalistKeys.PUBLISHED_BOX.value
    sections = (DatalistKeys.TRAINING, DatalistKeys.UNLABELED, DatalistKeys.VALIDATION, DatalistKeys.TESTING)
    return {
        **content,
        **{
            section.value: [{**item, key: item.get(key, boxes[item[DatalistKeys.IMAGE]])} for item in content[section]]
            for section in sections
        },
    }


def _add_boxes(output: Path, datalists: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """
    ``datalists`` with the boxes that ``entries`` of the manifest give, if any.

    Raises:
        InputError: if one exists, which has the same split, with other boxes.
    """
    key = DatalistKeys.PUBLISHED_BOX
    boxes = {entry[DatalistKeys.IMAGE]: entry[key] for entry in entries if key in entry}
    if not boxes:
        return datalists
    boxed = {name: _with_boxes(content, boxes) for name, content in datalists.items()}
    existing = {name: read_json(output / name, "a datalist") for name in boxed if (output / name).exists()}
    for name, found in existing.items():
        if _with_boxes(found, boxes) != boxed[name]:
            raise InputError(
                f"{output / name}: already exists with a different `{key}` than that of the labels in {output}, and an "
                "existing datalist is never overwritten; move it or choose another output folder."
            )
    if older := [name for name, found in existing.items() if found != boxed[name]]:
        print(f"{', '.join(older)}: the split is unchanged; `{key}` was added to the items that lacked it.")
    return boxed


def name_cases(title: str, cases: Iterable[str]) -> None:
    """Print ``title``, the number of ``cases`` and every one of them; nothing when there are none."""
    if listed := sorted(cases):
        print(f"{title} ({len(listed)}): {', '.join(listed)}")


def work_on_all(cases: Iterable[str], work: Callable[[str], Any], doing: str) -> list[Any]:
    """
    What ``work`` returns for every case; a case it refuses does not keep the others waiting.

    Args:
        cases: case ids.
        work: called with each of them.
        doing: what it does, for the progress bar.

    Raises:
        InputError: at the end, with everything that was refused.
    """
    done, complaints = [], []
    for case in tqdm(list(cases), desc=doing, unit="case"):
        try:
            done.append(work(case))
        except InputError as error:
            complaints.append(str(error))
    if complaints:
        advice = "Download them again or delete them: cases without a file are excluded."
        raise InputError(
            "\n".join(
                [
                    f"{number_of(len(complaints), 'case')} cannot be used, so no datalist was written:",
                    *complaints,
                    advice,
                ]
            )
        )
    return done


def write_lists(output: Path, datalists: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Write ``manifest.json`` and the datalists (file name to content) and say so."""
    write_json(output / "manifest.json", manifest)
    for name, content in datalists.items():
        write_json(output / name, content)
    print(f"Wrote {', '.join(datalists)} and manifest.json to {output}.")


def prepare_all(
    output: Path,
    datalists: Mapping[str, Any],
    cases: Sequence[str],
    work: Callable[[str], list[dict[str, Any]]],
    *,
    verb: str,
    dry_run: bool,
    **how_made: Any,
) -> Path | None:
    """
    The common end of the commands with a published split: prepare every case, then write the lists.

    Args:
        output: folder to write to.
        datalists: file name to content, without boxes.
        cases: ids of the cases that are there.
        work: puts a case's files into ``output``, unless they are there; returns its entries in the manifest, whose
            ``published_box``, if they have one, goes into the items with the same ``image``.
        verb: what ``work`` does.
        dry_run: say what would be done, but do nothing.
        how_made: further keys at the head of the manifest.

    Returns:
        ``output``, ``None`` with ``dry_run``.

    Raises:
        InputError: if there is no datalist to write, or one exists with another split, both before anything is written;
            or, after the cases were prepared, if one is broken or an existing list has other boxes.
    """
    if not datalists:
        raise InputError("expected at least one of the published labeled cases, got none; no datalist was written.")
    refuse_changed_datalists(output, datalists)
    if dry_run:
        print(
            f"Dry run: would {verb} {number_of(len(cases), 'case')}, if not done yet, and write {', '.join(datalists)} "
            f"to {output}."
        )
        return None
    entries = [entry for group in work_on_all(cases, work, verb) for entry in group]
    # boxes come from the labels, which may not even be there before
    write_lists(output, _add_boxes(output, datalists, entries), {**how_made, "cases": entries})
    return output
