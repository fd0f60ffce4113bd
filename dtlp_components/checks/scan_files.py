# SPDX-License-Identifier: Apache-2.0
"""Every scan of a run read to its last byte and judged, once: what was found is kept for the next start."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from tqdm import tqdm

from ..data.volumes import PROGRESS_FROM, Volume, image_problems, label_problems, pair_problems, read_volume
from ..files import write_text
from ..keys import DatalistKeys as Keys

__all__ = ["missing_files", "scan_file_problems"]

Items = Sequence[Mapping[str, Any]]


def missing_files(labeled: Items, unlabeled: Items) -> list[str]:
    """One sentence per file that is not there."""
    return [f"{path}: no such file." for path in _paths(labeled, unlabeled) if not os.path.exists(path)]


def scan_file_problems(labeled: Items, unlabeled: Items, num_classes: int, cache_file: str | None) -> list[str]:
    """
    One sentence for everything that is wrong with images and labels, by the rules of :py:mod:`dtlp_components.data.volumes`.

    Args:
        labeled: items ``{"image": path, "label": path}``.
        unlabeled: items of which only ``image`` is opened.
        num_classes: with the background.
        cache_file: JSON file that keeps what was read, by path, size and time of change; none if ``None``.
    """
    volumes, problems = _read_all(_paths(labeled, unlabeled), cache_file)
    images = dict.fromkeys(item[Keys.IMAGE] for item in chain(labeled, unlabeled))
    labels = dict.fromkeys(item[Keys.LABEL] for item in labeled if Keys.LABEL in item)
    for path in images:
        problems += image_problems(path, volumes[path]) if path in volumes else []
    for path in labels:
        problems += label_problems(path, volumes[path], num_classes) if path in volumes else []
    for item in labeled:
        image, label = (volumes.get(item.get(key, "")) for key in (Keys.IMAGE, Keys.LABEL))
        if image is not None and label is not None:
            problems += pair_problems(item[Keys.IMAGE], image, item[Keys.LABEL], label)
    if labels and all(path in volumes and volumes[path].maximum <= 0 for path in labels):
        problems.append(f"none of the {len(labels)} labels has a voxel above 0.")
    return problems


def _paths(labeled: Items, unlabeled: Items) -> list[str]:
    """Every file to read, once, in the order of the lists."""
    with_label = (item[key] for item in labeled for key in (Keys.IMAGE, Keys.LABEL) if key in item)
    return list(dict.fromkeys([*with_label, *(item[Keys.IMAGE] for item in unlabeled)]))


def _read_all(paths: Iterable[str], cache_file: str | None) -> tuple[dict[str, Volume], list[str]]:
    """Volumes by path, from the cache where it is current, and a sentence per file that cannot be read."""
    cache = _load_cache(cache_file)
    volumes, problems, unread = {}, [], []
    for path in paths:
        volume = _from_cache(cache, path)
        if volume is None:
            unread.append(path)
        else:
            volumes[path] = volume
    for path in tqdm(unread, desc="checking the data", unit="file", disable=len(unread) <= PROGRESS_FROM):
        stamp = _stamp(path)  # before reading: a file that changes meanwhile is read again next time
        _, volume, found = read_volume(path)
        if volume is None:
            problems += found
        else:
            volumes[path] = volume
            cache[path] = {**stamp, "volume": asdict(volume)}
    if cache_file and unread:
        with contextlib.suppress(OSError):  # only a convenience; whoever needs the folder will complain
            write_text(cache_file, json.dumps(cache))
    return volumes, problems


def _stamp(path: str) -> dict[str, int]:
    # a folder's own time does not change with the files in it
    files = [path, *os.scandir(path)] if os.path.isdir(path) else [path]
    states = [os.stat(file) for file in files]
    return {"size": sum(s.st_size for s in states), "mtime_ns": max(s.st_mtime_ns for s in states)}


def _load_cache(cache_file: str | None) -> dict[str, Any]:
    try:
        with open(cache_file or "", encoding="utf-8") as file:
            cache = json.load(file)
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _from_cache(cache: Mapping[str, Any], path: str) -> Volume | None:
    try:
        entry = cache[path]
        return Volume(**entry["volume"]) if {k: entry[k] for k in ("size", "mtime_ns")} == _stamp(path) else None
    except (KeyError, TypeError):  # unknown, or written by another version
        return None
