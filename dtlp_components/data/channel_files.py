# SPDX-License-Identifier: Apache-2.0
"""Scans of several channels, each in a file of its own: a scan is named by the file of its first channel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .nifti import is_nifti, without_suffix

__all__ = ["channel_files", "first_channels", "scan_of", "shown_channel", "split_channel"]

SEPARATORS = "-_. "


def split_channel(name: str, channels: Sequence[str]) -> tuple[str, str] | None:
    """
    A file's name without the channel at its end, and the channel; ``None`` if it ends in none of them.

    Args:
        name: of a NIfTI file, or its stem.
        channels: endings without what stands before them: ``t1`` is the end of ``case_t1`` and of ``case-t1``, and may
            be the whole name, but is not the end of ``case_nott1``.

    Example:
        >>> split_channel("BraTS-001-t1c.nii.gz", ["t1c", "t2w"])
        ('BraTS-001', 't1c')
        >>> split_channel("ct.nii.gz", ["ct", "pet"])
        ('', 'ct')
    """
    stem = without_suffix(name)
    for channel in channels:
        case = stem.removesuffix(channel)
        if case != stem and (not case or case[-1] in SEPARATORS):
            return case.rstrip(SEPARATORS), channel
    return None


def scan_of(path: str, channels: Sequence[str]) -> str:
    """The file of a scan's first channel, which may not be there, from that of any; any other path as it is."""
    folder, name = os.path.split(path)
    found = split_channel(name, channels) if is_nifti(name) else None
    if found is None:
        return path
    stem = without_suffix(name)
    return os.path.join(folder, stem.removesuffix(found[1]) + channels[0] + name[len(stem) :])


def channel_files(path: str, channels: Sequence[str]) -> list[str]:
    """
    Files of all channels of a scan, in their order; the path itself if it does not end in the first of them.

    Example:
        >>> channel_files("images/a_0000.nii.gz", ["0000", "0001"])
        ['images/a_0000.nii.gz', 'images/a_0001.nii.gz']
        >>> channel_files("labels/a.nii.gz", ["0000", "0001"])
        ['labels/a.nii.gz']
    """
    folder, name = os.path.split(path)
    found = split_channel(name, channels[:1]) if is_nifti(name) else None
    if found is None:
        return [path]
    stem = without_suffix(name)
    start, end = stem.removesuffix(channels[0]), name[len(stem) :]
    return [os.path.join(folder, start + channel + end) for channel in channels]


def shown_channel(path: str, channels: Sequence[str]) -> str:
    """The file to show of a scan: that of its first channel, or, if the scan lacks it, of the next that is there."""
    return next((file for file in channel_files(path, channels) if os.path.exists(file)), path)


def first_channels(files: Iterable[Path], channels: Sequence[str]) -> list[Path]:
    """Scans that files of channels belong to, each once, named by its first channel; other files are left out."""
    named = (file for file in files if split_channel(file.name, channels))
    return list(dict.fromkeys(Path(scan_of(str(file), channels)) for file in named))
