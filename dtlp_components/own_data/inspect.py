# SPDX-License-Identifier: Apache-2.0
"""Reading every scan, and describing what was read."""

# MONAI's DataAnalyzer (monai.apps.auto3dseg) is not used: it stops at the first broken file, where a user needs the
# list of all, and describes axes as they are stored, where spacing and patch size are given in RAS.

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from scipy.ndimage import center_of_mass, find_objects
from tqdm import tqdm

from ..checks.scan_files import checked_entry
from ..data.channel_files import channel_files
from ..data.resources import in_threads, usable_cores
from ..data.series import scan_stamp
from ..data.volumes import (
    PROGRESS_FROM,
    Volume,
    describe_volume,
    image_problems,
    label_problems,
    pair_problems,
    read_frames,
    read_image,
    shape_problems,
)
from ..transforms.intensity import border_median, unpadded_minimum
from .channels import ONE, Channels
from .find import Scan
from .masks import read_masks

__all__ = ["Content", "ScanFacts", "inspect_scans"]

_PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLE = 1_000_000  # voxels that percentiles are taken from, evenly spaced
MANY_VALUES = 32
PROFILE = 32  # places along an axis at which brightness is compared
_FOREGROUND_SAMPLE = 20_000  # of every labeled scan, so that each counts alike


@dataclass(frozen=True)
class ScanFacts:
    """
    What decisions need to know of a scan; sizes are along the patient's x, y, z (axes of the voxel grid nearest to
    RAS).

    Attributes:
        shape: voxels.
        spacing_mm: of the voxels.
        orientation: as stored, such as ``LPS``.
        whole: whether every intensity is a whole number.
        minimum: of the intensities, as all that follows of the first of several channels.
        unpadded_minimum: the same, without what a CT may be padded with.
        percentiles: 0.5th, 50th and 99.5th.
        maximum: of the intensities.
        border: median of the outermost voxels.
        checksum: of the voxels.
        label_counts: voxels by label value, without those that nobody labeled; ``None`` without a label.
        foreground: intensities under labels above 0, at most 20 000 of them.
        oriented: whether the file says how the patient lies.
        profiles: mean brightness along the patient's x, y, z, ``(3, 32)``, each with mean 0 and deviation 1.
        centers: of each label above 0, along x, y, z, as a share of the side; empty without a label.
        ignored: voxels that nobody labeled.
        checked: what the checks of a training need to know of the files, by path, so that they need not read them
            again; empty where a part of a file was taken.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    whole: bool
    minimum: float
    unpadded_minimum: float
    percentiles: tuple[float, float, float]
    maximum: float
    border: float
    checksum: str
    label_counts: dict[int, int] | None
    foreground: np.ndarray
    oriented: bool = True
    profiles: np.ndarray = field(default_factory=lambda: np.zeros((3, PROFILE)))
    centers: dict[int, tuple[float, ...]] = field(default_factory=dict)
    ignored: int = 0
    checked: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing_mm)) / 1000


class Content(NamedTuple):
    """
    What is in the files of a scan.

    Attributes:
        frame: number, from 0, of the volume to take from 4-D files; all of them if ``None``.
        channels: of the image.
        ignored: value of a label's voxels that nobody labeled.
        structures: names of masks, where labels are folders of them.
        fill_missing: whether scans may lack channels.
    """

    frame: int | None = None
    channels: Channels = ONE
    ignored: int | None = None
    structures: tuple[str, ...] = ()
    fill_missing: bool = False


def inspect_scans(
    scans: Sequence[Scan], content: Content, with_labels: bool, title: str
) -> tuple[list[tuple[Scan, ScanFacts]], dict[str, list[str]]]:
    """
    Read every scan to its last byte.

    Args:
        scans: what to read.
        content: what is in their files.
        with_labels: whether to open the labels.
        title: of the progress bar.

    Returns:
        The scans that can be used with what was read, and for every other one, by its image, one sentence per problem.

    Raises:
        InputError: if a package that reads the files is missing.
    """
    good, broken = [], {}
    results = in_threads(lambda scan: _inspect(scan, content, with_labels), scans, usable_cores())
    shown = tqdm(results, total=len(scans), desc=title, unit="scan", disable=len(scans) <= PROGRESS_FROM)
    for scan, (facts, problems) in zip(scans, shown, strict=True):
        if facts is None or problems:
            broken[scan.image] = problems
        else:
            good.append((scan, facts))
    return good, broken


def _inspect(scan: Scan, content: Content, with_labels: bool) -> tuple[ScanFacts | None, list[str]]:
    stamps = _stamps(scan, content, with_labels)  # before reading
    frame, channels = content.frame, content.channels
    if channels.count > 1:
        image, problems = read_image(scan.image, channels.count, channels.endings, content.fill_missing)
        if image is None and not all(map(os.path.exists, channel_files(scan.image, channels.endings))):
            problems[-1] += " (--channel_dropout 0.2 trains with scans that lack channels, --channels names fewer.)"
    else:
        image, problems = _read(scan.image, frame)
    if image is not None:
        problems += image_problems(scan.image, image[1])
    label = None
    if scan.label is not None and with_labels:
        is_folder = os.path.isdir(scan.label)
        label, found = read_masks(scan.label, content.structures) if is_folder else _read(scan.label, frame, True)
        problems += found
        if label is not None:
            of_label = [*label_problems(scan.label, label[1])] or [*_image_for_label(scan, image, label)]
            problems += of_label
            if image is not None:
                problems += pair_problems(scan.image, image[1], scan.label, label[1])
    if image is None or problems:
        return None, problems

    voxels, described = image
    if channels.count > 1:
        voxels = np.ascontiguousarray(voxels[..., 0], np.float32)
    affine = np.asarray(described.affine)
    sizes = nib.affines.voxel_sizes(affine)
    counts, foreground, ignored = None, np.empty(0, np.float32), 0
    if label is not None:
        labels, _ = label
        if content.ignored is not None:
            is_open = labels == content.ignored
            ignored, labels = int(is_open.sum()), np.where(is_open, 0, labels)
            label = (labels, label[1])
        values, numbers = np.unique(labels, return_counts=True)
        counts = {int(value): int(number) for value, number in zip(values, numbers, strict=True)}
        counts[0] = counts.get(0, 0) - ignored
        foreground = _sample(voxels[labels > 0], _FOREGROUND_SAMPLE)

    # RAS: which stored axis is nearest to the patient's x, y, z
    orientation = nib.orientations.io_orientation(affine)
    axes = np.argsort(orientation[:, 0])
    centers: dict[int, tuple[float, ...]] = {}
    if label is not None:
        turned = nib.orientations.apply_orientation(label[0].astype(np.int32), orientation)
        # each in the box around it: in the whole volume at once, scipy takes a minute for the organs of a CT
        for value, box in enumerate(find_objects(turned), start=1):
            if box is not None:
                center = center_of_mass(turned[box] == value)
                centers[value] = tuple(
                    float(part.start + c) / side for part, c, side in zip(box, center, turned.shape, strict=True)
                )
    low, median, high = (float(x) for x in np.percentile(_sample(voxels, _SAMPLE), _PERCENTILES))
    x, y, z = (int(axis) for axis in axes)
    facts = ScanFacts(
        shape=(voxels.shape[x], voxels.shape[y], voxels.shape[z]),
        spacing_mm=(float(sizes[x]), float(sizes[y]), float(sizes[z])),
        orientation="".join(map(str, nib.orientations.aff2axcodes(affine))),
        whole=described.integer,
        minimum=described.minimum,
        unpadded_minimum=unpadded_minimum(voxels),
        percentiles=(low, median, high),
        maximum=described.maximum,
        border=border_median(voxels),
        checksum=described.checksum,
        label_counts=counts,
        foreground=foreground,
        oriented=is_oriented(affine),
        profiles=_profiles(nib.orientations.apply_orientation(voxels, orientation), (low, high)),
        centers=centers,
        ignored=ignored,
        checked={}
        if frame is not None
        else {
            path: checked_entry(stamps[path], volume[1])
            for path, volume in ((scan.image, image), (scan.label, label))
            if volume is not None and path in stamps
        },
    )
    return facts, []


def _stamps(scan: Scan, content: Content, with_labels: bool) -> dict[str, dict[str, int]]:
    """Size and time of change of the image and, if it is a file, of the label, by path; of those that are there."""
    stamps = {}
    endings = content.channels.endings if content.channels.count > 1 else ()
    if any(map(os.path.exists, channel_files(scan.image, endings))):
        stamps[scan.image] = scan_stamp(scan.image, endings)
    if with_labels and scan.label and os.path.isfile(scan.label):
        stamps[scan.label] = scan_stamp(scan.label)
    return stamps


def is_oriented(affine: np.ndarray) -> bool:
    """Whether an affine says more than the default one: axes at an angle or exchanged, or a place in the room."""
    sizes = nib.affines.voxel_sizes(affine)
    straight = np.allclose(np.abs(affine[:3, :3]), np.diag(sizes), atol=1e-3 * float(sizes.max()))
    # some programs count voxels from 1
    return not (straight and bool((np.abs(affine[:3, 3]) <= 1.001 * sizes).all()))


def _profiles(voxels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Mean brightness along each axis, see :py:class:`ScanFacts`."""
    low, high = window
    bright = np.clip((voxels - low) / max(high - low, 1e-6), 0, 1)
    profiles = np.empty((3, PROFILE))
    for axis in range(3):
        means = bright.mean(axis=tuple(other for other in range(3) if other != axis))
        profile = np.interp(np.linspace(0, len(means) - 1, PROFILE), np.arange(len(means)), means)
        profiles[axis] = (profile - profile.mean()) / max(float(profile.std()), 1e-6)
    return profiles


def _image_for_label(
    scan: Scan, image: tuple[np.ndarray, Volume] | None, label: tuple[np.ndarray, Volume]
) -> Iterator[str]:
    """One sentence if what should be a label is an image: neighbors in a label map are mostly of one value."""
    voxels, described = label
    if image is not None and image[1].checksum == described.checksum:
        yield f"{scan.label}: expected the label of {scan.image}, got the image itself."
    elif (count := len(described.values or ())) > MANY_VALUES and (np.diff(voxels, axis=0) == 0).mean() < 0.5:
        yield (
            f"{scan.label}: expected a label map, in which most neighboring voxels have the same value, got {count} "
            "values that differ from voxel to voxel as in an image."
        )


def _read(path: str, frame: int | None, is_label: bool = False) -> tuple[tuple[np.ndarray, Volume] | None, list[str]]:
    """
    As :py:func:`dtlp_components.data.volumes.read_volume`, with voxels in float32, and the one volume of 4-D files that
    ``frame`` says; without, the flag is named.
    """
    stored, problems = read_frames(path)
    if stored is None:
        return None, problems
    voxels, affine = stored
    frames = voxels.shape[3] if voxels.ndim == 4 else 0
    if frames and frame is not None:
        if frame >= frames:
            return None, [
                f"{path}: expected more than {frame} volumes for --frame {frame} (counted from 0), got {frames} (4-D)."
            ]
        voxels = voxels[..., frame]
    if problems := list(shape_problems(path, voxels.shape)):
        way_out = (
            f" --channels {frames} uses all of them as channels of the image; --frame 0 to {frames - 1} picks one."
            if frames
            else ""
        )
        return None, [problem + way_out for problem in problems]
    with np.errstate(over="ignore"):
        voxels = np.ascontiguousarray(voxels, np.float32)
    return (voxels, describe_volume(voxels, affine, is_label)), []


def _sample(values: np.ndarray, most: int) -> np.ndarray:
    flat = values.ravel()
    return flat[:: -(-len(flat) // most)] if len(flat) > most else flat
