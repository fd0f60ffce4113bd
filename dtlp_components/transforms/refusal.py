# SPDX-License-Identifier: Apache-2.0
"""Refusing a volume from inside a transform, so that the sentence reaches the user."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, NoReturn

from monai.utils import ImageMetaKey
from torch.utils.data import get_worker_info

from ..errors import InputError

__all__ = ["file_of", "refuse"]


def file_of(volume: Any) -> str:
    """Where a loaded volume is from, or the path of one that is not loaded."""
    if isinstance(volume, str):
        return volume
    return str(getattr(volume, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ, "a volume without a file name"))


def refuse(message: str) -> NoReturn:
    """Raise :py:class:`InputError`, which passes MONAI's wrapping, where it reaches the user."""
    # SystemExit ends a thread of CacheDataset's pool, which then waits for ever, and a DataLoader's worker without its
    # text
    in_main_process = threading.current_thread() is threading.main_thread() and get_worker_info() is None
    if in_main_process and not _is_in_event_loop():
        raise InputError(message)
    raise RuntimeError(message)


def _is_in_event_loop() -> bool:
    """Whether a server is running in this thread, such as MONAI Label's: a SystemExit would end it for everybody."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
