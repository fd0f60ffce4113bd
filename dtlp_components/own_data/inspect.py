# SPDX-License-Identifier: Apache-2.0
"""Reading every scan, and describing what was read."""

# MONAI's DataAnalyzer (monai.apps.auto3dseg) is not used: it stops at the first broken file, where a user needs the
# list of all, and describes axes as they are stored, where spacing and patch size are given in RAS.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from tqdm import tqdm

from ..data.dicom import series_problems
from ..data.readers import load_volume
from ..data.volumes import PROGRESS_FROM, Volume, describe_volume, pair_problems
from ..errors import first_line
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
    is_folder = Path(scan.image).is_dir()
    if is_folder and (problems := series_problems(Path(scan.image))):
        return None, problems
    image = _read(scan.image, frame, problems)
    label = _read(scan.label, frame, problems) if scan.label is not None and with_labels else None
    if image is None or problems:
        return None, problems
    voxels, described = image
    affine = np.asarray(described.affine)
    if not described.finite:
        return None, [f"{scan.image}: holds NaN or infinite values."]
    if described.minimum == described.maximum:
        return None, [f"{scan.image}: every voxel is {described.minimum:g}."]
    sizes = nib.affines.voxel_sizes(affine)
    if not np.isfinite(affine).all() or not (sizes > 0).all():
        return None, [
            f"{scan.image}: found voxels of {sizes.tolist()} mm, expected three positive sizes in its header."
        ]

    counts, foreground = None, np.empty(0, np.float32)
    if label is not None and scan.label is not None:
        labels, label_described = label
        problems += pair_problems(scan.image, described, scan.label, label_described)
        if not label_described.finite or not label_described.integer or label_described.minimum < 0:
            problems.append(f"{scan.label}: a label must hold whole numbers from 0 on.")
        if problems:
            return None, problems
        values, numbers = np.unique(labels, return_counts=True)
        counts = {int(value): int(number) for value, number in zip(values, numbers)}
        foreground = _sample(voxels[labels > 0], _FOREGROUND_SAMPLE)

    # RAS: which stored axis is nearest to the patient's x, y, z
    axes = np.argsort(nib.orientations.io_orientation(affine)[:, 0])
    low, median, high = (float(x) for x in np.percentile(_sample(voxels, _SAMPLE), _PERCENTILES))
    x, y, z = (int(axis) for axis in axes)
    facts = ScanFacts(
        shape=(voxels.shape[x], voxels.shape[y], voxels.shape[z]),
        spacing_mm=(float(sizes[x]), float(sizes[y]), float(sizes[z])),
        orientation="".join(map(str, nib.orientations.aff2axcodes(affine))),
        whole=described.integer,
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
    """Voxels ``(x, y, z)`` and their description; a sentence is added to ``problems`` if there is no such thing."""
    if not Path(path).exists():
        problems.append(f"{path}: no such file.")
        return None
    try:
        volume = load_volume(path)
    except Exception as e:  # noqa: BLE001 - readers raise whatever the damage happens to trigger
        problems.append(f"{path}: truncated, damaged or no image ({type(e).__name__}: {first_line(e)}).")
        return None
    if volume.ndim != 4:
        problems.append(f"{path}: found shape {list(volume.shape[1:])}, expected three axes.")
        return None
    frames = volume.shape[0]
    if frames > 1 and frame is None:
        problems.append(
            f"{path}: found {frames} volumes of {list(volume.shape[1:])} voxels (4-D), expected one; --frame 0 to "
            f"--frame {frames - 1} takes one of them."
        )
        return None
    if frames > 1 and frame is not None:
        if not 0 <= frame < frames:
            problems.append(
                f"{path}: found {frames} volumes (4-D), expected more than --frame {frame}, which counts from 0."
            )
            return None
        volume = MetaTensor(volume.as_tensor()[frame : frame + 1], affine=volume.affine)
    return np.ascontiguousarray(volume.as_tensor().numpy()[0]), describe_volume(volume)


def _sample(values: np.ndarray, most: int) -> np.ndarray:
    flat = values.ravel()
    return flat[:: -(-len(flat) // most)] if len(flat) > most else flat
