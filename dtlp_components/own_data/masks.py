# SPDX-License-Identifier: Apache-2.0
"""A folder of masks, one for each structure, as TotalSegmentator and many tools write them, read as a label map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data.nifti import nifti_files, without_suffix
from ..data.volumes import Volume, describe_volume, pair_problems, read_volume
from ..errors import InputError
from ..keys import DatalistKeys
from .find import Scan

__all__ = ["read_masks", "with_masks"]


def _structures(scans: Iterable[Scan]) -> list[str]:
    """Names of the masks of all scans whose label is a folder, in the order of the alphabet."""
    return sorted({name for scan in scans if _has_masks(scan) for name in _masks(Path(str(scan.label)))})


def with_masks(
    scans: Mapping[DatalistKeys, Sequence[Scan]], given: Mapping[int, str]
) -> tuple[dict[DatalistKeys, list[Scan]], tuple[str, ...], dict[int, str]]:
    """
    Say of each scan with a folder of masks which structures it has, if not all.

    Args:
        scans: of every section.
        given: names of the classes, if the user has chosen some of the structures.

    Returns:
        The scans, the structures in the order of their classes (none if there are no masks), and names of the classes.

    Raises:
        InputError: if a class has no mask in any labeled scan.
    """
    found = _structures(
        [scan for section, items in scans.items() if section != DatalistKeys.UNLABELED for scan in items]
    )
    if not found:
        return {section: list(items) for section, items in scans.items()}, (), dict(given)
    names = {value: name for value, name in given.items() if value} or dict(enumerate(found, start=1))
    if missing := [name for name in names.values() if name not in found]:
        raise InputError(
            f"--labels: expected names of masks ({', '.join(found[:20])}), got {missing[0]}, which no scan has."
        )
    structures = tuple(names[value] for value in sorted(names))

    def told(scan: Scan) -> Scan:
        if not _has_masks(scan):
            return scan
        masks = _masks(Path(str(scan.label)))
        drawn = tuple(name for name in structures if name in masks)
        return scan if len(drawn) == len(structures) else replace(scan, drawn=drawn)

    return (
        {section: [told(scan) for scan in items] for section, items in scans.items()},
        structures,
        {0: "background", **dict(enumerate(structures, start=1))},
    )


def _has_masks(scan: Scan) -> bool:
    return bool(scan.label) and Path(str(scan.label)).is_dir()


def read_masks(folder: str, structures: Sequence[str]) -> tuple[tuple[np.ndarray, Volume] | None, list[str]]:
    """
    The label map that masks make: 1 where the mask of the first structure is above 0, 2 for the second, …

    Args:
        folder: of the masks.
        structures: names of those that count; a scan need not have all.

    Returns:
        Voxels ``(x, y, z)`` float32 and their description, or ``None``, and what is wrong, one sentence each.
    """
    masks, first = _masks(Path(folder)), ""
    voxels: np.ndarray | None = None
    grid: Volume | None = None
    for value, name in enumerate(structures, start=1):
        if name not in masks:
            continue
        file = str(masks[name])
        found, problems = read_volume(file, is_label=True)
        if found is None:
            return None, problems
        mask, described = found
        if voxels is None or grid is None:
            voxels, grid, first = np.zeros(mask.shape, np.float32), described, file
        elif list(pair_problems(first, grid, file, described)):
            return None, [
                f"{file}: expected the grid of the other masks of this scan, such as {first} (shape {grid.shape}), got "
                f"another one (shape {described.shape}). Resample it by nearest neighbor."
            ]
        inside = mask > 0
        if twice := int((voxels[inside] > 0).sum()):
            other = structures[int(voxels[inside].max()) - 1]
            return None, [
                f"{file}: expected each voxel in only one mask, got {twice} voxels that are also in another (such as "
                f"{other}). Merge the masks into a label map that decides which one wins."
            ]
        voxels[inside] = value
    if voxels is None or grid is None:
        return None, [f"{folder}: expected at least one mask of {', '.join(structures[:5])}, got none."]
    return (voxels, describe_volume(voxels, np.asarray(grid.affine), is_label=True)), []


def _masks(folder: Path) -> dict[str, Path]:
    return {without_suffix(file.name): file for file in nifti_files(folder)}
