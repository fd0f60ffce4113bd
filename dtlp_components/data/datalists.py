# SPDX-License-Identifier: Apache-2.0
"""Datalists: which scans are labeled, unlabeled, for validation or for testing, and where their files are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json
from ..keys import DatalistKeys
from .review import read_review

__all__ = [
    "SCORED_SECTIONS",
    "datalist",
    "load_datalist",
    "refuse_changed_datalists",
    "scored_section",
    "section_items",
    "section_sizes",
]

SCORED_SECTIONS = (DatalistKeys.TESTING, DatalistKeys.VALIDATION)

_TEXTS = (DatalistKeys.DOMAIN, DatalistKeys.PATIENT)


def load_datalist(
    datalist: str, section: str, dataset_dir: str, limit: int | None = None, hint: str = "", review: str | None = None
) -> list[dict[str, Any]]:
    """
    Read one section of a datalist, a JSON file of this form::

        {"training": [{"image": "a.nii.gz", "label": "a_seg.nii.gz", "domain": "scanner 1"}, ...], "unlabeled": [...]}

    ``label``, ``labels`` (names of the classes that were drawn, if not all were), ``domain``, ``patient`` and
    ``published_box`` (``[[x0, x1], [y0, y1], [z0, z1]]``, voxels of the image file, end excluded) are optional; other
    keys of the file and of its items are ignored. MONAI's ``load_decathlon_datalist`` is not used since it takes every
    value that happens to be a path for one.

    Args:
        datalist: path of the JSON file.
        section: name of the list in it, see :py:class:`dtlp_components.keys.DatalistKeys`.
        dataset_dir: folder that relative paths start from. They may not lead out of it; absolute paths may be anywhere.
        limit: take at most this many items, the first ones; all if None.
        hint: added to the message when the file does not exist, e.g. the command that prepares the data.
        review: table of verdicts on scans of ``unlabeled`` (:py:func:`dtlp_components.data.review.read_review`), which
            changes that section and ``training``; none if empty.

    Returns:
        One dict per item with ``image``, ``label`` if the item has one, ``labels``, ``domain``, ``patient`` and
        ``published_box`` likewise.
        Paths are absolute and need not exist. Empty if the file has no such section. Items of ``unlabeled`` never have
        a label, even if the file names one: nobody may open it by mistake.

    Raises:
        InputError: if the file is missing, is not JSON or is not of the form above, or `limit` is no count.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise InputError(f"number of items to take from a datalist: expected None or at least 0, got {limit!r}.")
    content = _read(datalist, hint)

    def read(section: str, limit: int | None = None) -> list[dict[str, Any]]:
        return section_items(content, section, datalist, dataset_dir, limit)

    if review and section == DatalistKeys.UNLABELED:
        return read_review(review).unlabeled(read(section))[:limit]
    if review and section == DatalistKeys.TRAINING:
        return read_review(review).training(read(section), read(DatalistKeys.UNLABELED.value))[:limit]
    return read(section, limit)


def section_items(
    content: Any, section: str, datalist: str, dataset_dir: str, limit: int | None = None
) -> list[dict[str, Any]]:
    """As :py:func:`load_datalist`, of a file that has been read."""
    if not isinstance(content, dict):
        raise InputError(f"{datalist}: expected an object with a list of scans per section, got {_kind(content)}.")
    items, root = content.get(section, []), os.path.abspath(dataset_dir)
    if not isinstance(items, list):
        raise InputError(f"{datalist}: section `{section}`: expected a list of items, got {_kind(items)}.")
    return [
        _read_item(item, f"{datalist}: `{section}`, item {i} (counted from 0)", section, root)
        for i, item in enumerate(items[:limit])
    ]


def section_sizes(datalist: str) -> dict[str, int]:
    """
    Number of items by section, for those that have any.

    Raises:
        InputError: if the file is missing or is not JSON.
    """
    content = _read(datalist, "")
    lists = {name: items for name, items in content.items() if isinstance(items, list)}
    # a list of label names is no section
    return {name: len(items) for name, items in lists.items() if items and isinstance(items[0], Mapping)}


def scored_section(datalist: str) -> str:
    """
    The first of ``SCORED_SECTIONS`` that has items, empty if none has: scans whose labels were not trained on.

    Raises:
        InputError: see :py:func:`section_sizes`.
    """
    sizes = section_sizes(datalist)
    return next((section.value for section in SCORED_SECTIONS if sizes.get(section.value)), "")


def _read(path: str, hint: str) -> Any:
    if not os.path.exists(path):
        how = f" To create it: {hint}" if hint else ""
        raise InputError(
            f"datalist not found: {os.path.abspath(path)}. If it is elsewhere, add --dataset_dir DIR or --datalist "
            f"FILE.{how}"
        )
    return read_json(os.path.abspath(path), "a datalist")


def _read_item(item: Any, where: str, section: str, dataset_dir: str) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise InputError(f'{where}: expected an object like {{"image": path}}, got {_kind(item)}.')
    if DatalistKeys.IMAGE not in item:
        raise InputError(f"{where}: expected an `image`, got only {sorted(item)}.")
    found: dict[str, Any] = {}
    for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL, *_TEXTS):
        if key not in item or (key == DatalistKeys.LABEL and section == DatalistKeys.UNLABELED):
            continue
        value = item[key]
        if key == DatalistKeys.IMAGE and isinstance(value, list):
            raise InputError(
                f"{where}: expected a single path as `{key}`, got a list. Files of several channels are recognized by "
                "the endings of their names: `dtlp new --labeled FILE.json` creates a bundle from such a list."
            )
        if not isinstance(value, str) or not value:
            raise InputError(f"{where}: expected a nonempty string as `{key}`, got {_kind(value)}.")
        found[str(key)] = value if key in _TEXTS else _resolve(value, f"{where}: `{key}`", dataset_dir)
    if DatalistKeys.LABELS in item and section != DatalistKeys.UNLABELED:
        found[str(DatalistKeys.LABELS)] = _drawn(item[DatalistKeys.LABELS], where)
    key = DatalistKeys.PUBLISHED_BOX
    if key in item:
        if not _is_box(item[key]):
            raise InputError(
                f"{where}: `{key}`: expected three pairs of integers, 0 <= start < end, got {_kind(item[key])}."
            )
        found[str(key)] = item[key]
    return found


def _drawn(names: Any, where: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(
            f"{where}: `{DatalistKeys.LABELS}`: expected a list with the names of the annotated classes, got "
            f"{_kind(names)}."
        )
    return tuple(names)


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        # not isinstance, for which true and false are whole numbers
        and all(type(number) is int for pair in value for number in pair)
        and all(0 <= start < end for start, end in value)
    )


def _resolve(path: str, where: str, dataset_dir: str) -> str:
    try:
        is_path = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a pair of surrogates
        is_path = False
    if not is_path:
        raise InputError(f"{where}: {path!r} is not a valid file name.")
    resolved = os.path.normpath(os.path.join(dataset_dir, path))
    # links are not followed: data sets are often folders of links to where the scans are
    if not os.path.isabs(path) and os.path.commonpath([dataset_dir, resolved]) != dataset_dir:
        raise InputError(f"{where}: expected a path inside the dataset folder {dataset_dir}, got {path!r}.")
    return resolved


def _kind(value: Any) -> str:
    """The JSON name of a value's type and the start of the value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    text = json.dumps(value)
    return f"{names.get(type(value), 'null')} ({text if len(text) <= 40 else text[:37] + '...'})"


def datalist(
    labels: Mapping[str, str],
    *,
    training: Iterable[Mapping[str, Any]],
    unlabeled: Iterable[Mapping[str, Any]] = (),
    validation: Iterable[Mapping[str, Any]] = (),
    testing: Iterable[Mapping[str, Any]] = (),
    **how_made: Any,
) -> dict[str, Any]:
    """
    Content of a datalist file.

    Args:
        labels: label value, as text, to its name.
        training: labeled items ``{"image": path, "label": path, "domain": name}``, paths relative to the datalist.
        unlabeled: items of which everything but ``image``, ``domain``, ``patient`` and ``published_box`` is left out.
        validation: labeled items.
        testing: labeled items.
        how_made: further keys at the head of the file, such as ``name`` and ``seed``.
    """
    shown = (DatalistKeys.IMAGE, *_TEXTS, DatalistKeys.PUBLISHED_BOX)
    return {
        **how_made,
        "labels": dict(labels),
        DatalistKeys.TRAINING.value: [dict(item) for item in training],
        DatalistKeys.UNLABELED.value: [{key.value: item[key] for key in shown if key in item} for item in unlabeled],
        DatalistKeys.VALIDATION.value: [dict(item) for item in validation],
        DatalistKeys.TESTING.value: [dict(item) for item in testing],
    }


def refuse_changed_datalists(output: Path, datalists: Mapping[str, Any]) -> None:
    """
    Make sure that writing ``datalists`` changes no split somebody may already have trained on.

    Args:
        output: folder of the datalists.
        datalists: file name to content, without boxes.

    Raises:
        InputError: if one of the files exists with another content, whatever its boxes.
    """
    for name, content in datalists.items():
        path = output / name
        if path.exists() and _without_boxes(read_json(path, "a datalist")) != content:
            raise InputError(
                f"{path}: already exists with a different split (other cases, seed or counts), and an existing split "
                "is never overwritten; move the file or choose another output folder."
            )


def _without_boxes(content: Any) -> Any:
    """Parsed JSON without any ``published_box``, at any depth."""
    if isinstance(content, dict):
        return {key: _without_boxes(value) for key, value in content.items() if key != DatalistKeys.PUBLISHED_BOX}
    return [_without_boxes(value) for value in content] if isinstance(content, list) else content
