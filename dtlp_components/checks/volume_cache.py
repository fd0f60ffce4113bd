# SPDX-License-Identifier: Apache-2.0
"""What was read of files, kept from one start to the next."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ..data.volumes import Volume

__all__ = ["from_cache", "load_cache", "stamp_of"]


def stamp_of(path: str) -> dict[str, int]:
    # a folder's own time does not change with the files in it
    files = [path, *os.scandir(path)] if os.path.isdir(path) else [path]
    states = [os.stat(file) for file in files]
    return {"size": sum(s.st_size for s in states), "mtime_ns": max(s.st_mtime_ns for s in states)}


def load_cache(cache_file: str | None) -> dict[str, Any]:
    try:
        with open(cache_file or "", encoding="utf-8") as file:
            cache = json.load(file)
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


def from_cache(cache: Mapping[str, Any], path: str) -> Volume | None:
    try:
        entry = cache[path]
        return Volume(**entry["volume"]) if {k: entry[k] for k in ("size", "mtime_ns")} == stamp_of(path) else None
    except (KeyError, TypeError):  # unknown, or written by another version
        return None
