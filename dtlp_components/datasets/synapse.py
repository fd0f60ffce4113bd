# SPDX-License-Identifier: Apache-2.0
"""Synapse (BTCV abdomen): the scans where they belong, and the three published partitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checks.arguments import check_choice
from ..keys import DatalistKeys
from .pairs import place_pair
from .published import Sections, find_files, prepare_all, published_datalists, read_split, usable_cases

__all__ = ["prepare_synapse"]

# "default" takes the partition that most likely belongs to the paper's number: Table IV (20 %) has GenericSSL's result
# of A&D, Table V (10 %) the one that SKCDF measured first. All labels belong to the 20 %, which Table IV shows them
# with.
_DEFAULT = {"20%": "genericssl", "10%": "skcdf", "100%": "genericssl"}
_PROTOCOLS = ("default", "genericssl", "skcdf", "dhc_2023")


def prepare_synapse(source: str, output: str, *, protocol: str = "default", dry_run: bool = False) -> Path | None:
    """
    Check the 30 labeled abdominal CT scans, put them into ``output`` and write the datalists of a published partition.

    Reads ``img0001.nii.gz`` and ``label0001.nii.gz`` at any depth (``RawData/Training/img`` and ``label``, or
    ``imagesTr`` and ``labelsTr``). Scans are hard-linked or copied to ``imagesTr`` and ``labelsTr``, never converted.
    Writes ``manifest.json`` and one ``datalist_<percent>.json`` for each published percentage, and
    ``datalist_100.json`` (every training case labeled), with the partition's validation and test cases.

    Three partitions are published, with different training, validation and test cases, so that their numbers cannot be
    compared with each other: ``genericssl`` (20 %), ``skcdf`` (10 and 20 %) and ``dhc_2023`` (10, 20 and 40 %). The
    paper prints no lists. ``default`` takes 20 and 100 % from ``genericssl`` and 10 % from ``skcdf``, where the results
    of its baseline come from; both have the same test cases.

    Published cases that are missing are listed and excluded; other cases are listed and ignored. A second run changes
    nothing; an interrupted one resumes where it stopped.

    Args:
        source: folder with the scans.
        output: folder to write to; may be ``source``.
        protocol: ``default``, ``genericssl``, ``skcdf`` or ``dhc_2023``.
        dry_run: print what would be done, but write nothing.

    Returns:
        ``output``, ``None`` with ``dry_run``.

    Raises:
        InputError: if a case is broken (all such cases are listed, the others are placed) or present twice, if none of
            the labeled cases is there, or if a file in ``output`` has another content than this run would write.
    """
    check_choice("protocol", protocol, _PROTOCOLS)
    source_dir, output_dir = Path(source), Path(output)
    split = read_split("synapse")
    items = {
        case: {
            DatalistKeys.IMAGE.value: f"imagesTr/img{case}.nii.gz",
            DatalistKeys.LABEL.value: f"labelsTr/label{case}.nii.gz",
        }
        for case in split["all_ids"]
    }

    # 1. what is there, against what was published
    images, labels = (
        find_files(
            source_dir,
            rf"{stem}(?P<case>\d{{4}})\.nii\.gz",
            f"{stem}0001.nii.gz to {stem}0040.nii.gz",
            {case: output_dir / item[key] for case, item in items.items()},
        )
        for stem, key in (("img", DatalistKeys.IMAGE), ("label", DatalistKeys.LABEL))
    )
    usable = usable_cases(split["all_ids"], images, set(images) - set(labels))

    # 2. the datalists
    if protocol == "default":
        chosen = _DEFAULT
    else:
        chosen = dict.fromkeys([*split["protocols"][protocol]["settings"], "100%"], protocol)
    datalists: dict[str, Any] = {}
    for percent, name in chosen.items():
        partition = split["protocols"][name]
        cases = partition["settings"].get(percent, {"labeled": partition["train"], "unlabeled": []})  # or 100 %
        sections = Sections(cases["labeled"], cases["unlabeled"], partition["validation"], partition["test"])
        datalists |= published_datalists(
            "synapse",
            split["label_map"],
            {percent.rstrip("%"): sections},
            {case: items[case] for case in usable},
            protocol=name,
            split_source=partition["source"],
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
        protocol=protocol,
        labels=split["label_map"],
        missing=sorted(set(split["all_ids"]) - set(usable)),
    )
