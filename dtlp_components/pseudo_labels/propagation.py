# SPDX-License-Identifier: Apache-2.0
"""Label propagation: logits averaged over voxels with alike features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["propagate_logits"]


def propagate_logits(query: Tensor, key: Tensor, logits: Tensor, detach: bool = False) -> Tensor:
    """
    Propagate logits through the correlation map of two feature projections (Eq. 18, 19)::

        C = softmax(e_1^T e_2 / sqrt(D)),    z_corr[i] = sum_j C[i, j] z[j]

    Rows of ``C`` sum to one over the source voxels ``j``, so a constant map stays constant. The square root stands
    inside the softmax (the paper has it outside, where rows would sum to ``1 / sqrt(D)``). It is computed as attention:
    queries and keys are the projections, values the logits on the features' grid; memory is linear in voxels.

    Args:
        query: ``e_1`` ``(B, E, d, h, w)``.
        key: ``e_2``, same shape.
        logits: ``z`` ``(B, C, D, H, W)``; averaged down to the features' grid and interpolated back.
        detach: propagate a copy of the logits that carries no gradient, as CorrMatch does.

    Returns:
        Propagated logits ``(B, C, D, H, W)`` float32.

    Raises:
        ValueError: if ``query`` and ``key`` differ in shape.
    """
    if query.shape != key.shape:
        raise ValueError(f"query and key must agree in shape, got {tuple(query.shape)} and {tuple(key.shape)}.")
    batch, width, *grid = query.shape
    classes = logits.shape[1]
    source = logits.detach() if detach else logits
    values = F.adaptive_avg_pool3d(source.float(), (grid[0], grid[1], grid[2]))

    # The fast CPU kernel wants (B, heads, N, E) with values as wide as keys; zero channels change neither products nor
    # sums
    total = max(width, classes)

    def tokens(x: Tensor) -> Tensor:  # (B, c, d, h, w) -> (B, 1, N, total)
        return F.pad(x.flatten(2).transpose(1, 2), (0, total - x.shape[1])).unsqueeze(1).contiguous()

    with torch.autocast(query.device.type, enabled=False):
        propagated = F.scaled_dot_product_attention(
            tokens(query.float()), tokens(key.float()), tokens(values), scale=width**-0.5
        )
    propagated = propagated[:, 0, :, :classes].transpose(1, 2).reshape(batch, classes, *grid)
    return F.interpolate(propagated, size=logits.shape[2:], mode="trilinear", align_corners=False)
