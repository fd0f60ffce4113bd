# SPDX-License-Identifier: Apache-2.0
"""The files of a training: written whole, kept from an earlier run, read with what is wrong with them."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence, Set
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..files import part_of, whole_file
from ..networks.weights import load_tensors
from ..processes import is_first
from ..run_folder import RunFolder
from ..tables import number_of

__all__ = [
    "compare_trainings",
    "keep_earlier",
    "load_checkpoint",
    "moved_scans",
    "scan_changes",
    "write_checkpoint",
]


def write_checkpoint(content: Mapping[str, Any], file: Path, previous: Path | None = None) -> None:
    """
    Write tensors so that the file is whole or not there, even after a power cut; of several processes, the first does.

    Args:
        content: tensors, numbers and texts.
        file: their place.
        previous: where a file that is there already goes.
    """
    if not is_first():
        return
    # not Ignite's DiskSaver, which lets everybody read what is written, whatever the umask
    with whole_file(file, part_of(file), durable=True) as part:
        with part.open("wb") as stream:
            torch.save(content, stream)  # given a name, torch would write it into the file
        if previous is not None and file.exists():
            os.replace(file, previous)


def keep_earlier(run: RunFolder, in_use: bool) -> None:
    """
    Give the weights and checkpoints of an earlier run, if there are any, names of their own in ``checkpoints/``.

    Args:
        run: the folder.
        in_use: leave the weights in their place, beside the copy that is kept.
    """
    files = [f for f in (run.last, run.previous, run.best, run.model) if f.is_file()]
    if not files:
        return
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(files[0].stat().st_mtime))
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    stamps = chain([stamp], (f"{stamp}-{number}" for number in count(2)))  # two runs may end in one second
    free = next(s for s in stamps if not any(run.kept(file, s).exists() for file in files))
    kept = {file: run.kept(file, free) for file in files}
    for file, place in kept.items():
        if in_use and file == run.model:
            with whole_file(place) as copy:
                shutil.copy2(file, copy)
        else:
            shutil.move(file, place)
    advice = "" if in_use else " To go on with a run instead, say `--resume True`."
    names = " and ".join(place.name for place in kept.values())
    logging.getLogger("dtlp").warning(
        f"{run.root} held an earlier run: it is kept in {run.checkpoints} as {names}.{advice}"
    )


def scan_changes(before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> list[str]:
    """
    One phrase per section whose scans are others than they were, with the number and the first of them.

    Args:
        before: names of scans by section, as a checkpoint has them; sections that it does not have are not compared.
        now: the same, of this training.
    """
    phrases = []
    for section, names in before.items():
        gone, added = sorted(set(names) - set(now[section])), sorted(set(now[section]) - set(names))
        parts = [f"{len(s)} {word} ({s[0]})" for word, s in (("gone", gone), ("new", added)) if s]
        if parts:
            phrases.append(f"{section} scans were {len(names)}, are {len(now[section])}: {', '.join(parts)}")
    return phrases


def moved_scans(before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> list[str]:
    """
    One phrase per way in which scans went from what is trained on to what is validated on, or back: the weights have
    seen them, or their score has chosen weights.

    Args:
        before: names of scans by section, as a checkpoint has them.
        now: the same, of this training.
    """
    phrases = []
    for source in before:
        for target in now:
            moved = sorted(set(before[source]) & set(now[target]) - set(before.get(target, ())))
            if "validation" in (source, target) and source != target and moved:
                phrases.append(f"{number_of(len(moved), 'scan')} moved from {source} to {target} ({moved[0]})")
    return phrases


def compare_trainings(
    checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any], fixed: Set[str], allow_changes: bool
) -> None:
    """
    Compare a training with the one whose checkpoint it is to go on from; what differs is logged, if that is allowed.

    Args:
        checkpoint: the file.
        before: ``settings`` and ``scans`` in it.
        now: the same, of this training.
        fixed: settings that never may differ.
        allow_changes: whether the others, and the scans, may.

    Raises:
        InputError: with what differs and must not.
    """
    changed = {
        name: f"{name} was {old}, is {now['settings'][name]}"
        for name, old in before["settings"].items()
        if name in now["settings"] and now["settings"][name] != old
    }
    scans = before.get("scans", {})
    never = [sentence for name, sentence in changed.items() if name in fixed] + moved_scans(scans, now["scans"])
    other = [sentence for name, sentence in changed.items() if name not in fixed] + scan_changes(scans, now["scans"])
    if never or (other and not allow_changes):
        way_out = "" if never else ", or, to go on all the same, --allow_changes True"
        raise InputError(
            f"Cannot resume {checkpoint}: {'; '.join(never + other)}. Give the old values, or another "
            f"output_dir{way_out}."
        )
    if other:
        logging.getLogger("dtlp").warning(f"Resuming with changes: {'; '.join(other)}.")


def load_checkpoint(run: RunFolder) -> dict[str, Any]:
    """
    Read ``checkpoints/last.pt``.

    Raises:
        InputError: if it is empty, cut off or damaged; says what else there is.
    """
    try:
        content: dict[str, Any] = load_tensors(run.last, "a checkpoint")
        return content
    except InputError as error:
        others = {run.previous: "the checkpoint before it", run.best: "weights alone", run.model: "weights alone"}
        whole = {file: what for file, what in others.items() if _loads(file)}
        listed = ", ".join(f"{file} ({what})" for file, what in whole.items())
        way_out = f"What can be loaded: {listed}." if whole else "Nothing else here can be loaded either."
        if run.previous in whole:
            way_out += f" To go on from the former: mv {run.previous} {run.last}"
        raise InputError(f"{error} {way_out}") from error


def _loads(file: Path) -> bool:
    try:
        load_tensors(file, "")
    except InputError:
        return False
    return True
