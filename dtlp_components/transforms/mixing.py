# SPDX-License-Identifier: Apache-2.0
"""Batch-level mixing: cross-set CutMix and block masking; tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["BlockMask", "CrossSetCutMix", "random_box"]


def random_box(shape: Sequence[int], side_share: float) -> tuple[slice, ...]:
    """A box with the proportions of a patch of ``shape``, ``side_share`` as long, anywhere within it."""
    box = []
    for side in shape:
        length = max(1, round(side * side_share))
        start = int(torch.randint(side - length + 1, ()))
        box.append(slice(start, start + length))
    return tuple(box)


class CrossSetCutMix:
    """
    Paste a random box of another volume, labeled or not, into every unlabeled one (Eq. 12)::

        x_mix = (1 - M) * x_i + M * x_j,    y_mix = (1 - M) * y_i + M * y_j

    A labeled partner brings its true label, an unlabeled one its pseudo-label. MONAI's ``CutMix`` mixes a batch with
    itself, and labels by weight, as for the class of a whole image.

    Args:
        volume_share: smallest and largest share of the patch that the box covers.
        labeled_probability: how often the partner is a labeled volume; always where no other unlabeled one exists.

    Raises:
        ValueError: if the shares are not ``0 < smallest <= largest <= 1``.

    Example:
        >>> unlabeled, labeled = torch.zeros(2, 1, 8, 9, 10), torch.ones(2, 1, 8, 9, 10)
        >>> mix = CrossSetCutMix(labeled_probability=1.0)
        >>> image, label = mix(unlabeled, unlabeled.long(), labeled, labeled.long())
        >>> image.equal(label.float()), image.unique()
        (True, tensor([0., 1.]))
    """

    def __init__(self, volume_share: Sequence[float] = (0.25, 0.5), labeled_probability: float = 0.5) -> None:
        low, high = volume_share
        if not 0 < low <= high <= 1:
            raise ValueError(f"volume_share must be 0 < smallest <= largest <= 1, got {tuple(volume_share)}.")
        self.volume_share = (float(low), float(high))
        self.labeled_probability = labeled_probability

    def __call__(
        self, unlabeled_image: Tensor, pseudo_label: Tensor, labeled_image: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            unlabeled_image: ``(B_u, in_channels, D, H, W)``.
            pseudo_label: class indices ``(B_u, 1, D, H, W)``.
            labeled_image: ``(B_l, in_channels, D, H, W)``.
            label: class indices ``(B_l, 1, D, H, W)``.

        Returns:
            Mixed images and targets, shaped like the first two.
        """
        mixed_image, mixed_label = unlabeled_image.clone(), pseudo_label.clone()
        num_unlabeled = len(unlabeled_image)
        for i in range(num_unlabeled):
            if num_unlabeled == 1 or torch.rand(()) < self.labeled_probability:
                j = int(torch.randint(len(labeled_image), ()))
                partner_image, partner_label = labeled_image[j], label[j]
            else:
                j = (i + 1 + int(torch.randint(num_unlabeled - 1, ()))) % num_unlabeled
                partner_image, partner_label = unlabeled_image[j], pseudo_label[j]
            box = (slice(None), *self.random_box(unlabeled_image.shape[2:]))
            mixed_image[i][box] = partner_image[box]
            mixed_label[i][box] = partner_label[box].to(mixed_label.dtype)
        return mixed_image, mixed_label

    def random_box(self, shape: Sequence[int]) -> tuple[slice, ...]:
        """A box with the patch's proportions, a random share of its volume, anywhere within it."""
        low, high = self.volume_share
        return random_box(shape, (low + (high - low) * float(torch.rand(()))) ** (1 / len(shape)))


class BlockMask:
    """
    Hide random blocks of an image (Eq. 14): a block is kept where ``v > ratio``, ``v ~ U(0, 1)``.

    MONAI's ``RandCoarseDropout`` takes a number of holes, which may overlap, and no share of the volume.

    Args:
        ratio: ``r``, the share of blocks that are hidden.
        block: sides of a block in voxels; ``None`` is the paper's 1/16 of the patch, but at least 4 voxels.
        min_block: least side of a block when ``block`` is ``None``.

    Raises:
        ValueError: if ``ratio`` is not within [0, 1).

    Example:
        >>> masked = BlockMask(ratio=0.5, block=4)(torch.ones(1, 1, 32, 32, 32))
        >>> masked.unique()
        tensor([0., 1.])
        >>> masked[..., :4, :4, :4].unique().numel()  # a block is hidden as a whole
        1
    """

    def __init__(self, ratio: float = 0.5, block: Sequence[int] | int | None = None, min_block: int = 4) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"mask ratio must be within [0, 1), got {ratio}.")
        self.ratio, self.block, self.min_block = ratio, block, min_block

    def __call__(self, image: Tensor) -> Tensor:
        """Images ``(B, in_channels, D, H, W)`` with their hidden blocks set to 0; every volume has its own mask."""
        shape = image.shape[2:]
        if self.block is None:
            block = [max(side // 16, self.min_block) for side in shape]
        else:
            block = [self.block] * 3 if isinstance(self.block, int) else list(self.block)
        grid = [-(-side // b) for side, b in zip(shape, block, strict=True)]
        keep = (torch.rand(len(image), 1, *grid, device=image.device) > self.ratio).to(image.dtype)
        for axis, b in enumerate(block):
            keep = keep.repeat_interleave(b, dim=axis + 2)
        return image * keep[:, :, : shape[0], : shape[1], : shape[2]]
