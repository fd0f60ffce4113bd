# SPDX-License-Identifier: Apache-2.0
"""Whether label maps can be written where they are to go, without a loss."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ..data.segmentations import COMPANIONS, LABEL_MAP_ENDING, TABLE, PredictionNames, printable, read_table
from ..files import claimed_by, part_name
from ..run_folder import RunFolder, in_use_sentence

__all__ = ["output_problems", "run_folder_problems"]

CHECKPOINT_SHARES = 3  # of the network's size


def output_problems(
    prediction_dir: str, images: Sequence[str], input: str | None, channels: Sequence[str] = ()
) -> Iterator[str]:
    """
    What is wrong with a folder for label maps, which is made.

    Args:
        prediction_dir: the folder.
        images: paths of the scans to segment.
        input: what :py:func:`dtlp_components.find_images` was given; with it, label maps of other scans that an earlier
            run has left under the same names are not overwritten.
        channels: endings of the files of the channels (:py:class:`dtlp_components.ScanReader`).
    """
    place = os.path.abspath(prediction_dir)
    try:
        os.makedirs(place, exist_ok=True)
        # also where the permissions do not tell: a full or read-only disk
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"0")
    except OSError as error:
        yield f"{place}: cannot be written to ({error.strerror}); expected a writable folder for the label maps."
    taken = {os.path.realpath(folder) for image in images for folder in (image, os.path.dirname(image))}
    if input is not None:
        taken.add(os.path.realpath(input))
    if os.path.realpath(place) in taken:
        yield (
            f"{place}: expected a folder other than that of the scans; otherwise the next run would segment the label "
            "maps."
        )
    if input is not None:
        yield from _long_names(place, images, PredictionNames(input, channels))
        yield from _overwriting_problems(Path(place), images, PredictionNames(input, channels))


def _long_names(place: str, images: Sequence[str], names: PredictionNames) -> Iterator[str]:
    """Scans whose label maps, or what is written beside them, would have names that no file may have."""
    try:
        most = os.pathconf(place, "PC_NAME_MAX")
    except OSError:  # not there, which has been said
        return
    longest = len(part_name("") + max(COMPANIONS.values(), key=len))
    for image in images:
        length = len(os.fsencode(names.name_of(image)))
        if length + longest > most:
            yield (
                f"{printable(image)}: expected at most {most - longest} characters for the name of its label map, "
                f"which is derived from the path, got {length}. Shorten the name, or set --input to a folder closer "
                "to the scan."
            )


def run_folder_problems(output_dir: str, network: object = None) -> Iterator[str]:
    """
    What would keep a training from writing into its folder; nothing is made.

    Args:
        output_dir: the folder.
        network: what is trained; two checkpoints of it, the last and the one before, have to fit.
    """
    run = RunFolder(output_dir)
    place = where = Path(os.path.abspath(output_dir))
    try:
        for folder in (run.checkpoints, run.model.parent, run.logs):
            where = _first_there(folder.absolute())
            # also where the permissions do not tell: a full or read-only disk
            with tempfile.TemporaryFile(dir=where) as file:
                file.write(b"0")
        free = shutil.disk_usage(_first_there(place)).free
    except OSError as error:
        yield (
            f"--output_dir {place}: cannot be written to ({where}: {error.strerror}); expected a writable folder for "
            "checkpoints and logs."
        )
        return
    if holder := claimed_by(run.lock):
        yield in_use_sentence(run, holder)
    if isinstance(network, torch.nn.Module):
        # the network, its optimizer's state and the mean teacher
        bytes_of_one = CHECKPOINT_SHARES * sum(
            tensor.numel() * tensor.element_size() for tensor in network.parameters()
        )
        if free < 2 * bytes_of_one:
            yield (
                f"--output_dir {place}: expected at least {2 * bytes_of_one / 1e9:.2g} GB of free disk space for two "
                f"checkpoints, got {free / 1e9:.2g} GB."
            )


def _first_there(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    return next(place for place in (folder, *folder.parents) if os.path.lexists(place))


def _overwriting_problems(place: Path, images: Sequence[str], names: PredictionNames) -> Iterator[str]:
    scans = {names.name_of(image) + LABEL_MAP_ENDING: printable(image) for image in images}
    for row in read_table(place):
        name = os.path.basename(row["label_map"])
        if name in scans and scans[name] != row["scan"] and (place / name).is_file():
            yield (
                f"{place / name}: is the label map of {row['scan']} (according to {TABLE}) and would be overwritten by "
                f"that of {scans[name]}. Use another --prediction_dir, or move the file."
            )
