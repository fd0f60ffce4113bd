# SPDX-License-Identifier: Apache-2.0
"""AMOS (AMOS22): the scans where they belong, and the published split, with CT and MR told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..keys import DatalistKeys
from .pairs import place_pair
from .published import Sections, case_item, find_files, prepare_all, published_datalists, read_split, usable_cases

__all__ = ["prepare_amos"]

# not the 20 % of the same source: it was drawn from another partition, and labels three validation cases
_PERCENTS = ("2%", "5%", "10%")


def prepare_amos(source: str, output: str, *, dry_run: bool = False) -> Path | None:
    """
    Check the 360 labeled abdominal scans, put them into ``output`` and write the datalists of the published split.

    Reads ``amos_0001.nii.gz`` in ``imagesTr`` and ``imagesVa`` and in ``labelsTr`` and ``labelsVa``, at any depth.
    Scans are hard-linked or copied to folders of these names, never converted. Writes ``manifest.json``,
    ``datalist_2.json`` (4 labeled, 212 unlabeled), ``datalist_5.json`` (10, 206), ``datalist_10.json`` (21, 195) and
    ``datalist_100.json`` (216), each with the 24 published validation cases and the 120 test cases, which are the
    challenge's validation set. ``domain`` says of every case whether it is CT or MR. Published cases that are missing
    are listed and excluded; other cases are listed and ignored. A second run changes nothing; an interrupted one
    resumes where it stopped.

    Args:
        source: folder with the scans.
        output: folder to write to; may be ``source``.
        dry_run: print what would be done, but write nothing.

    Returns:
        ``output``, ``None`` with ``dry_run``.

    Raises:
        InputError: if a case is broken (all such cases are listed, the others are placed) or present twice, if none of
            the labeled cases is there, or if a file in ``output`` has another content than this run would write.
    """
    source_dir, output_dir = Path(source), Path(output)
    split = read_split("amos")
    published = [*split["train"], *split["validation"], *split["test"]]
    held_out = {"validation": split["validation"], "testing": split["test"]}
    items = {
        case: case_item(case, "Va" if case in split["test"] else "Tr", "MR" if case in split["mr_ids"] else "CT")
        for case in published
    }

    # 1. what is there, against what was published
    images, labels = (
        find_files(
            source_dir,
            rf"{folder}(Tr|Va|Ts)/(?P<case>amos_\d{{4}})\.nii\.gz",
            f"{folder}Tr/amos_0001.nii.gz to {folder}Va/amos_0600.nii.gz",
            {case: output_dir / item[key] for case, item in items.items()},
        )
        for folder, key in (("images", DatalistKeys.IMAGE), ("labels", DatalistKeys.LABEL))
    )
    usable = usable_cases(published, images, set(images) - set(labels))

    # 2. the datalists
    settings = {
        percent.rstrip("%"): Sections(cases["labeled"], cases["unlabeled"], **held_out)
        for percent, cases in split["settings"].items()
        if percent in _PERCENTS
    }
    settings["100"] = Sections(split["train"], **held_out)
    datalists = published_datalists(
        "amos", split["label_map"], settings, {case: items[case] for case in usable}, split_source=split["source"]
    )

    # 3. every case, then the lists
    def place(case: str) -> list[dict[str, Any]]:
        return [place_pair(images[case], labels[case], output_dir, items[case], split["label_map"])]

    return prepare_all(
        output_dir,
        datalists,
        usable,
        place,
        verb="place",
        dry_run=dry_run,
        split_source=split["source"],
        labels=split["label_map"],
        missing=sorted(set(published) - set(usable)),
    )
