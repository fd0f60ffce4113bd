# SPDX-License-Identifier: Apache-2.0
"""MMWHS (2017 whole-heart challenge): labels to classes, and the published lists for adaptation between CT and MR."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..checks.arguments import check_choice
from ..data.nifti import save_nifti
from ..errors import InputError
from ..files import place_file
from ..keys import DatalistKeys
from .pairs import describe_converted, label_extent, load_pair
from .published import (
    Sections,
    case_item,
    find_files,
    name_cases,
    prepare_all,
    published_datalists,
    read_split,
    usable_cases,
)

__all__ = ["prepare_mmwhs"]

_CLEARED = "mr_train_1002"  # the one label that the published code clears at the borders


def _to_classes(label: Path, voxels: np.ndarray, raw_values: Mapping[str, int]) -> tuple[np.ndarray, dict[str, int]]:
    """The classes of a raw label, same shape, and how many voxels of every other value became background."""
    found, inverse, counts = np.unique(voxels, return_inverse=True, return_counts=True)
    classes = np.array([raw_values.get(f"{value:g}", 0) for value in found], dtype=np.uint8)
    if not classes.any():
        raise InputError(f"{label}: expected only the values {', '.join(raw_values)}, got {found[:10].tolist()}.")
    dropped = {
        f"{value:g}": int(n) for value, n, c in zip(found, counts, classes, strict=True) if c == 0 and value != 0
    }
    return classes[inverse].reshape(voxels.shape), dropped


def _published_box(
    label: Path, classes: np.ndarray, affine: np.ndarray, *, clear_borders: bool = False
) -> list[list[int]]:
    """
    The published crop around a label: along x to the left, y to the back and z to the head four voxels more before its
    first voxel and three after its last one, as far as the volume goes.

    Args:
        label: file of the label, for the error message.
        classes: its values ``(x, y, z)`` as stored.
        affine: ``(4, 4)``, voxel index to mm in RAS.
        clear_borders: leave out what the published code sets to background before it takes the box.

    Returns:
        ``published_box``, in voxels as stored.
    """
    orientations = nib.orientations
    to_lps = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt("LPS"))
    lps = orientations.apply_orientation(classes, to_lps)
    if clear_borders:
        lps = lps.copy()  # else a view of the label
        lps[:4] = lps[:, -10:-1] = lps[:, :, :4] = 0
    # 4 after the last voxel, but this end is excluded: the published slices end so
    box = [
        (max(first - 4, 0), min(last + 4, size))
        for size, (first, last) in zip(lps.shape, label_extent(label, lps), strict=True)
    ]
    stored = []
    for size, (axis, direction) in zip(classes.shape, to_lps, strict=True):
        start, end = box[int(axis)]
        stored.append([start, end] if direction > 0 else [size - end, size - start])
    return stored


def prepare_mmwhs(source: str, output: str, *, validation: str = "none", dry_run: bool = False) -> Path | None:
    """
    Turn the raw labels of 20 CT and 20 MR scans into classes and write the published lists for domain adaptation.

    Reads ``ct_train_1001_image.nii.gz`` and ``ct_train_1001_label.nii.gz`` (and ``mr_...``) at any depth, side by side
    or in ``imagesTr`` and ``labelsTr``. Images are hard-linked or copied to ``imagesTr``; labels are written to
    ``labelsTr`` on the same grid, with the values 205, 420, 500 and 820 as classes 1 to 4 and every other one as
    background. How many voxels of which value became background is in ``manifest.json``.

    Writes ``datalist_mr2ct.json`` and ``datalist_ct2mr.json``: 16 labeled scans of the source, 13 unlabeled and 4
    test scans of the target, which is the second one named; and ``datalist_mr2ct_100.json`` and
    ``datalist_ct2mr_100.json``, where the 13 are labeled too. ``domain`` says of every case whether it is CT or MR,
    ``published_box`` what the published code crops it to: the label's box and about 4 voxels more, unlabeled cases too.

    The published code chooses its checkpoint on 3 further labeled scans of the target. Without labels in the target,
    which is what the task assumes, there is nothing to validate on, so that these scans are in no list unless
    ``validation`` is ``published``. Missing published cases are listed and excluded; other cases are listed and
    ignored. An interrupted run resumes where it stopped: valid converted pairs are kept.

    Args:
        source: folder with the scans.
        output: folder to write to.
        validation: ``none``, or ``published`` to put the 3 scans of the target into ``validation``.
        dry_run: print what would be done, but write nothing.

    Returns:
        ``output``, ``None`` with ``dry_run``.

    Raises:
        InputError: if a case is broken (all such cases are listed, the others are converted) or present twice, if none
            of the labeled cases is there, or if a file in ``output`` has another content than this run would write.
    """
    check_choice("validation", validation, ("none", "published"))
    source_dir, output_dir = Path(source), Path(output)
    split = read_split("mmwhs")
    published = sorted({case for lists in split["settings"].values() for cases in lists.values() for case in cases})
    # without the raw names' ending, so that a converted label can never take the place of a raw one
    items = {case: case_item(case, domain=case[:2].upper()) for case in published}

    # 1. what is there, against what was published
    images, labels = (
        find_files(
            source_dir,
            rf"(?P<case>(ct|mr)_[a-z]+_\d{{4}})_{kind}\.nii\.gz",
            f"ct_train_1001_{kind}.nii.gz to mr_train_1020_{kind}.nii.gz",
        )
        for kind in ("image", "label")
    )
    usable = usable_cases(published, images, set(images) - set(labels))

    # 2. the datalists
    held_back = {name: lists["target_validation_in_reference"] for name, lists in split["settings"].items()}
    settings = {}
    for name, lists in split["settings"].items():
        held_out = {
            "validation": held_back[name] if validation == "published" else [],
            "testing": lists["target_test"],
        }
        labeled, unlabeled = lists["source_labeled"], lists["target_unlabeled"]
        settings[name] = Sections(labeled, unlabeled, **held_out)
        settings[f"{name}_100"] = Sections([*labeled, *unlabeled], **held_out)
        if validation == "none":
            name_cases(
                f"Labeled target cases used for validation by the published code; not in {name}", held_back[name]
            )
    datalists = published_datalists(
        "mmwhs", split["label_map"], settings, {case: items[case] for case in usable}, split_source=split["source"]
    )

    # 3. every case, then the lists
    def convert(case: str) -> list[dict[str, Any]]:
        item = items[case]
        image, label = (output_dir / item[key] for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL))
        _, voxels, affine = load_pair(images[case], labels[case])
        classes, dropped = _to_classes(labels[case], voxels, split["raw_values"])
        place_file(images[case], image)
        save = partial(save_nifti, label, classes, affine)
        find_box = partial(_published_box, clear_borders=case == _CLEARED)
        described = describe_converted(image, label, split["label_map"], save, find_box)
        return [{**item, "to_background": dropped, **described}]

    return prepare_all(
        output_dir,
        datalists,
        usable,
        convert,
        verb="convert",
        dry_run=dry_run,
        split_source=split["source"],
        labels=split["label_map"],
        raw_values=split["raw_values"],
        validation=validation,
        target_validation_in_reference=held_back,
        missing=sorted(set(published) - set(usable)),
    )
