# SPDX-License-Identifier: Apache-2.0
"""The volumes of a datalist, judged before a start; what was read of them is kept for the next one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from ..data.series import scan_stamp
from ..data.volumes import PROGRESS_FROM, Volume, image_problems, label_problems, pair_problems, read_volume
from ..files import write_text
from ..keys import DatalistKeys

__all__ = ["list_volume_problems"]


def list_volume_problems(
    pairs: Sequence[Mapping[str, str]], images: Sequence[str], num_classes: int, cache_file: str | None = None
) -> tuple[dict[str, Volume], list[str]]:
    """
    Read and judge all volumes of a datalist, each file once.

    Args:
        pairs: items with an ``image`` and, maybe, its ``label``.
        images: of unlabeled items.
        num_classes: labels must be 0 to one less.
        cache_file: JSON file that keeps what was read, by path, size and time of change; none if ``None``.

    Returns:
        Volumes by path, and one sentence per problem.
    """
    labels = {item[DatalistKeys.LABEL]: None for item in pairs if DatalistKeys.LABEL in item}
    with_label = (item[key] for item in pairs for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL) if key in item)
    paths = list(dict.fromkeys([*with_label, *images]))
    volumes, problems = _read_all(paths, labels, cache_file)
    for path in paths:
        if path in volumes and path not in labels:
            problems += image_problems(path, volumes[path])
        elif path in volumes:
            problems += label_problems(path, volumes[path], range(num_classes), f" --num_classes is {num_classes}.")
    for item in pairs:
        image, label = (volumes.get(item.get(key, "")) for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL))
        if image is not None and label is not None:
            problems += pair_problems(item[DatalistKeys.IMAGE], image, item[DatalistKeys.LABEL], label)
    return volumes, problems


def _read_all(
    paths: Sequence[str], labels: Mapping[str, None], cache_file: str | None
) -> tuple[dict[str, Volume], list[str]]:
    """Volumes by path, from the cache where it is current, and a message per file that cannot be read."""
    cache = _load_cache(cache_file)
    volumes, problems, unread = {}, [], []
    for path in paths:
        volume = _from_cache(cache, path)
        if volume is None or (path in labels and volume.finite and volume.values is None):  # was read as an image
            unread.append(path)
        else:
            volumes[path] = volume
    for path in tqdm(unread, desc="checking the data", unit="file", disable=len(unread) <= PROGRESS_FROM):
        # before reading: a file that changes meanwhile is read again next time
        stamp = scan_stamp(path)
        found, file_problems = read_volume(path, is_label=path in labels)
        problems += file_problems
        if found is not None:
            _, volumes[path] = found
            cache[path] = {**stamp, "volume": asdict(volumes[path])}
    if cache_file and unread:
        with contextlib.suppress(OSError):  # only a convenience; whoever needs the folder will complain
            write_text(cache_file, json.dumps(cache))
    return volumes, problems


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
        return Volume(**entry["volume"]) if {k: entry[k] for k in ("size", "mtime_ns")} == scan_stamp(path) else None
    except (KeyError, TypeError):  # unknown, or written by another version
        return None
