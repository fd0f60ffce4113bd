# SPDX-License-Identifier: Apache-2.0
"""Files that nnU-Net keeps for the channels of one scan, ``case_0000``, ``case_0001``, …: one of them is the image."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.nifti import without_suffix
from ..errors import InputError

__all__ = ["channel_ending", "channel_names", "modality_of", "one_channel"]

_CHANNEL = re.compile(r"(.+)_(\d{4})$")
_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR"}


def channel_ending(frame: int | None) -> str:
    """How the name of a scan's image ends in nnU-Net's layout."""
    return f"_{frame or 0:04d}"


def channel_names(content: Mapping[str, Any]) -> list[str]:
    """Names of the channels that a ``dataset.json`` describes; empty if it does not."""
    channels = content.get("channel_names", content.get("modality", {}))
    return [str(name) for name in (channels.values() if isinstance(channels, dict) else channels or ())]


def modality_of(channels: Sequence[str], frame: int | None) -> str:
    """``CT`` or ``MR`` if the channel's name says so, else an empty text."""
    index = frame or 0
    return _MODALITIES.get(channels[index].strip().upper(), "") if index < len(channels) else ""


def one_channel(images: Sequence[Path], cases: Collection[str], frame: int | None, channels: int) -> list[Path]:
    """
    Images without the files of other channels.

    Args:
        images: NIfTI files.
        cases: names of the labels, if there are any.
        frame: number of the channel to take; ``None`` if nobody has said.
        channels: how many ``dataset.json`` names; 0 if there is none.

    Raises:
        InputError: if there are several and nobody has said, or a scan lacks the one.
    """
    files: dict[str, dict[int, Path]] = {}
    for image in images:
        if match := _CHANNEL.match(without_suffix(image.name)):
            files.setdefault(match[1], {})[int(match[2])] = image
    several = {case: numbered for case, numbered in files.items() if len(numbered) > 1}
    # scans that are merely numbered have one name in front of the number, or no number 0, or labels of such names
    are_channels = len(several) > 1 or channels > 1 or any(case in cases for case in several)
    if not several or not are_channels or not all(0 in numbered for numbered in several.values()):
        return [*images]
    case, numbered = next(iter(several.items()))
    listed = ", ".join(numbered[number].name for number in sorted(numbered))
    if frame is None:
        raise InputError(
            f"{numbered[0].parent}: found {len(several)} scans in files of several channels ({listed}), expected one "
            f"channel: --frame 0 takes {case}_0000 and the like, --frame 1 {case}_0001."
        )
    lacking = [case for case, numbered in several.items() if frame not in numbered]
    if lacking:
        raise InputError(
            f"{numbered[0].parent}: --frame {frame} takes {lacking[0]}_{frame:04d}, which is not there; expected a "
            f"channel that all {len(several)} scans have."
        )
    others = {path for numbered in several.values() for number, path in numbered.items() if number != frame}
    return [image for image in images if image not in others]
