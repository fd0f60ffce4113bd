# SPDX-License-Identifier: Apache-2.0
"""Memory that a training takes: an estimate, fitted to what ``bench.memory`` measures (docs/reference/memory.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..errors import InputError

__all__ = ["Room", "estimate_bytes", "gpu_bytes", "parse_memory"]

CACHE_SHARE = 0.25  # of the memory that is for scans, where the rest is for the training
UNITS = {"MB": 10**6, "GB": 10**9}

# fitted to POINTS so that the largest relative error is smallest; docs/reference/memory.md has the numbers
PROCESS = 700e6  # interpreter, torch, MONAI
PER_SQUARED_FEATURE = 1.12e6  # weights of all networks, their gradients and one moment, as SGD keeps it
SECOND_MOMENT = 0.22e6  # of AdamW, per squared feature: 4 bytes for each of 54 600 weights; not in what was measured
PER_FEATURE_VOXEL = 172.0  # what a convolution needs for one volume of the batch after the other
PER_FEATURE_VOXEL_OF_BATCH = 85.5  # what a stream keeps for its backward pass
PER_CLASS_VOXEL_OF_BATCH = 52.0  # logits, probabilities, noised label maps
MARGIN = 1.09  # no measured point is further above the fit


GPU_SHARE = 0.9  # of a GPU's memory that is free; the rest is for its context and for what lies unused between blocks


class Room(NamedTuple):
    """
    What a training may take.

    Args:
        training: bytes for networks, activations and gradients, where it computes.
        scans: bytes of the computer's memory for all of it, or what a GPU's memory leaves of them for scans.
        on_gpu: whether it computes on a GPU.
        given: the flag that says so, with its value, for messages.
    """

    training: float
    scans: float
    on_gpu: bool
    given: str


def gpu_bytes(given: str) -> int | None:
    """
    Bytes of a GPU that a training may take: those that are given, else those that are free on the one that is there;
    ``None`` if it will train on the CPU.

    Raises:
        InputError: see :py:func:`parse_memory`.
    """
    if given:
        return parse_memory(given, "gpu_memory")
    return int(GPU_SHARE * torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def parse_memory(text: str, flag: str = "memory") -> int:
    """
    Bytes of a text like ``8GB`` (10^9 bytes each) or ``800MB``.

    Raises:
        InputError: if it is no positive number with one of these units.
    """
    number, unit = text.strip()[:-2].strip(), text.strip()[-2:].upper()
    try:
        size = float(number)
    except ValueError:
        size = math.nan
    if unit not in UNITS or not math.isfinite(size) or size <= 0:
        raise InputError(f"--{flag}: expected a number with its unit, such as 8GB or 800MB, got {text!r}.")
    return int(size * UNITS[unit])


def estimate_bytes(patch_size: Sequence[int], features: int, batch_size: int, num_classes: int) -> int:
    """
    Peak memory of a training, without scans kept in memory::

        1.09 * (P + (a + e) F^2 + max(b, c B) F V + d B C V)

    with ``F`` features, ``V`` voxels of a patch, ``B`` patches of each kind in a batch and ``C`` classes.

    Args:
        patch_size: sides in voxels.
        features: channels at full resolution.
        batch_size: patches, the larger of the labeled and the unlabeled batch.
        num_classes: with the background.

    Returns:
        Bytes, on CPU in float32. A GPU was not measured: it needs the same tensors in float32, less with ``amp``, which
        halves activations and not weights, and no Python process beside them, so that this should be on the safe side.
    """
    voxels = math.prod(patch_size)
    fitted = (
        PROCESS
        + (PER_SQUARED_FEATURE + SECOND_MOMENT) * features**2
        + max(PER_FEATURE_VOXEL, PER_FEATURE_VOXEL_OF_BATCH * batch_size) * features * voxels
        + PER_CLASS_VOXEL_OF_BATCH * batch_size * num_classes * voxels
    )
    return int(MARGIN * fitted)
