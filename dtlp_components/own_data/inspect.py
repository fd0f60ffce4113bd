# SPDX-License-Identifier: Apache-2.0
"""Reading every scan, and describing what was read."""

# MONAI's DataAnalyzer (monai.apps.auto3dseg) is not used: it stops at the first broken file, where a user needs the
# list of all, and describes axes as they are stored, where spacing and patch size are given in RAS.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from tqdm import tqdm

from ..data.volumes import (
    PROGRESS_FROM,
    Volume,
    describe_volume,
    image_problems,
    label_problems,
    pair_problems,
    read_volume,
)
from ..transforms.intensity import border_median
from .find import Scan

__all__ = ["ScanFacts", "inspect_scans"]

_PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLE = 1_000_000  # voxels that percentiles are taken from, evenly spaced
_FOREGROUND_SAMPLE = 20_000  # of every labeled scan, so that each counts alike


@dataclass(frozen=True)
class ScanFacts:
    """
    What decisions need to know of a scan; sizes are along the patient's x, y, z (axes of the voxel grid nearest to RAS).

    Attributes:
        shape: voxels.
        spacing_mm: of the voxels.
        orientation: as stored, such as ``LPS``.
        whole: whether every intensity is a whole number.
        minimum: of the intensities.
        percentiles: 0.5th, 50th and 99.5th.
        maximum: of the intensities.
        border: median of the outermost voxels.
        checksum: of the voxels.
        label_counts: voxels by label value; ``None`` without a label.
        foreground: intensities under labels above 0, at most 20 000 of them.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    whole: bool
    minimum: float
    percentiles: tuple[float, float, float]
    maximum: float
    border: float
    checksum: str
    label_counts: dict[int, int] | None
    foreground: np.ndarray

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing_mm)) / 1000


def inspect_scans(
    scans: Sequence[Scan], frame: int | None, with_labels: bool, title: str
) -> tuple[list[tuple[Scan, ScanFacts]], dict[str, list[str]]]:
    """
    Read every scan to its last byte.

    Args:
        scans: what to read.
        frame: number, from 0, of the volume to take from 4-D files.
        with_labels: whether to open the labels.
        title: of the progress bar.

    Returns:
        The scans that can be used with what was read, and for every other one, by its image, one sentence per problem.

    Raises:
        InputError: if a package that reads the files is missing.
    """
    good, broken = [], {}
    for scan in tqdm(scans, desc=title, unit="scan", disable=len(scans) <= PROGRESS_FROM):
        facts, problems = _inspect(scan, frame, with_labels)
        if facts is None or problems:
            broken[scan.image] = problems
        else:
            good.append((scan, facts))
    return good, broken


def _inspect(scan: Scan, frame: int | None, with_labels: bool) -> tuple[ScanFacts | None, list[str]]:
    problems: list[str] = []
    image = _read(scan.image, frame, problems)
    label = _read(scan.label, frame, problems) if scan.label is not None and with_labels else None
    if image is None or problems:
        return None, problems
    voxels, described = image
    affine = np.asarray(described.affine)
    problems += image_problems(scan.image, described)
    counts, foreground = None, np.empty(0, np.float32)
    if label is not None and scan.label is not None:
        problems += label_problems(scan.label, label[1])
        problems += pair_problems(scan.image, described, scan.label, label[1])
    if problems:
        return None, problems
    if label is not None:
        labels = label[0]
        values, numbers = np.unique(labels, return_counts=True)
        counts = {int(value): int(number) for value, number in zip(values, numbers)}
        foreground = _sample(voxels[labels > 0], _FOREGROUND_SAMPLE)
    sizes = nib.affines.voxel_sizes(affine)

    # RAS: which stored axis is nearest to the patient's x, y, z
    axes = np.argsort(nib.orientations.io_orientation(affine)[:, 0])
    low, median, high = (float(x) for x in np.percentile(_sample(voxels, _SAMPLE), _PERCENTILES))
    x, y, z = (int(axis) for axis in axes)
    facts = ScanFacts(
        shape=(voxels.shape[x], voxels.shape[y], voxels.shape[z]),
        spacing_mm=(float(sizes[x]), float(sizes[y]), float(sizes[z])),
        orientation="".join(map(str, nib.orientations.aff2axcodes(affine))),
        whole=described.whole,
        minimum=described.minimum,
        percentiles=(low, median, high),
        maximum=described.maximum,
        border=border_median(voxels),
        checksum=hashlib.sha256(f"{voxels.shape}".encode() + voxels.tobytes()).hexdigest(),
        label_counts=counts,
        foreground=foreground,
    )
    return facts, []


def _read(path: str, frame: int | None, problems: list[str]) -> tuple[np.ndarray, Volume] | None:
    """
    Voxels ``(x, y, z)`` float32, of one volume of a 4-D file if ``frame`` says which, and their description; sentences are
    added to ``problems`` if there is no such thing.
    """
    voxels, described, found = read_volume(path)
    problems += found
    if voxels is None or described is None:
        return None
    if voxels.ndim == 4:
        frames = voxels.shape[3]
        if frame is None:
            (sentence,) = (p for p in image_problems(path, described) if "4-D" in p)
            problems.append(f"{sentence} --frame 0 to --frame {frames - 1} takes one of them.")
            return None
        if not 0 <= frame < frames:
            problems.append(
                f"{path}: expected more than --frame {frame}, which counts from 0, got {frames} volumes (4-D)."
            )
            return None
        voxels = voxels[..., frame]
        described = describe_volume(voxels, np.asarray(described.affine))
    return np.ascontiguousarray(voxels, dtype=np.float32), described


def _sample(values: np.ndarray, most: int) -> np.ndarray:
    flat = values.ravel()
    return flat[:: -(-len(flat) // most)] if len(flat) > most else flat
