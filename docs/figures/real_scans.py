# SPDX-License-Identifier: Apache-2.0
"""
Draws docs/images/hippocampus.png: a reference, and what two trainings make of the scan, with their Dice.

``python docs/figures/real_scans.py DATALIST SECTION LABELED_ONLY DTLP``, where the last two are folders of label maps
that ``dtlp segment`` wrote. The rows are the scans with the lowest, the median and the highest Dice of DTLP.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from monai.transforms import LoadImage

from dtlp_components import ScanReader, load_datalist
from dtlp_components.data.nifti import without_suffix
from dtlp_components.data.segmentations import LABEL_MAP_ENDING
from dtlp_components.handlers.training_curves import plots
from dtlp_components.metrics.overlap import batch_dice
from dtlp_components.report.figures import PLANES, class_colors, outline, plane_of

IMAGES = Path(__file__).parents[1] / "images"
PLANE = "sagittal"  # along the hippocampus
NAMES = ["background", "anterior", "posterior"]


def main(datalist: str, section: str, *folders: str) -> None:
    from matplotlib.patches import Patch

    load = LoadImage(reader=ScanReader())
    cases = []
    for item in load_datalist(datalist, section, str(Path(datalist).parent)):
        stem = without_suffix(Path(item["image"]).name)
        reference = load(item["label"])
        maps = [load(Path(folder, stem + LABEL_MAP_ENDING)) for folder in folders]
        dice = [float(batch_dice(found.long(), reference.long(), len(NAMES))[0][1:].mean()) for found in maps]
        cases.append((dice[-1], load(item["image"]), reference, maps, dice))
    cases.sort(key=lambda case: case[0])
    shown = [cases[0], cases[len(cases) // 2], cases[-1]]

    figure, axes = plots().subplots(len(shown), 2 + len(folders), figsize=(2.6 * (2 + len(folders)), 6.2))
    colors = class_colors(range(1, len(NAMES)))
    axis_cut = PLANES[PLANE][0]
    for row, (_, image, reference, maps, dice) in enumerate(shown):
        # the plane with most of the rarer class
        counts = [(reference == value).sum(dim=tuple(i for i in range(3) if i != axis_cut)) for value in colors]
        cut = int(torch.stack(counts).amin(dim=0).argmax())
        sides = [image.shape[i] * float(image.pixdim[i]) for i in PLANES[PLANE][1]]
        extent = (0.0, sides[0], 0.0, sides[1])
        titles = ["image", "reference", f"labeled only\nDice {100 * dice[0]:.1f}", f"DTLP\nDice {100 * dice[1]:.1f}"]
        for column, title in enumerate(titles):
            panel = axes[row][column]
            low, high = np.percentile(image, (1, 99))
            panel.imshow(plane_of(np.asarray(image), PLANE, cut), cmap="gray", vmin=low, vmax=high, extent=extent)
            panel.axis("off")
            panel.set_title(title if row == 0 or column > 1 else "", fontsize=10)
            if column:
                label = reference if column == 1 else maps[column - 2]
                outline(panel, plane_of(np.asarray(label).astype(int), PLANE, cut), colors, extent, linewidths=1.6)
    handles = [Patch(color=colors[value], label=NAMES[value]) for value in colors]
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), frameon=False, fontsize=10)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(IMAGES / "hippocampus.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
