# SPDX-License-Identifier: Apache-2.0
"""What the networks of a training say of a scan that has no label: where they disagree, and what it looks like."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.data.utils import dense_patch_slices
from torch import Tensor

from ..metrics.uncertainty import Quality, entropy_bits, jensen_shannon_bits

__all__ = ["ScanOpinion", "judge_scan"]


@dataclass(frozen=True)
class ScanOpinion:
    """
    One scan.

    Args:
        image: path.
        scores: ``expected_dice``, ``confidence``, ``foreground_entropy`` and, with teachers,
            ``foreground_disagreement`` (:py:class:`dtlp_components.metrics.uncertainty.Quality`); empty if nothing but
            background is predicted.
        by_class: mean disagreement, bits, over the voxels of each predicted class, by its name; without teachers, the
            mean entropy.
        features: of the student's deepest stage, averaged over what may be foreground.
    """

    image: str
    scores: dict[str, float]
    by_class: dict[str, float]
    features: list[float]


@torch.no_grad()
def judge_scan(
    path: str,
    image: Tensor,
    student: Any,
    teachers: Callable[[Tensor], Mapping[str, Tensor]] | None,
    patch_size: Sequence[int],
    label_names: Sequence[str],
    batch_size: int = 4,
) -> ScanOpinion:
    """
    Look at a scan window by window, each voxel once (but for the last window along an axis, which reaches back).

    Nothing as large as the scan times its classes is held. MONAI's ``sliding_window_inference`` puts windows together,
    which sums over voxels do not need.

    Args:
        path: of the scan.
        image: preprocessed ``(in_channels, D, H, W)``.
        student: network with ``image_features`` and ``decoder``, in eval mode; windows go to its device.
        teachers: maps windows to probabilities ``(B, C, *patch)`` by name; ``None`` if the training had none.
        patch_size: of a window.
        label_names: of all classes.
        batch_size: windows at a time.
    """
    device = next(student.parameters()).device
    missing = [max(0, side - size) for side, size in zip(patch_size, image.shape[1:], strict=True)]
    padded = F.pad(image[None].float(), [m for size in reversed(missing) for m in (size // 2, size - size // 2)])[0]
    slices = dense_patch_slices(padded.shape[1:], patch_size, patch_size)
    quality, features, weight = Quality(), torch.zeros(0), 0.0
    for start in range(0, len(slices), batch_size):
        windows = torch.stack([padded[(slice(None), *place)] for place in slices[start : start + batch_size]])
        windows = windows.to(device)
        maps = student.image_features(windows)
        probabilities = torch.softmax(student.decoder(maps).float(), dim=1)
        measures = [entropy_bits(probabilities)]
        if teachers is not None:
            measures.append(jensen_shannon_bits([probabilities, *teachers(windows).values()]))
        highest, label = probabilities.max(dim=1)
        # the batch is one more spatial axis of a slab
        quality.add(probabilities.transpose(0, 1).flatten(2), highest, label, [m[:, 0] for m in measures])
        # a little of everything, so that a scan without foreground has features as well
        near = F.adaptive_avg_pool3d(1 - probabilities[:, :1], maps[-1].shape[2:]) + 1e-3
        found = (maps[-1].float() * near).sum(dim=(0, 2, 3, 4)).cpu()
        features = found if not len(features) else features + found
        weight += float(near.sum())
    measured = quality.by_class()
    names = {str(i): name for i, name in enumerate(label_names)}
    return ScanOpinion(
        image=path,
        scores={name: value for name, value in quality.scores().items() if math.isfinite(value)},
        by_class={names.get(str(i), str(i)): value for i, value in measured.items()},
        features=[round(float(value), 6) for value in features / weight],
    )
