# SPDX-License-Identifier: Apache-2.0
"""From a preprocessed image to labels on the scan's own grid, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SpatialResample
from monai.utils import MetaKeys, TraceKeys
from nibabel.orientations import inv_ornt_aff, io_orientation
from torch import Tensor, nn

from ..keys import ScanKeys
from ..pseudo_labels.dual_teacher import entropy_bits
from .windows import longest_axis, window_rows

__all__ = ["Quality", "ScanSegmenter", "jensen_shannon_bits"]

AFFINE_TOL = 1e-3  # MONAI's, below which it does not resample

# what moves voxels along the axes of a grid and says so in the affine; everything else must not move any
FOLLOWED = ("Orientation", "SpatialResample", "Spacing", "Resize", "Flip", "SpatialPad", "Pad", "CenterSpatialCrop")
LINEAR = ("bilinear", "trilinear")


class ScanSegmenter:
    """
    Segment one scan in memory that depends on neither the number of classes nor, beyond the image and its labels, the
    scan's size.

    Labels are those of a bundle's ``inferer`` and ``postprocessing``: logits averaged over windows, softmax on the
    preprocessed grid, linear interpolation to the scan's grid as MONAI's ``Invertd`` does it, argmax. Those keep all
    classes of the whole volume several times, in float64 on the scan's grid: 600 slices of 512 x 512 voxels and 14 classes
    are 18 GB each time. Here rows of the preprocessed grid are resampled and turned into labels as soon as no window
    touches them any more (:py:func:`window_rows` says why none of MONAI's inferers does that).

    ``Invertd`` cannot be given a part of a volume. What it undoes is in the two affines, that of the image before and
    after preprocessing, so MONAI's ``SpatialResample`` is called for one slab after the other with the affine of the slab.

    Args:
        inferer: a bundle's; its windows, weights and padding are taken.
        uncertainty: make a map of the student's entropy, and of the disagreement if there are teachers.
        teachers: maps windows ``(B, in_channels, *patch)`` to probabilities of each teacher ``(B, C, *patch)``, by name.
        slab_bytes: what a slab of the scan's grid may take while it is resampled; one row is taken whatever it needs.
    """

    def __init__(
        self,
        inferer: SlidingWindowInferer,
        uncertainty: bool = False,
        teachers: Callable[[Tensor], dict[str, Tensor]] | None = None,
        slab_bytes: int = 2**28,
    ) -> None:
        self.inferer, self.uncertainty, self.slab_bytes = inferer, uncertainty, slab_bytes
        self.teachers = teachers if uncertainty else None

    @torch.no_grad()
    def __call__(
        self,
        image: MetaTensor,
        network: nn.Module,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """
        Args:
            image: preprocessed ``(in_channels, x, y, z)``, with the scan's grid in its ``meta``.
            network: maps windows to logits, in eval mode on ``device``.
            device: where windows and slabs are computed; image and results stay on the CPU.
            progress: told the windows done and their total.

        Returns:
            By :py:class:`dtlp_components.keys.ScanKeys`: ``pred``, labels ``(1, x, y, z)`` uint8 on the scan's grid;
            ``quality``, see :py:class:`Quality`; with ``uncertainty``, ``entropy`` and, with teachers, ``disagreement``,
            maps of bits ``(1, x, y, z)`` float32.

        Raises:
            ValueError: if preprocessing moved voxels in a way that the affine does not tell.
        """
        check_operations(image)
        grid = _AlignedGrid.of(image)
        axis = longest_axis(image.shape[1:], self.inferer.roi_size)
        num_maps = self.uncertainty + (self.teachers is not None)
        labels = torch.zeros(grid.shape, dtype=torch.uint8)
        maps = [torch.zeros(grid.shape) for _ in range(num_maps)]
        quality = Quality()

        rows = window_rows(
            image.as_tensor()[None], lambda x: self._predict(x, network), self.inferer, axis, device, progress
        )
        for place, values in resample_rows(self._probabilities(rows), image, grid, axis, self.slab_bytes):
            probabilities = values[: values.shape[0] - (self.teachers is not None)]
            highest, label = probabilities.max(dim=0)
            labels[place] = label.to(torch.uint8).cpu()
            entropy = entropy_bits(probabilities[None])[0, 0] if self.uncertainty else None
            slabs = [] if entropy is None else [entropy, *values[len(probabilities) :]]
            for whole, slab in zip(maps, slabs):
                whole[place] = slab.cpu()
            quality.add(probabilities, highest, label, slabs)
        names = (ScanKeys.ENTROPY, ScanKeys.DISAGREEMENT)
        results: dict[str, Any] = {str(name): grid.back(m, image) for name, m in zip(names, maps)}
        return {**results, str(ScanKeys.PRED): grid.back(labels, image), str(ScanKeys.QUALITY): quality.scores()}

    def _predict(self, windows: Tensor, network: nn.Module) -> Tensor:
        logits = network(windows).float()
        if self.teachers is None:
            return logits
        opinions = [torch.softmax(logits, dim=1), *self.teachers(windows).values()]
        return torch.cat([logits, jensen_shannon_bits(opinions)], dim=1)

    def _probabilities(self, rows: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        for start, values in rows:
            classes = values[: values.shape[0] - (self.teachers is not None)]
            classes.copy_(torch.softmax(classes, dim=0))
            yield start, values


def jensen_shannon_bits(opinions: Sequence[Tensor]) -> Tensor:
    """
    How much probability maps disagree: the entropy of their mean minus the mean of their entropies, in bits.

    0 where all are the same, however uncertain; at most log2 of their number, where each is certain of another class.

    Args:
        opinions: probabilities ``(B, C, …)``, one map each.

    Returns:
        ``(B, 1, …)``.
    """
    stacked = torch.stack(list(opinions))
    single = torch.stack([entropy_bits(opinion) for opinion in opinions]).mean(dim=0)
    return (entropy_bits(stacked.mean(dim=0)) - single).clamp_min(0)


def check_operations(image: MetaTensor) -> None:
    """
    Raises:
        ValueError: if a transform that ``Invertd`` would undo is none whose inverse is linear interpolation between the
            two grids.
    """
    for operation in image.applied_operations:
        name, info = operation[TraceKeys.CLASS_NAME], operation.get(TraceKeys.EXTRA_INFO, {})
        if name.removesuffix("d") not in FOLLOWED or str(info.get("mode", LINEAR[0])) not in LINEAR:
            raise ValueError(
                f"{name} cannot be undone slab by slab; use the bundle's `inferer` and `postprocessing` for the whole volume."
            )


@dataclass(frozen=True)
class _AlignedGrid:
    """
    The scan's grid with its axes permuted and flipped so that they run along those of the preprocessed image.

    ``ornt`` is nibabel's: for each axis of the scan that of the image, and whether it runs the same way (1) or not (-1).
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    ornt: np.ndarray

    @classmethod
    def of(cls, image: MetaTensor) -> _AlignedGrid:
        shape = tuple(int(n) for n in np.asarray(image.meta[MetaKeys.SPATIAL_SHAPE])[:3])
        affine = np.asarray(image.meta[MetaKeys.ORIGINAL_AFFINE], dtype=np.float64)
        ornt = io_orientation(np.linalg.solve(np.asarray(image.affine, dtype=np.float64), affine))
        aligned = tuple(shape[i] for i in np.argsort(ornt[:, 0]))
        return cls(aligned, affine @ inv_ornt_aff(ornt, shape), ornt)

    def back(self, volume: Tensor, image: MetaTensor) -> MetaTensor:
        """A volume on this grid -> ``(1, x, y, z)`` on the scan's, with its affine and file name."""
        volume = volume.permute(*(int(axis) for axis in self.ornt[:, 0]))
        flipped = [axis for axis, way in enumerate(self.ornt[:, 1]) if way < 0]
        # all of it, as Invertd does: writers look for more than the grid
        meta = {name: value for name, value in image.meta.items() if name != MetaKeys.AFFINE}
        affine = torch.as_tensor(np.asarray(image.meta[MetaKeys.ORIGINAL_AFFINE]), dtype=torch.float64)
        return MetaTensor(volume.flip(flipped)[None].contiguous(), affine=affine, meta=meta)


def resample_rows(
    rows: Iterator[tuple[int, Tensor]], image: MetaTensor, grid: _AlignedGrid, axis: int, slab_bytes: int
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """
    Interpolate linearly to the scan's grid, as much of it as the rows so far suffice for; outside the image the values
    of its border go on.

    Args:
        rows: first row along ``axis`` and values ``(K, X, Y, Z)``, from the first row to the last.
        image: says where the rows are.
        grid: where values are wanted.
        axis: of the rows, 0, 1 or 2.
        slab_bytes: that a slab may take, with its coordinates.

    Yields:
        Place in the grid and the values there ``(K, x, y, z)``: every voxel once.
    """
    size, length = image.shape[1 + axis], grid.shape[axis]
    affine = np.asarray(image.affine, dtype=np.float64)
    to_image = np.linalg.solve(affine, grid.affine)  # voxel of the grid -> voxel of the image
    if grid.shape == tuple(image.shape[1:]) and np.allclose(to_image, np.eye(4), atol=AFFINE_TOL):
        # the same grid, which MONAI would leave alone as well
        for first, values in rows:
            yield _slab(grid.shape, axis, first, first + values.shape[1 + axis]), values
        return

    def rows_needed(start: int, stop: int) -> tuple[int, int]:
        """Rows of the image that a slab of the grid is interpolated from, end excluded."""
        ends = [(start, stop - 1) if a == axis else (0, side - 1) for a, side in enumerate(grid.shape)]
        products = [sorted(factor * end for end in pair) for factor, pair in zip(to_image[axis], ends)]
        lowest, highest = (to_image[axis, 3] + sum(pair[i] for pair in products) for i in (0, 1))
        # one more on each side, so that rounding changes nothing; at least one, if the scan reaches beyond the image
        return min(max(0, math.floor(lowest) - 1), size - 1), max(min(size, math.ceil(highest) + 2), 1)

    resample = SpatialResample(mode=LINEAR[0], padding_mode="border", align_corners=False)
    held, held_start, done = torch.zeros(0), 0, 0
    for first, values in rows:
        held = torch.cat([held, values], dim=1 + axis) if held.numel() else values
        available = first + values.shape[1 + axis]
        # coordinates of three axes in float64; values in float64 and in float32
        row_bytes = math.prod(grid.shape) // length * (24 + 12 * len(values))
        while done < length:
            stop = min(length, done + max(1, slab_bytes // row_bytes))
            while stop > done and rows_needed(done, stop)[1] > available:
                stop -= 1
            if stop == done:  # a single row needs more than there is
                break
            low, high = rows_needed(done, stop)
            place = _slab(grid.shape, axis, done, stop)
            source = MetaTensor(
                held.narrow(1 + axis, low - held_start, high - low), affine=torch.as_tensor(affine @ _shift(axis, low))
            )
            wanted = torch.as_tensor(grid.affine @ _shift(axis, done))
            slab = resample(source, dst_affine=wanted, spatial_size=[part.stop - part.start for part in place])
            yield place, torch.as_tensor(slab).as_subclass(Tensor)
            done = stop
        if done < length:
            keep = min(max(rows_needed(done, done + 1)[0], held_start), available)
            # a copy, so that the rows before are given back
            held, held_start = held.narrow(1 + axis, keep - held_start, available - keep).clone(), keep


def _slab(shape: Sequence[int], axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return tuple(slice(start, stop) if a == axis else slice(0, side) for a, side in enumerate(shape))


def _shift(axis: int, voxels: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[axis, 3] = voxels
    return matrix


@dataclass
class Quality:
    """
    Sums over a scan's voxels for numbers that say how good a segmentation may be, without a reference.

    They are of the labels before any postprocessing, uncalibrated, and comparable between scans of one network alone.
    """

    sums: dict[str, Any] = field(default_factory=dict)

    def add(self, probabilities: Tensor, highest: Tensor, label: Tensor, maps: Sequence[Tensor]) -> None:
        """Take in a slab: ``(C, x, y, z)``, the maximum and its index ``(x, y, z)``, maps of entropy and disagreement."""
        num_classes, flat = len(probabilities), label.flatten()
        new = {
            "predicted": torch.bincount(flat, minlength=num_classes).double(),
            "certain": torch.bincount(flat, weights=highest.flatten().double(), minlength=num_classes),
            "mass": probabilities.flatten(1).sum(dim=1, dtype=torch.float64),
        }
        for name, values in zip((ScanKeys.ENTROPY, ScanKeys.DISAGREEMENT), maps):
            new[str(name)] = torch.bincount(flat, weights=values.flatten().double(), minlength=num_classes)
        for entry, value in new.items():
            self.sums[entry] = self.sums.get(entry, 0) + value.cpu()

    def scores(self) -> dict[str, float]:
        """
        Numbers by name; none if no foreground was predicted.
        """
        predicted = self.sums["predicted"]
        there = predicted[1:] > 0
        if not there.any():
            return {}
        dice = 2 * self.sums["certain"] / (self.sums["mass"] + predicted)
        scores = {"expected_dice": float(dice[1:][there].mean())}
        scores["confidence"] = float(self.sums["certain"][1:].sum() / predicted[1:].sum())
        for key in (str(ScanKeys.ENTROPY), str(ScanKeys.DISAGREEMENT)):
            if key in self.sums:
                scores[f"foreground_{key}"] = float(self.sums[key][1:].sum() / predicted[1:].sum())
        return scores
