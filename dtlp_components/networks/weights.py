# SPDX-License-Identifier: Apache-2.0
"""Reading files of weights: what they hold, or in one sentence why they cannot be used."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import InputError, stand_in

__all__ = ["fit_problem", "load_tensors", "load_weights"]

_START = 512  # bytes that tell a web page or a pointer file


def load_weights(network: nn.Module, file: str, device: str | torch.device = "cpu") -> nn.Module:
    """
    Load a plain state dict into ``network``, move it to ``device`` and put it in eval mode.

    Raises:
        InputError: if the file does not exist, is no state dict, is damaged, belongs to a network of another shape, or
            holds numbers that are not finite.
    """
    if not os.path.isfile(file):
        raise InputError(
            f"No weights at {os.path.abspath(file)}. Train first (`python -m monai.bundle run training --config_file "
            "…/train.json`), or pass `--model_file FILE` or the `--output_dir` of a training run."
        )
    state = load_tensors(file, "the weights of a student, such as models/model.pt")
    if problem := fit_problem(network, state):
        raise InputError(f"{os.path.abspath(file)}: {problem}")
    network.load_state_dict(state)
    return network.to(device).eval()


def load_tensors(file: str | os.PathLike[str], expected: str) -> Any:
    """
    Content of a file that ``torch.save`` wrote, onto the CPU; tensors and plain values alone.

    Args:
        file: its path.
        expected: what it should have been, for the message.

    Raises:
        InputError: if it is no such file, is cut off or damaged, or holds anything that would have to be executed.
    """
    path = os.path.abspath(file)
    try:
        with open(path, "rb") as stream:
            start = stream.read(_START)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected {expected}.") from error
    try:
        # torch reads what is there; only the checksums tell that it is not what was written
        damaged = _first_damaged(path)
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        # its own text may advise `weights_only=False`, which executes whatever is in the file
        raise InputError(_why(path, start, expected)) from error
    raise InputError(f"{path}: is damaged (wrong checksum of {damaged} in it); expected {expected}.")


def _is_zip(path: str) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except OSError:  # what it takes for the file's end leads out of it
        return False


def _first_damaged(path: str) -> str | None:
    """Name of the first part of a file of tensors whose checksum is wrong; ``None`` if there is none."""
    if not _is_zip(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _why(path: str, start: bytes, expected: str) -> str:
    size = os.path.getsize(path)
    found = stand_in(start)
    if not found and start.startswith(b"PK") and not _is_zip(path):
        found = f"a truncated file of {size} bytes; copy or download it again"
    elif not found and start.startswith((b"PK", b"\x80")):
        found = (
            "a file that holds more than tensors and numbers, such as a pickled network, which is not loaded for safety"
        )
    elif not found:
        found = f"a file of {size} bytes that was not written by torch"
    return f"{path}: expected {expected}, got {found}."


def fit_problem(network: nn.Module, state: Any) -> str:
    """
    Why a state dict cannot be that of a network: its kind, a name, a shape, or a number that is not finite; empty if it
    can.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        held = f"an object with {', '.join(map(str, list(state)[:5]))}" if isinstance(state, Mapping) else "no weights"
        return f"expected a plain state dict of weights, such as models/model.pt of a training run, got {held}."
    there = network.state_dict()
    different = [
        f"{name}: expected shape {list(value.shape)}, got {list(state[name].shape)}"
        for name, value in there.items()
        if name in state and state[name].shape != value.shape
    ]
    different += [f"{name} is missing" for name in there if name not in state]
    different += [f"{name} is unknown" for name in state if name not in there]
    if different:
        more = f", and {len(different) - 1} more" if len(different) > 1 else ""
        return (
            f"does not fit the network: {different[0]}{more}. Did training use other `--features`, `--norm` or "
            "`--num_classes`?"
        )
    return next(_not_finite(state), "")


def _not_finite(state: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            yield f"expected finite weights, got NaN or infinity ({name}): training diverged; use an older checkpoint."
