# SPDX-License-Identifier: Apache-2.0
"""A scan with its label map and, beside it, where it may be wrong: one picture, without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from ..data.segmentations import COLORS
from ..handlers.training_curves import plots
from .figures import PLANES, mark_sides, plane_of

__all__ = ["draw_scan"]


def draw_scan(
    image: MetaTensor,
    labels: MetaTensor,
    heat: MetaTensor | None,
    label_names: Sequence[str],
    title: str,
    heat_name: str,
) -> Any:
    """
    A figure of three planes: the image, the labels as contours, and a map in bits. Planes lie where the map is highest
    over the labels, or show most classes where there is none.

    Args:
        image: ``(1, x, y, z)``, with its affine.
        labels: same grid.
        heat: same grid, or ``None``.
        label_names: by label value, the background first.
        title: above the figure.
        heat_name: what the map is of.
    """
    volumes = [_upright(volume) for volume in (image, labels, *(() if heat is None else (heat,)))]
    turned: Any = Orientation("RAS", labels=None)(image)
    spacing = [float(side) for side in turned.pixdim]
    picture, label = volumes[0], volumes[1].round().astype(np.int64)
    bits = volumes[2] if heat is not None else None
    from matplotlib.patches import Patch

    plt = plots()
    titles = ["image", "labels", *([heat_name] if bits is not None else [])]
    sizes = {plane: [picture.shape[i] * spacing[i] for i in PLANES[plane][1]] for plane in PLANES}
    heights = [min(1.6, up / right) for right, up in sizes.values()]
    inches = 2.6 * sum(heights) + 1.1
    figure, axes = plt.subplots(
        len(PLANES), len(titles), figsize=(2.6 * len(titles), inches), squeeze=False, height_ratios=heights
    )
    low, high = np.percentile(picture, (1, 99))
    colors = ["#{:02x}{:02x}{:02x}".format(*COLORS[i % len(COLORS)]) for i in range(len(label_names) - 1)]
    for row, (plane, (right, up)) in enumerate(sizes.items()):
        cut = _cut(label, bits, PLANES[plane][0])
        extent = (0.0, right, 0.0, up)
        for column, axis in enumerate(axes[row]):
            axis.imshow(plane_of(picture, plane, cut), cmap="gray", vmin=low, vmax=high, extent=extent)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(titles[column], fontsize=9)
        mark_sides(axes[row][0], plane)
        axes[row][0].set_ylabel(f"{plane} {cut + 1}", fontsize=9)
        shown = plane_of(label, plane, cut)
        for value, color in enumerate(colors, start=1):
            if (shown == value).any() and not (shown == value).all():
                axes[row][1].contour(
                    (shown == value).astype(float), [0.5], colors=[color], linewidths=1.2, extent=extent, origin="upper"
                )
        if bits is not None:
            axes[row][2].imshow(plane_of(bits, plane, cut), cmap="viridis", vmin=0, vmax=1, extent=extent)
    there = [i for i in range(1, len(label_names)) if (label == i).any()]
    handles = [Patch(color=colors[i - 1], label=label_names[i]) for i in there]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncol=min(5, len(handles)), frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(rect=(0, 0.35 / inches, 1, 0.99))
    return figure


def _upright(volume: MetaTensor) -> np.ndarray:
    """In RAS orientation, without its channel."""
    turned = Orientation("RAS", labels=None)(volume)
    return np.asarray(torch.as_tensor(turned).as_subclass(torch.Tensor)[0].float().cpu().numpy())


def _cut(labels: np.ndarray, bits: np.ndarray | None, axis: int) -> int:
    """Number of the plane across an axis to show."""
    flat = tuple(i for i in range(3) if i != axis)
    seen = labels > 0
    if bits is not None and (bits * seen).any():
        return int((bits * seen).sum(axis=flat).argmax())
    return int(seen.sum(axis=flat).argmax()) if seen.any() else labels.shape[axis] // 2
