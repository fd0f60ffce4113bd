# SPDX-License-Identifier: Apache-2.0
"""Label propagation: what voxels with alike features are predicted to be, averaged, against a label."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from monai.networks.utils import one_hot
from torch import Tensor, nn

__all__ = ["PropagationLoss", "propagate"]


def propagate(query: Tensor, key: Tensor, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """
    Average values over voxels with alike features, by the correlation map of two projections (Eq. 18, 19)::

        C = softmax(e_1^T e_2 / sqrt(D)),    z_corr[i] = sum_j C[i, j] z[j]

    Rows of ``C`` sum to one over the source voxels ``j``, so a constant map stays constant. The square root stands
    inside the softmax (the paper has it outside, where rows would sum to ``1 / sqrt(D)``). It is computed as attention:
    queries and keys are the projections; memory is linear in voxels.

    Args:
        query: ``e_1`` ``(B, E, d, h, w)``.
        key: ``e_2``, same shape.
        values: ``z`` ``(B, C, d, h, w)``.
        dtype: to compute in; on CUDA the projections' own, which autocast makes, and on a CPU float32 if not given.

    Returns:
        Propagated values ``(B, C, d, h, w)`` float32.

    Raises:
        ValueError: if ``query`` and ``key`` differ in shape.

    Example:
        >>> constant = torch.full((1, 2, 4, 4, 4), 3.0)
        >>> propagated = propagate(torch.randn(1, 8, 4, 4, 4), torch.randn(1, 8, 4, 4, 4), constant)
        >>> torch.allclose(propagated, constant)
        True
    """
    if query.shape != key.shape:
        raise ValueError(f"query and key must agree in shape, got {tuple(query.shape)} and {tuple(key.shape)}.")
    batch, width, *grid = query.shape
    classes = values.shape[1]

    # The fast CPU kernel wants (B, heads, N, E) with values as wide as keys; zero channels change neither products nor
    # sums
    total = max(width, classes)

    def tokens(x: Tensor) -> Tensor:  # (B, c, d, h, w) -> (B, 1, N, total)
        return F.pad(x.flatten(2).transpose(1, 2), (0, total - x.shape[1])).unsqueeze(1).contiguous()

    dtype = dtype or (query.dtype if query.is_cuda else torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        propagated = F.scaled_dot_product_attention(
            tokens(query.to(dtype)), tokens(key.to(dtype)), tokens(values.to(dtype)), scale=width**-0.5
        )
    return propagated[:, 0, :, :classes].transpose(1, 2).reshape(batch, classes, *grid).float()


class PropagationLoss(nn.Module):
    """
    How far propagated predictions are from the label (Eq. 20, 21).

    The features' grid is coarser than the label's, so something has to be averaged down:

    - ``logits``, as the paper reads: logits are averaged down, propagated and interpolated back. Averages of large
      logits are large: at a border of classes a perfect prediction does not come back, and the gradient, which is never
      0, pulls on it.
    - ``detached``: the same, with a copy of the logits that carries no gradient, as CorrMatch does (Sun et al. 2023).
      The features alone learn.
    - ``probabilities``: probabilities are averaged down and propagated, and the one-hot label is averaged down as well.
      Where features keep classes apart, a perfect prediction has Dice loss 0 and no gradient.

    Args:
        loss: DiceCE of logits ``(B, C, D, H, W)`` and class indices, for ``logits`` and ``detached``.
        mode: one of the three.

    Raises:
        ValueError: if ``mode`` is another word.

    Example:
        >>> label = (torch.arange(4).view(1, 1, 4, 1, 1) >= 2).long().expand(1, 1, 4, 5, 6)
        >>> classes = torch.cat([label == 0, label == 1], dim=1).float()
        >>> loss = PropagationLoss(PartialDiceCELoss(), mode="probabilities")
        >>> features, logits = 20 * classes, 40 * classes
        >>> bool(loss(features, features, logits, label) < 0.01)  # features that keep classes apart
        True
        >>> bool(loss(0 * features, 0 * features, logits, label) > 0.1)  # and those that do not
        True
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], mode: str = "logits") -> None:
        super().__init__()
        if mode not in ("logits", "detached", "probabilities"):
            raise ValueError(f"mode must be 'logits', 'detached' or 'probabilities', got {mode!r}.")
        self.loss, self.mode = loss, mode
        self.dice = DiceLoss(soft_label=True, batch=True)

    def forward(self, query: Tensor, key: Tensor, logits: Tensor, label: Tensor) -> Tensor:
        """
        Args:
            query: ``(B, E, d, h, w)``.
            key: same shape.
            logits: ``(B, C, D, H, W)``.
            label: class indices, below 0 where none is known, ``(B, 1, D, H, W)`` int64.

        Returns:
            The loss, a scalar.
        """
        if self.mode == "probabilities":
            return self._on_grid(query, key, torch.softmax(logits.float(), dim=1), label)
        source = logits.detach() if self.mode == "detached" else logits
        propagated = propagate(query, key, _averaged(source.float(), query))
        upsampled = F.interpolate(propagated, size=logits.shape[2:], mode="trilinear", align_corners=False)
        return self.loss(upsampled, label)

    def _on_grid(self, query: Tensor, key: Tensor, probabilities: Tensor, label: Tensor) -> Tensor:
        known = (label >= 0).float()
        target = one_hot(label.clamp_min(0), probabilities.shape[1]) * known
        share = _averaged(known, query)  # of a block that has a label
        target = _averaged(target, query) / share.clamp_min(1e-6)
        propagated = propagate(query, key, _averaged(probabilities, query))
        entropy = -(target * propagated.clamp_min(1e-6).log()).sum(dim=1, keepdim=True)
        cross_entropy = (entropy * share).sum() / share.sum().clamp_min(1e-6)
        loss: Tensor = 0.5 * (cross_entropy + self.dice(propagated * share, target * share))
        return loss


def _averaged(x: Tensor, features: Tensor) -> Tensor:
    """``x`` on the grid of the features."""
    depth, height, width = features.shape[2:]
    return F.adaptive_avg_pool3d(x, (depth, height, width))
