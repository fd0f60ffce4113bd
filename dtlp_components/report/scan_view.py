# SPDX-License-Identifier: Apache-2.0
"""Pictures of scans with their label maps: one scan in three planes, or many on a sheet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation
from tqdm.auto import tqdm

from ..data.channel_files import shown_channel
from ..data.readers import ScanReader
from ..data.segmentations import LABEL_MAP_ENDING
from ..handlers.score_table import case_names
from ..handlers.training_curves import plots, save_figure
from ..metrics.uncertainty import DISPUTED
from .figures import PLANES, class_colors, mark_sides, outline, plane_of

__all__ = ["draw_scan", "draw_sheet", "picture_label_maps"]

SHEET_COLUMNS = 6
# maps of where a label map may be wrong, beside it, the better guide first
HEAT = {"_disagreement.nii.gz": "disagreement, bits", "_entropy.nii.gz": "entropy, bits"}


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
    picture, spacing = _upright(image)
    label = _upright(labels)[0].round().astype(np.int64)
    bits = None if heat is None else _upright(heat)[0]
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
    colors = class_colors(range(1, len(label_names)))
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
        outline(axes[row][1], plane_of(label, plane, cut), colors, extent, linewidths=1.2)
        if bits is not None:
            axes[row][2].imshow(plane_of(bits, plane, cut), cmap="viridis", vmin=0, vmax=1, extent=extent)
    handles = [Patch(color=color, label=label_names[i]) for i, color in colors.items() if (label == i).any()]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncol=min(5, len(handles)), frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(rect=(0, 0.35 / inches, 1, 0.99))
    return figure


def picture_label_maps(
    rows: Sequence[Mapping[str, str]], folder: Path, label_names: Sequence[str], channels: Sequence[str] = ()
) -> dict[str, str]:
    """
    Draw label maps of a folder that have no picture yet, or one that is older.

    Args:
        rows: of the folder's table, with ``scan`` (a path) and ``label_map``.
        folder: of the label maps; pictures go into ``pictures``.
        label_names: by label value, the background first.
        channels: endings of the files of the channels (:py:class:`dtlp_components.ScanReader`).

    Returns:
        The picture of each scan, from the folder.
    """
    read = LoadImage(reader=ScanReader(), ensure_channel_first=True)
    names = case_names([row["scan"] for row in rows])
    pictures = {row["scan"]: f"pictures/{name.replace(os.sep, '_')}.png" for row, name in zip(rows, names, strict=True)}
    todo = []
    for row in rows:
        label_map, picture = folder / os.path.basename(row["label_map"]), folder / pictures[row["scan"]]
        if not picture.is_file() or picture.stat().st_mtime_ns < label_map.stat().st_mtime_ns:
            todo.append((row, label_map, picture))
    for row, label_map, picture in tqdm(todo, desc="drawing", unit="scan", disable=None):
        stem = label_map.name.removesuffix(LABEL_MAP_ENDING)
        maps = [(label_map.with_name(stem + ending), name) for ending, name in HEAT.items()]
        file, name = next((found for found in maps if found[0].is_file()), (None, ""))
        image, labels = (
            cast(MetaTensor, read(str(path))) for path in (shown_channel(row["scan"], channels), label_map)
        )
        heat = None if file is None else cast(MetaTensor, read(str(file)))
        disputed = row.get(DISPUTED)
        said = f", networks disagree by {float(disputed):.3f} bit" if disputed else ""
        save_figure(draw_scan(image, labels, heat, label_names, f"{picture.stem}{said}", name), picture)
    return pictures


def draw_sheet(scans: Iterable[tuple[str, MetaTensor, MetaTensor]], count: int, values: Mapping[int, str]) -> Any:
    """
    A figure of many scans, an axial plane of each with its label as contours: a label on the wrong scan stands out.

    Args:
        scans: name, image ``(1, x, y, z)`` and label on the same grid; one after the other is held in memory.
        count: how many they are.
        values: names by label value, without the background.
    """
    from matplotlib.patches import Patch

    plt = plots()
    columns = min(SHEET_COLUMNS, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.4 * rows + 0.5), squeeze=False)
    colors = class_colors(values)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, image, label) in zip(axes.flat, scans, strict=False):
        (picture, spacing), drawn = _upright(image), _upright(label)[0].round().astype(np.int64)
        cut = _cut(drawn, None, 2)
        extent = (0.0, picture.shape[0] * spacing[0], 0.0, picture.shape[1] * spacing[1])
        low, high = np.percentile(picture, (1, 99))
        axis.imshow(plane_of(picture, "axial", cut), cmap="gray", vmin=low, vmax=high, extent=extent)
        outline(axis, plane_of(drawn, "axial", cut), colors, extent, linewidths=1)
        axis.set_title(name if len(name) <= 24 else f"…{name[-23:]}", fontsize=7)
    handles = [Patch(color=colors[value], label=name) for value, name in values.items()]
    figure.legend(handles=handles, loc="lower center", ncol=min(7, len(handles)), frameon=False, fontsize=7)
    figure.tight_layout(rect=(0, 0.4 / (2.4 * rows + 0.5), 1, 1))
    return figure


def _upright(volume: MetaTensor) -> tuple[np.ndarray, list[float]]:
    """In RAS orientation, without its channel; and the sides of its voxels, mm."""
    turned: Any = Orientation("RAS", labels=None)(volume)
    voxels = torch.as_tensor(turned).as_subclass(torch.Tensor)[0].float().cpu().numpy()
    return np.asarray(voxels), [float(side) for side in turned.pixdim]


def _cut(labels: np.ndarray, bits: np.ndarray | None, axis: int) -> int:
    """Number of the plane across an axis to show."""
    flat = tuple(i for i in range(3) if i != axis)
    seen = labels > 0
    if bits is not None and (bits * seen).any():
        return int((bits * seen).sum(axis=flat).argmax())
    return int(seen.sum(axis=flat).argmax()) if seen.any() else labels.shape[axis] // 2
