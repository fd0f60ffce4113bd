# SPDX-License-Identifier: Apache-2.0
"""The volumes of a datalist, judged before a start; what was read of them is kept for the next one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from tqdm import tqdm

from ..data.partial_labels import undrawn_problems
from ..data.resources import in_threads, usable_cores
from ..data.series import scan_stamp
from ..data.volumes import PROGRESS_FROM, Volume, image_problems, label_problems, pair_problems, read_image, read_volume
from ..files import write_text
from ..keys import DatalistKeys

__all__ = ["checked_entry", "list_volume_problems"]

SECONDS_BETWEEN_SAVES = 60.0


def list_volume_problems(
    pairs: Sequence[Mapping[str, Any]],
    images: Sequence[str],
    label_names: Sequence[str],
    cache_file: str | None = None,
    checked_before: str | None = None,
    in_channels: int = 1,
    channels: Sequence[str] = (),
    ignore_label: int | None = None,
    fill_missing: bool = False,
) -> tuple[dict[str, Volume], list[str]]:
    """
    Read and judge all volumes of a datalist, each file once.

    Args:
        pairs: items with an ``image`` and, maybe, its ``label``.
        images: of unlabeled items.
        label_names: of the classes, by value.
        cache_file: JSON file that keeps what was read, by path, size and time of change; none if ``None``. It is
            written every minute, and when the reading is interrupted.
        checked_before: another such file, which is only read.
        in_channels: that images must have.
        channels: endings of their files, see :py:class:`dtlp_components.ScanReader`.
        ignore_label: a further value that labels may have.
        fill_missing: whether a scan may lack channels.

    Returns:
        Volumes by path, and one sentence per problem.
    """
    labels = {item[DatalistKeys.LABEL]: None for item in pairs if DatalistKeys.LABEL in item}
    with_label = (item[key] for item in pairs for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL) if key in item)
    paths = list(dict.fromkeys([*with_label, *images]))
    kind = _Kind(labels, in_channels, channels, fill_missing)
    volumes, problems = _read_all(paths, kind, cache_file, checked_before)
    for path in paths:
        if path in volumes and path not in labels:
            problems += image_problems(path, volumes[path])
        elif path in volumes:
            values = [*range(len(label_names)), *([] if ignore_label is None else [ignore_label])]
            problems += label_problems(path, volumes[path], values, f" --num_classes is {len(label_names)}.")
    for item in pairs:
        problems += drawn_problems(item, volumes, label_names)
        image, label = (volumes.get(item.get(key, "")) for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL))
        if image is not None and label is not None:
            problems += pair_problems(item[DatalistKeys.IMAGE], image, item[DatalistKeys.LABEL], label)
    return volumes, problems


def drawn_problems(item: Mapping[str, Any], volumes: Mapping[str, Volume], label_names: Sequence[str]) -> Iterator[str]:
    """One sentence if a label has a class that its item's ``labels`` do not name."""
    drawn, label = item.get(DatalistKeys.LABELS), volumes.get(item.get(DatalistKeys.LABEL, ""))
    if drawn is None or label is None:
        return
    found = [label_names[int(value)] for value in label.values or () if 0 < value < len(label_names)]
    yield from undrawn_problems(item[DatalistKeys.LABEL], found, drawn)


class _Kind(NamedTuple):
    """Which paths are labels, and what images have to be."""

    labels: Mapping[str, None]
    in_channels: int
    channels: Sequence[str]
    fill_missing: bool

    def stamp(self, path: str) -> dict[str, int]:
        return scan_stamp(path, () if path in self.labels else self.channels)

    def read(self, path: str) -> tuple[tuple[Any, Volume] | None, list[str]]:
        if path in self.labels or self.in_channels == 1:
            return read_volume(path, is_label=path in self.labels)
        return read_image(path, self.in_channels, self.channels, self.fill_missing)

    def tells(self, path: str, volume: Volume) -> bool:
        """Whether what was read before is enough: what was read as an image does not tell the values of a label."""
        if path in self.labels:
            return not volume.finite or volume.values is not None
        return volume.channels == self.in_channels


def _read_all(
    paths: Sequence[str], kind: _Kind, cache_file: str | None, checked_before: str | None
) -> tuple[dict[str, Volume], list[str]]:
    """Volumes by path, from the cache where it is current, and a message per file that cannot be read."""
    known = [_load_cache(checked_before), _load_cache(cache_file)]
    cache = known[1]
    volumes, problems, unread = {}, [], []
    for path in paths:
        found = [_from_cache(entries, path, kind) for entries in known]
        usable = [volume for volume in found if volume is not None and kind.tells(path, volume)]
        if usable:
            volumes[path] = usable[-1]
        else:
            unread.append(path)

    def read(path: str) -> tuple[str, dict[str, int], Volume | None, list[str]]:
        # before reading: a file that changes meanwhile is read again next time
        stamp = kind.stamp(path)
        found, file_problems = kind.read(path)
        return path, stamp, None if found is None else found[1], file_problems

    saved = time.monotonic()
    results = in_threads(read, unread, usable_cores())
    try:
        for path, stamp, volume, file_problems in tqdm(
            results, total=len(unread), desc="checking data", unit="file", disable=len(unread) <= PROGRESS_FROM
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


def _from_cache(cache: Mapping[str, Any], path: str, kind: _Kind) -> Volume | None:
    try:
        entry = cache[path]
        return Volume(**entry["volume"]) if {k: entry[k] for k in ("size", "mtime_ns")} == kind.stamp(path) else None
    except (KeyError, TypeError):  # unknown, or written by another version
        return None
