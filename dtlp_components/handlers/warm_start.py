# SPDX-License-Identifier: Apache-2.0
"""Going on from an earlier model: when its weights have been loaded into the student, the teachers follow."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from ..networks.weights import load_tensors
from ..run_folder import RunFolder

__all__ = ["WarmStart"]


class WarmStart:
    """
    Give the teachers what goes with a student that already has the weights of ``models/model.pt``.

    MONAI Label puts a ``CheckpointLoader`` before the bundle's handlers, which knows the student alone. A good student
    beside teachers with random weights would be taught by them. So, if at the start of a training the student is the
    one in ``models/model.pt``, the mean teacher becomes its copy, and the rest of the network (the other decoders)
    comes from ``checkpoints/last.pt``, if one of the same shape is there. A student with other weights is left alone.
    Optimizer and schedules start anew. Attach it after what loads the student and before
    :py:class:`TrainingCheckpoint`, which puts the earlier files aside, or resumes.

    Args:
        student: network that ``model.pt`` belongs to, a part of `network`.
        network: training network.
        mean_teacher: has the moving average as its ``module``.
        output_dir: holds ``models/`` and ``checkpoints/``.

    Example:
        >>> import os, tempfile
        >>> from ignite.engine import Engine
        >>> folder = tempfile.TemporaryDirectory()
        >>> student, teacher = torch.nn.Linear(1, 1), MeanTeacher(torch.nn.Linear(1, 1))
        >>> os.mkdir(os.path.join(folder.name, "models"))
        >>> torch.save(student.state_dict(), os.path.join(folder.name, "models", "model.pt"))
        >>> engine = Engine(lambda engine, batch: None)
        >>> WarmStart(student, student, teacher, folder.name).attach(engine)
        >>> _ = engine.run([0], max_epochs=1)
        >>> bool(teacher.module.weight == student.weight)
        True
    """

    def __init__(self, student: nn.Module, network: nn.Module, mean_teacher: Any, output_dir: str) -> None:
        self.student, self.network, self.mean_teacher = student, network, mean_teacher
        self.run = RunFolder(output_dir)
        self.logger = logging.getLogger("dtlp")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if not self.run.model.is_file():
            return
        exported = load_tensors(self.run.model, "the weights of a student")
        if not _are_equal(self.student.state_dict(), exported):
            self.logger.info(
                f"The student does not have the weights of {self.run.model}: training starts without them."
            )
            return
        teachers = "teachers' decoders from the beginning"
        if self.run.last.is_file():
            content = load_tensors(self.run.last, "a checkpoint")
            rest = content.get("network", {}) if isinstance(content, dict) else {}
            if _shapes(rest) == _shapes(self.network.state_dict()):
                self.network.load_state_dict(rest)
                self.student.load_state_dict(exported)  # last.pt has the student of the last iteration, not its average
                teachers = f"teachers' decoders with those of {self.run.last}"
        self.mean_teacher.module.load_state_dict(exported)
        self.logger.info(f"The student goes on from {self.run.model}, the {teachers}.")


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _are_equal(state: dict[str, torch.Tensor], other: Any) -> bool:
    if not isinstance(other, dict) or state.keys() != other.keys():
        return False
    return all(torch.equal(value.cpu(), other[name]) for name, value in state.items())
