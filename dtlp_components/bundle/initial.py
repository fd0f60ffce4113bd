# SPDX-License-Identifier: Apache-2.0
"""Where a student's weights start: at random, or from a model that this project trained, perhaps of other classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files import read_object
from ..networks.weights import fit_problem, load_tensors
from ..run_folder import RunFolder

__all__ = ["initial_student"]

STEM = "stem.0.0.weight"  # (features, in_channels, 3, 3, 3)
HEAD = ("decoder.head.weight", "decoder.head.bias")  # one row for each class


def initial_student(
    network: nn.Module, init_from: str | None, label_names: Sequence[str], device: str | torch.device = "cpu"
) -> nn.Module:
    """
    The student on its device, with the weights of an earlier model if one is named.

    Classes are matched by name, where the file's run says what its classes were (``logs/run.json`` beside ``models/``),
    and else by number if there are as many. A class that the file does not know starts at random. If the number of
    channels differs, each one starts with the mean over the file's, scaled so that the sum stays.

    Args:
        network: a :py:class:`dtlp_components.VNet`, or one derived from it.
        init_from: a ``models/model.pt``; ``None`` or empty leaves the random weights.
        label_names: of the network's classes, the background first.
        device: where to put the network.

    Raises:
        InputError: if the file is none of this project's models, or of another number of features or norm.

    Example:
        >>> student = initial_student(torch.nn.Conv3d(1, 2, 1), None, ["background", "liver"])
        >>> student.weight.shape
        torch.Size([2, 1, 1, 1, 1])
    """
    if not init_from:
        return network.to(device)
    path = os.path.abspath(init_from)
    if not os.path.isfile(path):
        raise InputError(f"--init_from: expected a model's file such as RUN/models/model.pt, got {path}: not there.")
    given = load_tensors(path, "the weights of a student, such as models/model.pt")
    own = network.state_dict()
    if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()):
        raise InputError(f"--init_from {path}: {fit_problem(network, given)}")
    state, notes = dict(given), []
    if STEM in state and STEM in own:
        state[STEM], note = _matched_channels(state[STEM], own[STEM])
        notes += note
    if all(name in state and name in own for name in HEAD):
        names = _classes_of(path)
        rows, note = _matched_classes(names, label_names, len(state[HEAD[0]]))
        for name in HEAD:
            if state[name].shape[1:] == own[name].shape[1:]:
                old = state[name]
                state[name] = torch.stack(
                    [own[name][i] if row is None else old[row].to(own[name]) for i, row in enumerate(rows)]
                )
        notes += note
    if problem := fit_problem(network, state):
        raise InputError(f"--init_from {path}: {problem}")
    network.load_state_dict(state)
    logging.getLogger("dtlp").info(f"The student starts from {path}" + "".join(f"; {note}" for note in notes) + ".")
    return network.to(device)


def _matched_channels(given: Tensor, own: Tensor) -> tuple[Tensor, list[str]]:
    there, here = given.shape[1], own.shape[1]
    if there == here or given.shape[:1] != own.shape[:1] or given.shape[2:] != own.shape[2:]:
        return given, []
    spread = given.mean(dim=1, keepdim=True).expand(-1, here, -1, -1, -1) * (there / here)
    return spread.contiguous(), [f"{there} input channels there, {here} here: each starts with their mean"]


def _matched_classes(
    there: Sequence[str] | None, here: Sequence[str], count: int
) -> tuple[list[int | None], list[str]]:
    """For each class of the network the file's class that it starts from, or ``None``."""
    if there is None or len(there) != count:
        if count == len(here):
            return list(range(count)), ["classes by their numbers, since their names are not on record"]
        rows: list[int | None] = [0, *[None] * (len(here) - 1)]
        return rows, [f"{count} classes there, {len(here)} here, and no names on record: all but the background anew"]
    rows = [there.index(name) if name in there else None for name in here]
    taken = [name for name, row in zip(here, rows, strict=True) if row is not None]
    anew = [name for name, row in zip(here, rows, strict=True) if row is None]
    notes = [f"classes taken by name: {', '.join(taken) or 'none'}"]
    if anew:
        notes.append(f"anew: {', '.join(anew)}")
    return rows, notes


def _classes_of(path: str) -> Sequence[str] | None:
    record = RunFolder.of_weights(path).record
    if not record.is_file():
        return None
    settings: Any = read_object(record, "the record of a training").get("settings")
    names = settings.get("label_names") if isinstance(settings, dict) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
