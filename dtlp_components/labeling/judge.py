# SPDX-License-Identifier: Apache-2.0
"""How well scores without a reference tell good label maps from bad ones, where the reference is there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_roc_auc
from monai.transforms import LoadImage
from scipy.stats import spearmanr

from ..data.readers import ScanReader
from ..files import write_text
from ..metrics.overlap import batch_dice
from ..metrics.uncertainty import DISPUTED
from ..tables import align, csv_text

__all__ = ["judge_scores", "print_judgment"]

GOOD = 0.8  # Dice from which on a label map needs no correction
SCORES = {  # and whether a high one means a good label map
    "expected_dice": 1, "confidence": 1, "foreground_entropy": -1, DISPUTED: -1,
}  # fmt: skip


def judge_scores(scores: Mapping[str, np.ndarray], dice: np.ndarray) -> dict[str, tuple[float, float]]:
    """
    Spearman's rank correlation of each score with the Dice, and the area under the ROC curve for a Dice below 0.8.

    Args:
        scores: by name, one for each scan, of those in ``SCORES``.
        dice: of each scan, 0 to 1.

    Returns:
        Both by name, each the higher the better; NaN where all scans are good, or none is.

    Example:
        >>> found = judge_scores({"confidence": np.array([0.5, 0.8, 0.9])}, np.array([0.6, 0.85, 0.9]))
        >>> [round(float(value), 3) for value in found["confidence"]]
        [1.0, 1.0]
    """
    bad = torch.as_tensor(dice < GOOD).float()
    both = 0 < float(bad.sum()) < len(dice)
    found = {}
    for name, values in scores.items():
        sign = SCORES[name]
        worst_first: Any = compute_roc_auc(torch.as_tensor(-sign * values), bad, average="none") if both else "nan"
        varies = len(set(values.tolist())) > 1 and len(set(dice.tolist())) > 1
        found[name] = (float(spearmanr(sign * values, dice).statistic) if varies else float("nan"), float(worst_first))
    return found


def print_judgment(
    rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], num_classes: int, folder: Path
) -> None:
    """
    Compare label maps with their references, print what their scores are worth, and write ``judged.csv``.

    Args:
        rows: of the table of label maps, with ``image``.
        labels: reference by image.
        num_classes: with the background.
        folder: of the label maps.
    """
    read = LoadImage(reader=ScanReader(), ensure_channel_first=True)
    judged = []
    for row in rows:
        if row["image"] not in labels:
            continue
        predicted, label = (
            torch.as_tensor(read(str(file))).as_subclass(torch.Tensor).long()
            for file in (folder / os.path.basename(row["label_map"]), labels[row["image"]])
        )
        values, present = batch_dice(predicted, label, num_classes)
        there = present[1:]
        mean = float(values[1:][there].mean()) if there.any() else float(predicted.max() == 0)
        # a map with nothing in it has no scores: the worst there are
        scores = {name: float(row.get(name) or (0 if sign > 0 else np.inf)) for name, sign in SCORES.items()}
        judged.append({"scan": row["image"], "dice": round(mean, 4), **scores})
    if len(judged) < 3:
        return
    write_text(folder / "judged.csv", csv_text(judged))
    dice = np.array([row["dice"] for row in judged])
    found = judge_scores({name: np.array([row[name] for row in judged]) for name in SCORES}, dice)
    table = [["score", "Spearman with Dice", f"AUROC for Dice < {GOOD:g}"]]
    table += [[name, *("" if np.isnan(value) else f"{value:.2f}" for value in pair)] for name, pair in found.items()]
    print(
        f"\n{len(judged)} scans with a reference: mean Dice {100 * dice.mean():.1f}, {(dice < GOOD).sum()} below "
        f"{100 * GOOD:g}.\n{align(table)}"
    )
