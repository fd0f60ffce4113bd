# SPDX-License-Identifier: Apache-2.0
"""A trainer for every method that is a sequence of losses, which the method itself writes down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor

from ..keys import TrainingStreams as Streams
from .protocols import Method
from .student_trainer import StudentTrainer

__all__ = ["MethodTrainer"]


class MethodTrainer(StudentTrainer):
    """
    Train a student by one of ``dtlp_components/methods``: same data, schedule, optimizer and checks as DTLP's.

    Args:
        args: see :py:class:`StudentTrainer`.
        method: called with both batches, yields its losses.
        student: what the mean teacher follows.
        kwargs: the other arguments of :py:class:`StudentTrainer`.
    """

    def __init__(self, *args: Any, method: Method, student: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.method, self.student = method, student

    def active_terms(self) -> Mapping[str, float]:
        """As in the base."""
        return self.method.weights

    def _iteration(self, engine: Engine, batchdata: Mapping[str, Tensor]) -> dict[str, Any]:
        """
        One iteration.

        Writes to ``state.output`` what :py:class:`dtlp_components.DTLPTrainer` does, with the method's terms.

        Raises:
            NonFiniteError: if a term or the gradient norm is not finite; no weight has been changed by the iteration
                then.
        """
        ramp = self.ramp_up(engine.state.iteration - 1)
        for image_l, label_l, image_u in self._batches(engine, batchdata):
            streams = self.method(image_l, label_l, image_u, 0.0 if image_u is None else ramp)
            while True:
                with self._autocast():  # around what the method computes, not around the way back
                    step = next(streams, None)
                if step is None:
                    break
                stream, losses = step
                if losses:
                    self._backward(stream, losses)
                else:
                    self._complete(stream)

        output: Any = engine.state.output
        if self.unlabeled_data_loader is not None:
            output["ramp_up"] = ramp
        self._step(engine, self.student)
        self._complete(Streams.STEP)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output
