# SPDX-License-Identifier: Apache-2.0
"""Drawings of a report: scans in three planes, and curves and dots of scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.segmentations import COLORS
from ..handlers.training_curves import Curves, open_axis, plots
from .cases import CaseMaps
from .scores import Comparison, Training

__all__ = [
    "PLANES",
    "class_colors",
    "draw_calibration",
    "draw_case",
    "draw_class_weights",
    "draw_differences",
    "draw_dots",
    "mark_sides",
    "outline",
    "plane_of",
]

# Okabe and Ito (2008), told apart by color-blind people
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#F0E442")
MISSING, TOO_MUCH, CONFUSED = "#56B4E9", "#D55E00", "#F0E442"
# of a plane: axis that is cut, axes to the right and up, what is to the left and right of the picture, above and below.
# Seen as radiologists do: the patient's right is on the left.
PLANES = {
    "axial": (2, (0, 1), ("R", "L", "A", "P")),
    "coronal": (1, (0, 2), ("R", "L", "H", "F")),
    "sagittal": (0, (1, 2), ("A", "P", "H", "F")),
}


def draw_case(case: CaseMaps, label_names: Sequence[str], planes: Sequence[str] = tuple(PLANES)) -> Any:
    """
    A figure of a scan: in each plane the image, reference and prediction as contours, errors, entropy, every teacher.

    Args:
        case: what is known of the scan.
        label_names: by label value, the background first.
        planes: which of them.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    plt = plots()
    teachers = [name for name in case.labels if name != "student"]
    titles = [
        "image", f"contours\nDice {100 * case.dice['student']:.1f}", "errors", "entropy",
        *(f"{name.replace('_', ' ')}\nDice {100 * case.dice[name]:.1f}" for name in teachers),
    ]  # fmt: skip
    extents = [_extent(case, plane) for plane in planes]
    heights = [min(1.6, height / width) for _, width, _, height in extents]  # of a panel 1 wide
    inches = 2.3 * sum(heights) + 1.3
    figure, axes = plt.subplots(
        len(planes), len(titles), figsize=(2.3 * len(titles), inches), squeeze=False, height_ratios=heights
    )
    colors = class_colors(range(1, len(label_names)))
    errors = _errors(case.reference, case.labels["student"])
    low, high = np.percentile(case.image, (1, 99))
    for row, plane in enumerate(planes):
        cut = _cut(case.reference, case.labels["student"], PLANES[plane][0])
        extent = extents[row]
        image, reference, entropy = (plane_of(v, plane, cut) for v in (case.image, case.reference, case.entropy))
        for column, axis in enumerate(axes[row]):
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(titles[column], fontsize=9)
        mark_sides(axes[row][0], plane)
        axes[row][0].set_ylabel(f"{plane} {cut + 1}", fontsize=9)
        _contours(axes[row][1], reference, plane_of(case.labels["student"], plane, cut), colors, extent)
        for kind, color in enumerate((MISSING, TOO_MUCH, CONFUSED), start=1):
            _fill(axes[row][2], plane_of(errors, plane, cut) == kind, color, extent)
        axes[row][3].imshow(entropy, cmap="viridis", vmin=0, vmax=math.log2(len(label_names)), extent=extent)
        for axis, name in zip(axes[row][4:], teachers, strict=True):
            _contours(axis, reference, plane_of(case.labels[name], plane, cut), colors, extent)
    handles: list[Any] = [
        Patch(color=color, label=name) for color, name in zip(colors.values(), label_names[1:], strict=True)
    ]
    handles += [Line2D([], [], color="0.4", label="reference"), Line2D([], [], color="0.4", ls=":", label="prediction")]
    handles += [
        Patch(color=color, label=name)
        for color, name in ((MISSING, "missing"), (TOO_MUCH, "too much"), (CONFUSED, "another class"))
    ]
    figure.legend(handles=handles, loc="lower center", ncol=min(8, len(handles)), frameon=False, fontsize=8)
    same = f"; {', '.join(s.replace('_', ' ') for s in case.same)}: the same as the prediction" if case.same else ""
    figure.suptitle(f"{case.name}{same}", fontsize=10)
    figure.tight_layout(rect=(0, 0.4 / inches, 1, 0.99))
    return figure


def draw_differences(lines: Sequence[Comparison], metric: str, unit: str) -> Any:
    """Forest plot: the difference of every training to the first, with its 95 % interval."""
    plt = plots()
    others = lines[1:]
    figure, axis = plt.subplots(figsize=(7.5, 0.9 + 0.38 * len(others)))
    for y, line in enumerate(others):
        low, high = line.difference_interval
        sure = line.p < 0.05
        axis.plot([low, high], [y, y], color=PALETTE[0], linewidth=2)
        axis.plot([line.difference], [y], "o" if sure else "s", color=PALETTE[0], mfc=PALETTE[0] if sure else "white")
    axis.axvline(0, color="0.4", linewidth=1)
    axis.set_yticks(range(len(others)), [line.name for line in others])
    axis.invert_yaxis()
    axis.set_xlabel(f"{metric}: difference from {lines[0].name} [{unit}]; filled: p < 0.05 after Holm's correction")
    open_axis(axis)
    figure.tight_layout()
    return figure


def draw_dots(trainings: Sequence[Training], metric: str, label: str, unit: str) -> Any:
    """Every case of every training as a dot, averaged over seeds, and the mean as a line."""
    plt = plots()
    figure, axis = plt.subplots(figsize=(7.5, 0.9 + 0.42 * len(trainings)))
    rng = np.random.default_rng(0)
    for y, training in enumerate(trainings):
        values = training.scores[metric].mean(axis=0)
        axis.plot(values, y + rng.uniform(-0.22, 0.22, len(values)), "o", color=PALETTE[0], alpha=0.45, ms=3.5)
        axis.plot([np.nanmean(values)] * 2, [y - 0.36, y + 0.36], color=PALETTE[1], linewidth=2)
    axis.set_yticks(range(len(trainings)), [training.name for training in trainings])
    axis.invert_yaxis()
    axis.set_xlabel(f"{label} of each case [{unit}]; line: mean")
    open_axis(axis)
    figure.tight_layout()
    return figure


def draw_calibration(curves: Mapping[str, np.ndarray]) -> Any:
    """Share of right voxels by the confidence of the prediction."""
    plt = plots()
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfect calibration")
    for i, (name, (voxels, right, confidence)) in enumerate(curves.items()):
        there = voxels > 0
        x, y = confidence[there] / voxels[there], right[there] / voxels[there]
        axis.plot(x, y, marker="osDv^"[i % 5], color=PALETTE[i % len(PALETTE)], label=name)
    axis.set_xlabel("confidence")
    axis.set_ylabel("fraction of correct voxels")
    axis.legend(fontsize=8)
    axis.set_aspect("equal")
    open_axis(axis)
    figure.tight_layout()
    return figure


def draw_class_weights(losses: Curves, label_names: Sequence[str]) -> Any | None:
    """Difficulty weight of each foreground class over the training; ``None`` if there are none, or all are 1."""
    weights = {name: losses.get(f"class_weight/{i}") for i, name in enumerate(label_names) if i}
    if not any(curve and any(abs(value - 1) > 1e-6 for value in curve[1]) for curve in weights.values()):
        return None
    plt = plots()
    figure, axis = plt.subplots(figsize=(7.5, 3))
    for i, (name, curve) in enumerate(weights.items()):
        if curve:
            axis.plot(
                *curve, color=PALETTE[i % len(PALETTE)], linestyle=("-", "--", ":")[i // len(PALETTE) % 3], label=name
            )
    axis.set_xlabel("iteration")
    axis.set_ylabel("class weight")
    axis.legend(fontsize=7, ncol=3)
    open_axis(axis)
    figure.tight_layout()
    return figure


def _errors(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """0 right, 1 missing, 2 too much, 3 another class."""
    errors = np.zeros(reference.shape, np.uint8)
    wrong = reference != prediction
    errors[wrong & (prediction == 0)] = 1
    errors[wrong & (reference == 0)] = 2
    errors[wrong & (reference > 0) & (prediction > 0)] = 3
    return errors


def _cut(reference: np.ndarray, prediction: np.ndarray, axis: int) -> int:
    """Number of the plane across an axis that shows most classes, then most voxels, of the reference if it has any."""
    shown = reference if reference.any() else prediction
    planes = np.moveaxis(shown, axis, 0)
    return max(range(len(planes)), key=lambda i: (len(np.unique(planes[i])), int((planes[i] > 0).sum())))


def plane_of(volume: np.ndarray, plane: str, cut: int) -> np.ndarray:
    """A plane of a RAS volume as a picture, whose first row is at the top."""
    axis = PLANES[plane][0]
    flat = np.take(volume, cut, axis=axis)  # the two axes left, in their order: right, up
    return flat[::-1, ::-1].T  # both from high to low: right side, front or head first


def _extent(case: CaseMaps, plane: str) -> tuple[float, float, float, float]:
    """Sides of the picture in mm, so that its aspect is the patient's."""
    _, (right, up), _ = PLANES[plane]
    return 0.0, case.image.shape[right] * case.spacing[right], 0.0, case.image.shape[up] * case.spacing[up]


def mark_sides(axis: Any, plane: str) -> None:
    """Write at the sides of a plane's picture which side of the patient each is."""
    left, right, top, bottom = PLANES[plane][2]
    for x, y, text in ((0.03, 0.5, left), (0.97, 0.5, right), (0.5, 0.96, top), (0.5, 0.04, bottom)):
        axis.text(
            x, y, text, transform=axis.transAxes, color="#F0E442", fontsize=8, ha="center", va="center", weight="bold"
        )


def _contours(
    axis: Any, reference: np.ndarray, prediction: np.ndarray, colors: Mapping[int, str], extent: Sequence[float]
) -> None:
    outline(axis, reference, colors, extent, linestyles="solid", linewidths=1.0)
    outline(axis, prediction, colors, extent, linestyles="dotted", linewidths=1.6)


def class_colors(values: Iterable[int]) -> dict[int, str]:
    """Colors of classes by label value, in the order of the values, the background not among them."""
    return {value: "#{:02x}{:02x}{:02x}".format(*COLORS[i % len(COLORS)]) for i, value in enumerate(values)}


def outline(axis: Any, labels: np.ndarray, colors: Mapping[int, str], extent: Sequence[float], **look: Any) -> None:
    """Draw the outline of each label value of a plane in its color."""
    for value, color in colors.items():
        inside = labels == value
        if inside.any() and not inside.all():
            axis.contour(inside.astype(float), [0.5], colors=[color], extent=extent, origin="upper", **look)


def _fill(axis: Any, mask: np.ndarray, color: str, extent: Sequence[float]) -> None:
    from matplotlib.colors import ListedColormap

    axis.imshow(
        np.ma.masked_equal(mask.astype(int), 0), cmap=ListedColormap([color]), extent=extent, interpolation="nearest"
    )
