# SPDX-License-Identifier: Apache-2.0
"""Channels of one scan: files of their own, as nnU-Net keeps ``case_0000`` and ``case_0001``, or a fourth axis."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks.literals import is_literal
from ..data.channel_files import SEPARATORS
from ..data.nifti import without_suffix
from ..errors import InputError

__all__ = [
    "ONE",
    "Channels",
    "channel_ending",
    "channel_names",
    "channel_notes",
    "channels_of_lists",
    "modality_of",
    "numbered_channels",
    "one_channel",
    "read_channels",
]

_CHANNEL = re.compile(r"(.+)_(\d{4})$")
_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR"}


@dataclass(frozen=True)
class Channels:
    """
    How the channels of every scan are kept.

    Attributes:
        count: of channels.
        endings: of the names of their files (:py:mod:`dtlp_components.data.channel_files`); empty if a file holds all.
    """

    count: int = 1
    endings: tuple[str, ...] = ()


ONE = Channels()


def read_channels(text: str) -> Channels | None:
    """
    What ``--channels`` says: endings of files, ``t1,t2,flair``, or how many there are along a fourth axis, ``4``.

    Returns:
        The channels; ``None`` for an empty text.

    Raises:
        InputError: if it is neither.
    """
    words = [word.strip().lstrip(SEPARATORS) for word in text.split(",")] if text else []
    if not words:
        return None
    if len(words) == 1 and words[0].isdecimal() and len(words[0]) < 4:  # nnU-Net's 0000 is an ending
        count = int(words[0])
        if count < 1:
            raise InputError(f"--channels: expected at least 1, got {count}.")
        return Channels(count)
    if not all(words) or len(set(words)) != len(words) or not all(map(is_literal, words)):
        raise InputError(
            "--channels: expected distinct file-name endings, such as t1,t2,flair, or the number of channels along the "
            f"fourth axis, got {text!r}."
        )
    return Channels(len(words), tuple(words))


def channel_notes(channels: Channels) -> list[str]:
    """A sentence if every image has several."""
    if channels.count == 1:
        return []
    where = f"in files ending in {', '.join(channels.endings)}" if channels.endings else "along the fourth axis"
    return [f"Every image has {channels.count} channels, {where}; the table and the pictures show only the first."]


def channel_ending(frame: int | None) -> str:
    """How the name of a scan's image ends in nnU-Net's layout."""
    return f"_{frame or 0:04d}"


def channel_names(content: Mapping[str, Any]) -> list[str]:
    """Names of the channels that a ``dataset.json`` describes; empty if it does not."""
    channels = content.get("channel_names", content.get("modality", {}))
    return [str(name) for name in (channels.values() if isinstance(channels, dict) else channels or ())]


def modality_of(channels: Sequence[str], frame: int | None, count: int = 1) -> str:
    """
    ``CT`` or ``MR`` if the channel's name says so, else an empty text; of several channels that are used, their names.
    """
    if count > 1:
        return ", ".join(name.strip() for name in channels)
    index = frame or 0
    return _MODALITIES.get(channels[index].strip().upper(), "") if index < len(channels) else ""


def numbered_channels(images: Sequence[Path], cases: Collection[str], channels: int) -> dict[str, dict[int, Path]]:
    """
    Files of every scan by the number of their channel; empty if they are not channels.

    Args:
        images: NIfTI files.
        cases: names of the labels, if there are any.
        channels: how many ``dataset.json`` names; 0 if there is none.
    """
    files: dict[str, dict[int, Path]] = {}
    for image in images:
        if match := _CHANNEL.match(without_suffix(image.name)):
            files.setdefault(match[1], {})[int(match[2])] = image
    several = {case: numbered for case, numbered in files.items() if len(numbered) > 1}
    # scans that are merely numbered have one name in front of the number, or no number 0, or labels of such names
    are_channels = len(several) > 1 or channels > 1 or any(case in cases for case in several)
    return files if several and are_channels and all(0 in numbered for numbered in several.values()) else {}


def one_channel(images: Sequence[Path], cases: Collection[str], frame: int, channels: int) -> list[Path]:
    """
    Images without the files of other channels than ``frame``; see :py:func:`numbered_channels`.

    Raises:
        InputError: if a scan lacks the one.
    """
    files = numbered_channels(images, cases, channels)
    several = {case: numbered for case, numbered in files.items() if len(numbered) > 1}
    lacking = [case for case, numbered in several.items() if frame not in numbered]
    if lacking:
        raise InputError(
            f"{several[lacking[0]][0].parent}: --frame {frame}: expected a channel that all {len(several)} scans have, "
            f"but {lacking[0]}_{frame:04d} does not exist."
        )
    others = {path for numbered in several.values() for number, path in numbered.items() if number != frame}
    return [image for image in images if image not in others]


def channels_of_lists(items: Iterable[Any], origin: str) -> Channels | None:
    """
    Channels of a datalist whose items name a file for each, ``"image": ["a_t1.nii.gz", "a_t2.nii.gz"]``.

    Args:
        items: of the section.
        origin: of the items, for a message.

    Returns:
        The channels; ``None`` if no item has a list.

    Raises:
        InputError: if names do not end alike in all items, or a file is not beside the first.
    """
    lists = [item["image"] for item in items if isinstance(item, Mapping) and isinstance(item.get("image"), list)]
    found: Channels | None = None
    for files in lists:
        endings = _endings(files)
        if endings is None or (found is not None and found.endings != endings):
            expected = (
                f"with the endings {', '.join(found.endings)} as in earlier items" if found else "all in one folder"
            )
            raise InputError(
                f"{origin}: expected the channel files of a scan to have names that differ only in their endings, "
                f"{expected} (a_t1.nii.gz, a_t2.nii.gz), got {files}. Symbolic links with such names also work."
            )
        found = Channels(len(endings), endings)
    return found


def _endings(files: Sequence[Any]) -> tuple[str, ...] | None:
    """What follows the common start of names in one folder, from a separator on."""
    if not files or not all(isinstance(file, str) for file in files):
        return None
    if len({str(Path(file).parent) for file in files}) > 1 or len(set(files)) < len(files):
        return None
    stems = [without_suffix(Path(file).name) for file in files]
    start = 0
    while len({stem[: start + 1] for stem in stems}) == 1 and start < min(map(len, stems)):
        start += 1
    while start and stems[0][start - 1] not in SEPARATORS:
        start -= 1
    endings = tuple(stem[start:] for stem in stems)
    return endings if all(endings) and all(map(is_literal, endings)) else None
