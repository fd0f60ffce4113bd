# SPDX-License-Identifier: Apache-2.0
"""From the preprocessed grid back to the scan's own, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialResample
from monai.utils import MetaKeys, TraceKeys
from nibabel.orientations import inv_ornt_aff, io_orientation
from torch import Tensor

__all__ = ["AlignedGrid", "ScanGridLabelsd", "check_operations", "resample_rows"]

AFFINE_TOL = 1e-3  # MONAI's, below which it does not resample

# what moves voxels along the axes of a grid and says so in the affine; everything else must not move any
FOLLOWED = ("Orientation", "SpatialResample", "Spacing", "Resize", "Flip", "SpatialPad", "Pad", "CenterSpatialCrop")
LINEAR = ("bilinear", "trilinear")
SLAB_BYTES = 2**28


class ScanGridLabelsd(MapTransform):
    """
    Logits on the preprocessed grid become labels on the scan's own: softmax, linear interpolation as MONAI's
    ``Invertd`` does it, argmax, one slab after the other.

    ``Activationsd``, ``Invertd`` and ``AsDiscreted`` keep the probabilities of all classes on the scan's grid several
    times. ``Invertd`` cannot be given a part of a volume. What it undoes is in the two affines, that of the image
    before and after preprocessing, so MONAI's ``SpatialResample`` is called for each slab with the affine of the slab.

    Args:
        keys: logits ``(C, x, y, z)``; they become labels ``(1, x, y, z)`` uint8 on the CPU.
        orig_keys: the preprocessed image that they were predicted from.
        slab_bytes: what a slab may take; one row is taken whatever it needs.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if preprocessing moved voxels in a way that the affine does not tell, or logits are not finite.

    Example:
        >>> from monai.data import MetaTensor
        >>> meta = {"spatial_shape": [17, 19, 21], "original_affine": torch.eye(4)}  # as LoadImaged gives it
        >>> scan = MetaTensor(torch.rand(1, 17, 19, 21), meta=meta)
        >>> item = ResampleToSpacingd("image", pixdim=[2.0, 2.0, 2.0])({"image": scan})
        >>> item["pred"] = torch.stack([torch.zeros(9, 10, 11), torch.ones(9, 10, 11)])  # logits: class 1 everywhere
        >>> labels = ScanGridLabelsd("pred")(item)["pred"]
        >>> labels.shape, labels.unique().tolist()
        (torch.Size([1, 17, 19, 21]), [1])
    """

    def __init__(
        self,
        keys: KeysCollection,
        orig_keys: str = "image",
        slab_bytes: int = SLAB_BYTES,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_key, self.slab_bytes = orig_keys, slab_bytes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        image = item[self.orig_key]
        check_operations(image)
        grid = AlignedGrid.of(image)
        for key in self.key_iterator(item):
            logits = torch.as_tensor(item[key]).as_subclass(Tensor)
            axis = int(np.argmax(logits.shape[1:]))
            labels = torch.zeros(grid.shape, dtype=torch.uint8)
            for place, values in resample_rows(self._probabilities(logits, axis), image, grid, axis, self.slab_bytes):
                labels[place] = values.argmax(dim=0).to(torch.uint8).cpu()
            item[key] = grid.back(labels, image)
        return item

    def _probabilities(self, logits: Tensor, axis: int) -> Iterator[tuple[int, Tensor]]:
        row_bytes = logits.select(1 + axis, 0).numel() * 4
        count = max(1, self.slab_bytes // row_bytes)
        for start in range(0, logits.shape[1 + axis], count):
            rows = logits.narrow(1 + axis, start, min(count, logits.shape[1 + axis] - start))
            if not torch.isfinite(rows).all():
                raise ValueError("expected finite logits, got NaN or infinity")
            yield start, torch.softmax(rows.float(), dim=0)


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
                f"{name} cannot be inverted slab by slab; expected one of {', '.join(FOLLOWED)} with linear "
                "interpolation. MONAI's Invertd inverts others, but on the whole volume at once."
            )


@dataclass(frozen=True)
class AlignedGrid:
    """
    The scan's grid with its axes permuted and flipped so that they run along those of the preprocessed image.

    ``ornt`` is nibabel's: for each axis of the scan that of the image, and whether it runs the same way (1) or not
    (-1).
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    ornt: np.ndarray

    @classmethod
    def of(cls, image: MetaTensor) -> AlignedGrid:
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
    rows: Iterator[tuple[int, Tensor]], image: MetaTensor, grid: AlignedGrid, axis: int, slab_bytes: int
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """
    Interpolate linearly to the scan's grid, as much of it as the rows so far suffice for; outside the image the values
    of its border go on.

    Args:
        rows: first row along ``axis`` and values ``(K, X, Y, Z)``, from the first row to the last.
        image: says where the rows are.
        grid: where values are expected.
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
        products = [sorted(factor * end for end in pair) for factor, pair in zip(to_image[axis, :3], ends, strict=True)]
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
            expected = torch.as_tensor(grid.affine @ _shift(axis, done))
            slab = resample(source, dst_affine=expected, spatial_size=[part.stop - part.start for part in place])
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
