# SPDX-License-Identifier: Apache-2.0
"""``dtlp next``: which scans to label next, and why."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from monai.transforms import LoadImage
from tqdm.auto import tqdm

from ..data.channel_files import shown_channel
from ..data.readers import ScanReader
from ..data.review import review_row, update_table
from ..data.segmentations import printable
from ..errors import InputError
from ..files import write_text
from ..handlers.score_table import case_names
from ..handlers.training_curves import save_figure
from ..keys import ScanKeys
from ..report.scan_view import draw_scan
from ..tables import align, csv_text
from .opinions import ScanOpinion
from .pool import Pool, find_pool
from .strategies import BY_TEACHERS, STRATEGIES, Choice, choose_scans

__all__ = ["next_scans"]


def next_scans(
    bundle: str,
    unlabeled: str = "",
    count: int = 5,
    strategy: str = "random",
    output_dir: str = "",
    output: str = "",
    dataset_dir: str = "",
    datalist: str = "",
    seed: int = 0,
    device: str = "",
) -> list[str]:
    """
    Choose the scans to label next, with the reason and a picture of each.

    The networks' predictions are cached, so asking again is fast. Draw the labels, enter their paths in review.csv, and
    train with --review review.csv; nothing else has to be changed.

    Args:
        bundle: folder of the bundle, or its name.
        unlabeled: a NIfTI file or a folder of scans; by default, the unlabeled scans of the datalist.
        count: how many scans to choose.
        strategy: random; disagreement (of the teachers); diverse (unlike the labeled ones); mixed (both).
        output_dir: folder of the training run; by default, the bundle's folder.
        output: folder for next.csv, review.csv and the pictures; by default, <output_dir>/next.
        dataset_dir: folder of the scans; by default, the one used in training, or else the bundle's.
        datalist: datalist file; by default, the one used in training, or else the bundle's.
        seed: random seed of the strategy random.
        device: cpu, cuda, cuda:1 …; by default, cuda if available.

    Returns:
        Paths of the scans, the one to begin with first.

    Raises:
        InputError: if there is no training or no scan, or the strategy needs teachers that the training did not have.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"--strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}.")
    if count < 1:
        raise InputError(f"--count: expected an integer of at least 1, got {count}.")
    pool = find_pool(bundle, output_dir, unlabeled, dataset_dir, datalist, device=device)
    if strategy in BY_TEACHERS and not pool.has_teachers:
        raise InputError(
            f"--strategy {strategy}: expected a training run with teachers, whose disagreement it uses, got one "
            f"without {pool.run.last}, without unlabeled scans or with a method that has only one teacher. --strategy "
            "diverse and random need no teachers."
        )
    folder = Path(output) if output else pool.run.next_scans
    asked = [*pool.unlabeled, *pool.labeled]
    if strategy == "random":  # for which nobody needs to look at more than those that are drawn
        blind = [ScanOpinion(path, {}, {}, []) for path in pool.unlabeled]
        asked = [pool.unlabeled[choice.index] for choice in choose_scans(strategy, blind, [], count, seed)]
    opinions, problems = pool.opinions(asked, folder / "opinions.json")
    paths = [path for path in asked if path in opinions and path not in pool.labeled]
    labeled = [opinions[path] for path in pool.labeled if path in opinions]
    choices = choose_scans(strategy, [opinions[path] for path in paths], labeled, count, seed)
    names = case_names(paths)
    chosen = [paths[choice.index] for choice in choices]

    rows = [_row(i, names[c.index], paths[c.index], c, opinions) for i, c in enumerate(choices, start=1)]
    columns = dict.fromkeys(column for row in rows for column in row)
    write_text(folder / "next.csv", csv_text(rows, columns))
    update_table(folder / "review.csv", [review_row(path) for path in chosen])
    pictures = _draw(pool, choices, paths, names, folder)

    table = [["", "scan", "expected Dice", "why"]]
    for row in rows:
        expected = f"{100 * row['expected_dice']:.1f}" if "expected_dice" in row else ""
        table.append([str(row["rank"]), row["scan"], expected, row["reason"]])
    print(align(table))
    for problem in problems:
        print(f"Left out: {problem}")
    print(
        f"\n{len(chosen)} of {len(pool.unlabeled)} scans chosen by strategy {strategy}. Pictures: "
        f"{os.path.abspath(folder)}"
    )
    if pictures:
        print(f"Could not be drawn: {'; '.join(pictures)}")
    review = str(folder / "review.csv")
    print(
        f"Next, draw their labels, enter each label file in column `label` of {review} with the verdict `corrected`, "
        f"and train: {shlex.join(['dtlp', 'train', bundle, '--review', review, '--output_dir', 'NEW_RUN'])}"
    )
    return chosen


def _row(rank: int, name: str, path: str, choice: Choice, opinions: Any) -> dict[str, Any]:
    opinion = opinions[path]
    scores = {key: round(value, 4) for key, value in opinion.scores.items()}
    by_class = {f"disagreement on {label}": round(value, 4) for label, value in opinion.by_class.items()}
    return {
        "rank": rank, "scan": printable(name), "image": printable(path), "reason": choice.reason, **scores, **by_class
    }  # fmt: skip


def _draw(pool: Pool, choices: list[Choice], paths: list[str], names: list[str], folder: Path) -> list[str]:
    """Write a picture of each chosen scan; returns what could not be drawn."""
    segment, read = pool.segmenter(), LoadImage(reader=ScanReader(), ensure_channel_first=True)
    wrong = []
    images, channels = pool.images([paths[choice.index] for choice in choices]), pool.trained.channels
    for rank, (choice, (path, image, problem)) in enumerate(
        zip(choices, tqdm(images, total=len(choices), desc="drawing", unit="scan", disable=None), strict=True), start=1
    ):
        if image is None:
            wrong.append(problem)
            continue
        found = segment(image)
        heat_key = ScanKeys.DISAGREEMENT if ScanKeys.DISAGREEMENT in found else ScanKeys.ENTROPY
        heat_name = "disagreement, bits" if heat_key == ScanKeys.DISAGREEMENT else "entropy, bits"
        title = f"{rank}. {names[choice.index]}\n{choice.reason}"
        figure = draw_scan(
            read(shown_channel(path, channels)),
            found[ScanKeys.PRED],
            found[heat_key],
            pool.label_names,
            title,
            heat_name,
        )
        save_figure(figure, folder / f"{rank:02d}_{names[choice.index].replace(os.sep, '_')}.png")
    return wrong
