# SPDX-License-Identifier: Apache-2.0
"""Labeled images in the style of unlabeled ones, for two kinds of scan."""

from __future__ import annotations

import numpy as np
import torch
from skimage.exposure import match_histograms
from torch import Tensor

__all__ = ["StyleTransfer", "swap_low_frequencies"]

STYLES = ("none", "histogram", "fourier")


def swap_low_frequencies(image: Tensor, reference: Tensor, share: float) -> Tensor:
    """
    Give an image the low frequencies of another one, in amplitude and not in phase (Yang and Soatto 2020, FDA).

    Brightness and its slow changes follow the reference, edges stay where they are.

    Args:
        image: ``(C, D, H, W)``.
        reference: of the same shape.
        share: of each side; frequencies up to this part of it are exchanged.

    Returns:
        Same shape, float32.

    Example:
        >>> image = torch.randn(1, 8, 8, 8)
        >>> torch.allclose(swap_low_frequencies(image, image + 3, 0.1).mean(), image.mean().abs() + 3, atol=6)
        True
    """
    axes = (-3, -2, -1)
    mine, other = (torch.fft.fftshift(torch.fft.fftn(x.float(), dim=axes), dim=axes) for x in (image, reference))
    low = torch.zeros(image.shape[-3:], dtype=torch.bool, device=image.device)
    reach = [int(share * side) for side in low.shape]
    low[tuple(slice(side // 2 - r, side // 2 + r + 1) for side, r in zip(low.shape, reach, strict=True))] = True
    amplitude = torch.where(low, other.abs(), mine.abs())
    styled = torch.polar(amplitude, mine.angle())
    return torch.fft.ifftn(torch.fft.ifftshift(styled, dim=axes), dim=axes).real.to(torch.float32)


class StyleTransfer:
    """
    Change labeled images so that their intensities look like those of an unlabeled one, drawn for each.

    Labels stay right, since no voxel moves. For domain adaptation, where labels are of one kind of scan and the scans
    to segment of another: the network then meets the other kind's intensities under true labels.

    Args:
        style: ``histogram``, which maps intensities so that their distribution is the other's (scikit-image);
            ``fourier``, see :py:func:`swap_low_frequencies`; or ``none``.
        probability: that a volume is changed.
        share: of :py:func:`swap_low_frequencies`.

    Raises:
        ValueError: if ``style`` is another word or ``probability`` is not within [0, 1].

    Example:
        >>> dark, bright = torch.rand(1, 1, 8, 8, 8), 5 + torch.rand(1, 1, 8, 8, 8)
        >>> float(StyleTransfer("histogram", probability=1.0)(dark, bright).min()) >= 5
        True
    """

    def __init__(self, style: str = "none", probability: float = 0.5, share: float = 0.1) -> None:
        if style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}.")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be within [0, 1], got {probability}.")
        self.style, self.probability, self.share = style, probability, share

    def __call__(self, image: Tensor, reference: Tensor) -> Tensor:
        """Images ``(B, C, D, H, W)`` in the style of some of ``(B_u, C, D, H, W)``; same shape and memory format."""
        if self.style == "none":
            return image
        styled = image.clone()
        for i in range(len(image)):
            if torch.rand(()) >= self.probability:
                continue
            other = reference[int(torch.randint(len(reference), ()))]
            if self.style == "fourier":
                styled[i] = swap_low_frequencies(image[i], other, self.share)
            else:
                matched = match_histograms(image[i].cpu().numpy(), other.cpu().numpy(), channel_axis=0)
                styled[i] = torch.as_tensor(np.asarray(matched, np.float32), device=image.device)
        return styled
