# SPDX-License-Identifier: Apache-2.0
"""The mean teacher: an exponential moving average of the student."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["MeanTeacher"]

SHARE = 20  # the average reaches back over a twentieth of a training that is short


class MeanTeacher(AveragedModel):
    """
    Moving average of the student's parameters::

        xi_T <- g xi_T + (1 - g) xi,    g = min(1 - 1 / (i + 1), decay, 1 - 20 period / total_iterations)

    The first bound makes the first updates a plain mean, so that the random start is forgotten at once. The last keeps
    the average from lagging in a short training: it reaches back over a twentieth of it. Buffers are copied. Ignite's
    ``EMAHandler`` raises its momentum linearly, and keeps the average in a handler, where no labeler has it.

    Args:
        student: network to average; it is copied, not kept.
        decay: largest momentum ``g``.
        period: iterations from one update to the next.
        total_iterations: of the training; ``None`` sets no bound.

    Raises:
        ValueError: if ``decay`` is not within [0, 1), or ``period`` or ``total_iterations`` is not positive.

    Example:
        >>> student = torch.nn.Linear(1, 1, bias=False)
        >>> teacher = MeanTeacher(student, decay=0.99)
        >>> for iteration, weight in enumerate([4.0, 8.0], start=1):
        ...     _ = student.weight.data.fill_(weight)
        ...     teacher.update(student, iteration)
        >>> float(teacher.module.weight)  # the first updates are a plain mean
        6.0
    """

    def __init__(
        self, student: nn.Module, decay: float = 0.99, period: int = 1, total_iterations: int | None = None
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be within [0, 1), got {decay}.")
        if period < 1:
            raise ValueError(f"period must be a positive number of iterations, got {period}.")
        if total_iterations is not None:
            if total_iterations < 1:
                raise ValueError(f"total_iterations must be positive, got {total_iterations}.")
            decay = min(decay, max(0.0, 1 - SHARE * period / total_iterations))
        self.decay, self.period = decay, period

        super().__init__(student)
        self.requires_grad_(False)
        self.eval()

    def _apply(self, fn: Any, recurse: bool = True) -> MeanTeacher:
        # the number of updates stays on the processor, which would have to wait for the device to read it
        count = self.n_averaged
        super()._apply(fn, recurse)
        self.n_averaged = count
        return self

    def train(self, mode: bool = True) -> MeanTeacher:
        """A teacher never trains: no dropout, no statistics of its own, whatever ``mode`` says."""
        return super().train(False)

    def update(self, student: nn.Module, iteration: int) -> None:
        """Average in the student's parameters, if the iteration (from 1) is one of every ``period``."""
        if iteration % self.period == 0:
            self.update_parameters(student)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average in a network's parameters; the base's would take the number of updates to the device and back."""
        momentum = min(1 - 1 / (int(self.n_averaged) + 1), self.decay)
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), 1 - momentum)
        for mine, current in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(current)
        self.n_averaged += 1
