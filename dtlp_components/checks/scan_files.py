# SPDX-License-Identifier: Apache-2.0
"""The volumes of a datalist, judged before a start; what was read of them is kept for the next one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from ..data.resources import in_threads, usable_cores
from ..data.series import scan_stamp
from ..data.volumes import PROGRESS_FROM, Volume, image_problems, label_problems, pair_problems, read_volume
from ..files import write_text
from ..keys import DatalistKeys

__all__ = ["checked_entry", "list_volume_problems"]

SECONDS_BETWEEN_SAVES = 60.0


def list_volume_problems(
    pairs: Sequence[Mapping[str, str]],
    images: Sequence[str],
    num_classes: int,
    cache_file: str | None = None,
    checked_before: str | None = None,
) -> tuple[dict[str, Volume], list[str]]:
    """
    Read and judge all volumes of a datalist, each file once.

    Args:
        pairs: items with an ``image`` and, maybe, its ``label``.
        images: of unlabeled items.
        num_classes: labels must be 0 to one less.
        cache_file: JSON file that keeps what was read, by path, size and time of change; none if ``None``. It is
            written every minute, and when the reading is interrupted.
        checked_before: another such file, which is only read.

    Returns:
        Volumes by path, and one sentence per problem.
    """
    labels = {item[DatalistKeys.LABEL]: None for item in pairs if DatalistKeys.LABEL in item}
    with_label = (item[key] for item in pairs for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL) if key in item)
    paths = list(dict.fromkeys([*with_label, *images]))
    volumes, problems = _read_all(paths, labels, cache_file, checked_before)
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
    paths: Sequence[str], labels: Mapping[str, None], cache_file: str | None, checked_before: str | None
) -> tuple[dict[str, Volume], list[str]]:
    """Volumes by path, from the cache where it is current, and a message per file that cannot be read."""
    known = [_load_cache(checked_before), _load_cache(cache_file)]
    cache = known[1]
    volumes, problems, unread = {}, [], []
    for path in paths:
        found = [volume for volume in (_from_cache(entries, path) for entries in known) if volume is not None]
        # what was read as an image does not tell the values of a label
        usable = [v for v in found if path not in labels or not v.finite or v.values is not None]
        if usable:
            volumes[path] = usable[-1]
        else:
            unread.append(path)

    def read(path: str) -> tuple[str, dict[str, int], Volume | None, list[str]]:
        # before reading: a file that changes meanwhile is read again next time
        stamp = scan_stamp(path)
        found, file_problems = read_volume(path, is_label=path in labels)
        return path, stamp, None if found is None else found[1], file_problems

    saved = time.monotonic()
    results = in_threads(read, unread, usable_cores())
    try:
        for path, stamp, volume, file_problems in tqdm(
            results, total=len(unread), desc="checking the data", unit="file", disable=len(unread) <= PROGRESS_FROM
        ):
            problems += file_problems
            if volume is not None:
                volumes[path] = volume
                cache[path] = checked_entry(stamp, volume)
            if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                _save_cache(cache_file, cache)
                saved = time.monotonic()
    finally:
        if unread:
            _save_cache(cache_file, cache)
    return volumes, problems


def checked_entry(stamp: Mapping[str, int], volume: Volume) -> dict[str, Any]:
    """What the JSON file keeps of a file or series: its stamp when it was read, and what was read."""
    return {**stamp, "volume": asdict(volume)}


def _save_cache(cache_file: str | None, cache: Mapping[str, Any]) -> None:
    if cache_file:
        with contextlib.suppress(OSError):  # only a convenience; whoever needs the folder will complain
            write_text(cache_file, json.dumps(cache))


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
