# SPDX-License-Identifier: Apache-2.0
"""Sliding windows of a volume, aggregated a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.utils import ensure_tuple_rep
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["longest_axis", "window_rows", "window_slices"]


def window_slices(
    size: Sequence[int], patch_size: Sequence[int], overlap: float | Sequence[float]
) -> list[tuple[slice, ...]]:
    """Windows that cover a volume of ``size``, no side smaller than the window's: those of MONAI's sliding window."""
    overlaps = ensure_tuple_rep(overlap, len(patch_size))
    stride = [max(1, int(side * (1 - share))) for side, share in zip(patch_size, overlaps, strict=True)]
    return dense_patch_slices(size, patch_size, stride)


def longest_axis(size: Sequence[int], patch_size: Sequence[int] | int) -> int:
    """The axis along which a volume is most windows long, so that a slab one window thick is smallest."""
    patch = ensure_tuple_rep(patch_size, len(size))
    return max(range(len(size)), key=lambda axis: size[axis] / patch[axis])


def window_rows(
    image: Tensor,
    predict: Callable[[Tensor], Tensor],
    inferer: SlidingWindowInferer,
    axis: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """
    What ``inferer(image, predict)`` returns, row by row along one axis: rows are handed out as soon as no later window
    touches them, and memory holds one slab as thick as a window.

    Windows, their weights, padding and batch size are those of the inferer, MONAI's ``SlidingWindowInferer``; values
    equal its up to rounding, since it adds windows in another order. None of MONAI's own ways bounds memory here:
    ``buffer_steps`` and ``SlidingWindowInfererAdapt`` keep a slab on the GPU but stitch the whole volume of all classes
    on the CPU, ``AvgMerger`` as well, and ``ZarrAvgMerger`` moves it to the disk.

    Args:
        image: ``(1, in_channels, X, Y, Z)``, any size, on any device.
        predict: maps windows ``(B, in_channels, *patch)`` on ``device`` to values ``(B, K, *patch)``.
        inferer: its ``roi_size`` has three positive sides.
        axis: 0, 1 or 2, see :py:func:`longest_axis`.
        device: where windows are predicted and added up.
        progress: told the windows done and their total, at the start and after each batch.

    Yields:
        First row and ``(K, X, Y, Z)`` float32, which has only the rows from there on along ``axis``: without gaps, each
        row once.
    """
    size, patch = image.shape[2:], ensure_tuple_rep(inferer.roi_size, 3)
    missing = [max(0, side - have) for side, have in zip(patch, size, strict=True)]
    before = [side // 2 for side in missing]
    if any(missing):
        ends = [end for start, all_ in zip(before, missing, strict=True) for end in (start, all_ - start)]
        # torch pads the last axis first
        padding = [n for pair in reversed(list(zip(ends[::2], ends[1::2], strict=True))) for n in pair]
        image = pad(image, padding, mode=str(inferer.padding_mode), value=inferer.cval)
    padded = image.shape[2:]
    windows = sorted(window_slices(padded, patch, inferer.overlap), key=lambda window: window[axis].start)
    weight = inferer.roi_weight_map
    if weight is None:
        weight = compute_importance_map(patch, inferer.mode, inferer.sigma_scale, device, torch.float32)
    weight = weight.to(device, torch.float32)

    inside = [slice(start, start + side) for start, side in zip(before, size, strict=True)]
    slab_size = [patch[i] if i == axis else padded[i] for i in range(3)]
    weights, total = torch.zeros(slab_size, device=device), torch.zeros(0)
    layers = [(start, list(layer)) for start, layer in groupby(windows, key=lambda window: window[axis].start)]
    done = 0
    if progress is not None:
        progress(done, len(windows))
    for number, (start, layer) in enumerate(layers):
        for first in range(0, len(layer), inferer.sw_batch_size):
            batch = layer[first : first + inferer.sw_batch_size]
            values = predict(torch.cat([image[(slice(None), slice(None), *window)] for window in batch]).to(device))
            if not total.numel():
                total = torch.zeros((values.shape[1], *slab_size), device=device)
            for window, value in zip(batch, values, strict=True):
                place = tuple(slice(0, patch[i]) if i == axis else window[i] for i in range(3))
                total[(slice(None), *place)] += value * weight
                weights[place] += weight
            done += len(batch)
            if progress is not None:
                progress(done, len(windows))
        is_last = number + 1 == len(layers)
        count = patch[axis] if is_last else layers[number + 1][0] - start
        # without the padding
        low, high = max(start, inside[axis].start), min(start + count, inside[axis].stop)
        if low < high:
            crop = tuple(slice(low - start, high - start) if i == axis else inside[i] for i in range(3))
            yield low - inside[axis].start, total[(slice(None), *crop)] / weights[crop]
        if not is_last:
            for sums in (total, weights):
                sums_along = sums.movedim(axis - 3, 0)
                sums_along[:-count] = sums_along[count:].clone()
                sums_along[-count:] = 0
