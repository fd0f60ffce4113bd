# SPDX-License-Identifier: Apache-2.0
"""Which values of settings can be meant: each by the table of keys, and some together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import first_line, raise_if_any
from .error_line import show_errors_in_one_line
from .key_table import check_values, model_keys
from .overrides import given_config_file, given_overrides, is_run_command, override_problems

__all__ = [
    "TWO_VOXELS",
    "Settings",
    "class_weight_problems",
    "has_two_voxels",
    "method_problems",
    "patch_size_problems",
]

TWO_VOXELS = "leaves only two voxels at the deepest stage; instance norm maps any two values to +1 and -1"
DIVISOR = 16  # four stages below full resolution, each with half of it


class Settings:
    """
    The values of a configuration's keys, checked before anything is done with them.

    It stands in ``checks::settings`` of a bundle's JSON, which names every key that has a value. ``initialize`` calls
    :py:meth:`check` first of all: a seed that is no number would otherwise end in a traceback of whoever takes it.

    Args:
        values: by the name of their key; read by :py:class:`dtlp_components.InputChecks` and recorded by the training.
        arguments: ``sys.argv``. If it is a ``python -m monai.bundle run`` command, every key on it (and in its
            ``args_file``) must exist in the configuration, and its value be of the key's kind.
        device: that torch has to know and this machine to have.
        error_file: where the traceback of an unforeseen error goes, if it is such a command; the error itself is told
            in one line.

    Example:
        >>> Settings({"patch_size": [32, 48, 30]}).problems()
        ['--patch_size: expected multiples of 16, got [32, 48, 30]; nearest: [32, 48, 16 or 32].']
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        arguments: Sequence[str] = (),
        device: str | torch.device = "cpu",
        error_file: str | None = None,
    ) -> None:
        self.values, self.arguments, self.device, self.error_file = dict(values), arguments, device, error_file

    @property
    def model(self) -> dict[str, Any]:
        """Those that weights, of the student and of the teachers, can only be used with: what a training records."""
        return {name: self.values[name] for name in model_keys(teachers=True) if name in self.values}

    def overrides(self) -> dict[str, Any]:
        """Keys that the command line sets, with their values."""
        return given_overrides(self.arguments)

    def bundle(self, otherwise: str) -> str:
        """Folder of the bundle whose configuration the command line names; ``otherwise`` if it names none."""
        file = given_config_file(self.arguments)
        return otherwise if file is None else str(Path(file).parent.parent)

    def problems(self) -> list[str]:
        """One sentence per value that cannot be meant."""
        on_the_command_line = override_problems(self.arguments)
        # what a wrong value on the command line is said to be need not be said again
        of_values = [problem for problem in check_values(self.values) if problem not in on_the_command_line]
        return [*on_the_command_line, *of_values, *self._joint_problems()]

    def check(self) -> None:
        """
        Raises:
            InputError: if there is a problem, with all of them.
        """
        if self.error_file is not None and is_run_command(self.arguments):
            show_errors_in_one_line(self.error_file, "batch_size_labeled" in self.values)
        raise_if_any(self.problems())

    def _joint_problems(self) -> Iterator[str]:
        try:
            torch.empty(0, device=self.device)
        except (AssertionError, RuntimeError, TypeError) as error:
            there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
            yield f"--device: expected one of {', '.join(there)}, got {str(self.device)!r} ({first_line(error)})."
        yield from class_weight_problems(self.values)
        if self.values.get("augment_on_device") and self.values.get("num_workers"):
            yield (
                f"--num_workers: expected 0 with --augment_on_device True, got {self.values['num_workers']}: worker "
                "processes cannot use the GPU. Leave out one of the two."
            )
        ignored, classes = self.values.get("ignore_label"), self.values.get("num_classes")
        if type(ignored) is int and type(classes) is int and ignored < classes:
            yield (
                f"--ignore_label: expected a value that is not a class, so at least {classes} (classes are 0 to "
                f"{classes - 1}), got {ignored}."
            )
        yield from method_problems(self.values)
        style = self.values.get("style", "none")
        if style != "none" and self.values.get("batch_size_unlabeled") == 0:
            yield (
                f"--style: expected none without unlabeled scans (--batch_size_unlabeled 0), got {style!r}, because "
                "the style is that of an unlabeled scan. To train on labeled scans in that style and on nothing else, "
                "use the method dtlp and add --weights::deno 0.0 --weights::diff 0.0 --weights::mix 0.0 "
                "--weights::mic 0.0 --student_difficulty_weights False"
            )
        sides = self.values.get("patch_size")
        if isinstance(sides, (list, tuple)) and not check_values({"patch_size": sides}):
            yield from patch_size_problems(sides, str(self.values.get("norm", "instance")))


def method_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong if a training would not be of the method that it is recorded as."""
    method, unlabeled = values.get("method"), values.get("batch_size_unlabeled")
    if method == "supervised" and unlabeled:
        yield (
            "--batch_size_unlabeled: expected 0 with method 'supervised', which uses no unlabeled scans, "
            f"got {unlabeled}. Leave it out; in an experiment, set it to 0 in the overrides of that variant."
        )
    elif method not in (None, "dtlp", "supervised") and unlabeled == 0:
        yield (
            f"--batch_size_unlabeled: expected at least 1 with method {method!r}, which learns from unlabeled scans, "
            "got 0. For labeled scans alone, use the method supervised."
        )


def class_weight_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong if the decoder that classes are weighed by is not trained."""
    weights, source = values.get("weights"), values.get("difficulty_source")
    if not isinstance(weights, Mapping) or not values.get("batch_size_unlabeled"):
        return
    term = {"diffusion": "deno", "difficulty": "diff"}.get(str(source))
    weighs = weights.get("diff") or (weights.get("student_labeled") and values.get("student_difficulty_weights"))
    if term is not None and weighs and not weights.get(term):
        other = "difficulty" if source == "diffusion" else "diffusion"
        yield (
            f"--weights::{term}: expected a number greater than 0, because the {source} decoder determines the class "
            f"weights (--difficulty_source), got 0. Use the other decoder, --difficulty_source {other}, or no class "
            "weights: --student_difficulty_weights False --weights::diff 0.0"
        )


def patch_size_problems(sides: Sequence[int], norm: str) -> Iterator[str]:
    """What is wrong with three positive sides of a patch in voxels, for a network with ``norm``."""
    if any(side % DIVISOR for side in sides):
        nearest = ", ".join(_nearest_multiples(side) for side in sides)
        yield f"--patch_size: expected multiples of {DIVISOR}, got {list(sides)}; nearest: [{nearest}]."
    elif all(side == DIVISOR for side in sides):
        yield (
            f"--patch_size: expected at least one side of {2 * DIVISOR} or more, got {list(sides)}, which leaves only "
            "one voxel at the deepest stage, too few for normalization."
        )
    elif norm == "instance" and has_two_voxels(sides):
        larger = [2 * DIVISOR if side == DIVISOR else side for side in sides]
        yield (
            f"--patch_size: expected a larger patch, such as {larger}, or --norm group, got {list(sides)}, which "
            f"{TWO_VOXELS}."
        )


def has_two_voxels(patch_size: Sequence[int]) -> bool:
    """Whether a patch has two voxels where the network has reduced its sides most."""
    return math.prod(side // DIVISOR for side in patch_size) == 2


def _nearest_multiples(value: int) -> str:
    below = max(value // DIVISOR, 1) * DIVISOR
    return str(below) if value <= below else f"{below} or {below + DIVISOR}"
