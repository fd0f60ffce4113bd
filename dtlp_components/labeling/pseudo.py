# SPDX-License-Identifier: Apache-2.0
"""``dtlp pseudo``: the pseudo-labels of all scans without a label, worst first, to look through and to decide on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..checks.literals import literal
from ..data.datalists import load_datalist
from ..data.review import review_row, update_table
from ..data.scans import without_label_map
from ..data.segmentations import printable, read_table
from ..deploy.segment import segment_scans
from ..errors import InputError
from ..files import write_text
from ..handlers.score_table import case_names
from ..keys import DatalistKeys as Keys
from ..keys import PseudoLabelSources as Sources
from ..metrics.uncertainty import DISPUTED
from ..report.scan_view import picture_label_maps
from ..tables import align
from .judge import print_judgment
from .pool import Pool, find_pool
from .review_page import ReviewedScan, render_review

__all__ = ["write_pseudo_labels"]

SHOWN = 10
FACTS = {
    DISPUTED: "disagreement, bits", "foreground_entropy": "entropy, bits", "confidence": "confidence",
    "expected_dice": "expected Dice",
}  # fmt: skip


def write_pseudo_labels(
    bundle: str,
    unlabeled: str = "",
    output_dir: str = "",
    output: str = "",
    source: str = "ensemble",
    dataset_dir: str = "",
    datalist: str = "",
    section: str = "unlabeled",
    device: str = "",
) -> Path:
    """
    Write the teachers' pseudo-labels of the unlabeled scans, worst first, for review.

    The folder gets a label map of each scan and a map of where the teachers disagree; a picture of each; index.html, to
    review them in a browser; and review.csv, for the verdicts accept, reject and corrected, which `dtlp train --review`
    reads. Existing files are not recomputed, and verdicts are kept.

    The label maps come from the final weights and whole scans; during training, the teachers label the sampled patches
    with their current weights.

    Args:
        bundle: folder of the bundle, or its name.
        unlabeled: a NIfTI file or a folder of scans; by default, the unlabeled scans of the datalist.
        output_dir: folder of the training run; by default, the bundle's folder.
        output: folder for the results; by default, <output_dir>/pseudo_labels.
        source: ensemble, from which training learns; or one of diffusion, difficulty, first_teacher, mean_teacher.
        dataset_dir: folder of the scans; by default, the one used in training, or else the bundle's.
        datalist: datalist file; by default, the one used in training, or else the bundle's.
        section: of the datalist; of one with labels (validation, testing) the scores are judged by the true Dice.
        device: cpu, cuda, cuda:1 …; by default, cuda if available.

    Returns:
        Path of the page.

    Raises:
        InputError: if there is no such training or no scan, or it had no teachers; at the end, if a scan was skipped.
    """
    known = [name.value for name in Sources if name != Sources.STUDENT]
    if source not in known:
        raise InputError(
            f"--source: expected one of {', '.join(known)}, got {source!r}. Use dtlp segment for the student's."
        )
    pool = find_pool(bundle, output_dir, unlabeled, dataset_dir, datalist, section, device)
    if not pool.has_teachers:
        raise InputError(
            f"{pool.run.root}: expected a training run with unlabeled scans, two teachers and {pool.run.last}, got one "
            "without. Use dtlp segment for the student's labels."
        )
    folder = Path(output) if output else pool.run.proposals
    images = [{Keys.IMAGE.value: path} for path in pool.unlabeled]
    # a teacher that has learned more says something else
    left = without_label_map(images, str(folder), str(pool.run.last))
    print(f"{len(images) - len(left)} of {len(images)} scans already have a label map in {folder}.", flush=True)
    problem: InputError | None = None
    if left:
        try:
            _segment(pool, left, folder, source)
        except InputError as error:  # what could be labeled is to be looked at all the same
            problem = error
    rows = _rows(folder, pool.unlabeled)
    drawn = picture_label_maps(
        [{**row, "scan": row["image"]} for row in rows], folder, pool.label_names, pool.trained.channels
    )
    page = _write(pool, rows, drawn, folder, bundle, source)
    if labels := _labels(pool, datalist, dataset_dir, section if not unlabeled else ""):
        print_judgment(rows, labels, len(pool.label_names), folder)
    if problem is not None:
        raise problem
    return page


def _segment(pool: Pool, items: Sequence[Mapping[str, str]], folder: Path, source: str) -> None:
    listed = [{key: literal(value) for key, value in item.items()} for item in items]
    root = os.path.commonpath([os.path.dirname(item[Keys.IMAGE.value]) for item in items])
    given: dict[str, Any] = {"dataset::data": listed, "source": source}
    model, last = str(pool.trained.weights), str(pool.run.last)
    segment_scans(
        str(pool.trained.folder), root, str(folder), model_file=model, checkpoint=last, device=str(pool.device),
        uncertainty=True, **given,
    )  # fmt: skip


def _rows(folder: Path, paths: Sequence[str]) -> list[dict[str, Any]]:
    """
    Rows of the table of label maps that are of these scans, worst first. Where the teachers disagree most, Dice is
    lowest more often than where the ensemble expects it to be (docs/how-to/label.md); with nothing in it, a map is the
    worst.
    """
    known = {printable(path): path for path in paths}
    rows = [
        {**row, "image": known[row["scan"]]}
        for row in read_table(str(folder))
        if row["scan"] in known and row.get("label_map")
    ]
    return sorted(rows, key=_quality)


def _quality(row: Mapping[str, Any]) -> float:
    """1 where the teachers agree on all of the foreground, less where they do not, 0 for a map with nothing in it."""
    return max(0.0, 1 - float(row[DISPUTED])) if row.get(DISPUTED) else 0.0


def _write(
    pool: Pool, rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, str], folder: Path, bundle: str, source: str
) -> Path:
    """The table of verdicts, with those that are in it already, and the page."""
    file, page = folder / "review.csv", folder / "index.html"
    label_maps = [os.path.abspath(folder / os.path.basename(row["label_map"])) for row in rows]
    fresh = [review_row(r["image"], label_map, _quality(r)) for r, label_map in zip(rows, label_maps, strict=True)]
    review = update_table(file, fresh)
    names = case_names([row["image"] for row in rows])
    scans = [
        ReviewedScan(
            name=name,
            row=verdict,
            facts={words: f"{float(row[key]):.3f}" for key, words in FACTS.items() if row.get(key)},
            picture=quote(pictures[row["image"]]),
        )
        for name, row, verdict in zip(names, rows, review, strict=True)
    ]
    command = shlex.join(["dtlp", "train", bundle, "--review", str(file), "--output_dir", "NEW_RUN"])
    texts = [
        f"Label maps of source {source} of {os.path.abspath(pool.run.root)}, sorted by decreasing disagreement of "
        "the teachers. Errors that all teachers share do not show as disagreement.",
        "Review as many as you like, and save the table as review.csv in this folder, replacing the old one. Then: "
        f"{command}",
    ]
    write_text(page, render_review(f"Pseudo-labels of {pool.trained.folder.name}", texts, scans))
    table = [["scan", *FACTS.values()]]
    for scan in scans[:SHOWN]:
        table.append([scan.name, *(scan.facts.get(words, "") for words in FACTS.values())])
    print(
        f"{align(table)}\n{'…' if len(scans) > SHOWN else ''}\n{len(scans)} label maps, those with the most "
        "disagreement first."
    )
    print(f"Review them: {page.absolute()}\nVerdicts: {file.absolute()}")
    print(f"Then: {command}")
    return page


def _labels(pool: Pool, datalist: str, dataset_dir: str, section: str) -> dict[str, str]:
    """True labels of a section that has them, by image; never of ``unlabeled``."""
    if not section or section == Keys.UNLABELED.value:
        return {}
    items = load_datalist(*pool.lists(datalist, dataset_dir, section))
    return {item[Keys.IMAGE.value]: item[Keys.LABEL.value] for item in items if Keys.LABEL.value in item}
