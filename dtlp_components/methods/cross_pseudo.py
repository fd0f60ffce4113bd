# SPDX-License-Identifier: Apache-2.0
"""Two students that teach each other: cross pseudo supervision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch.nn.functional as F
from torch import Tensor

from ..keys import MethodTerms as Terms
from ..keys import TrainingStreams as Streams
from ..networks.two_students import TwoStudents

__all__ = ["CrossPseudoSupervision"]


class CrossPseudoSupervision:
    """
    CPS (Chen et al. 2021) as SSL4MIS trains it on volumes (``train_cross_pseudo_supervision_3D.py``, 06df604)::

        L = sum over both students of  DiceCE(f_i(x_l), y_l) + weight * ramp * CE(f_i(x_u), argmax f_j(x_u))

    The published code steps each student with an optimizer of its own; with one for both, the steps are the same, but
    gradients are clipped together.

    Args:
        students: the student that is kept and a second one.
        loss: DiceCE of logits and class indices.
        weight: of the other's labels.

    Example:
        >>> student = VNet(num_classes=2, features=2)
        >>> method = CrossPseudoSupervision(TwoStudents(student), PartialDiceCELoss())
        >>> image, label = torch.rand(2, 1, 32, 16, 16), torch.zeros(2, 1, 32, 16, 16).long()
        >>> [str(term) for stream, losses in method(image, label, image, ramp=1.0) for term in losses]
        ['student_labeled', 'second_labeled', 'cross']
    """

    def __init__(self, students: TwoStudents, loss: Callable[[Tensor, Tensor], Tensor], weight: float = 0.1) -> None:
        self.students, self.loss = students, loss
        self.weights: dict[str, float] = {Terms.STUDENT_LABELED: 1.0, Terms.SECOND_LABELED: 1.0, Terms.CROSS: weight}

    def __call__(
        self, image_l: Tensor, label_l: Tensor, image_u: Tensor | None, ramp: float
    ) -> Iterator[tuple[Streams, Mapping[str, tuple[float, Tensor]]]]:
        """See :py:class:`dtlp_components.engines.protocols.Method`."""
        first, second = self.students.student, self.students.second
        yield Streams.LABELED, {Terms.STUDENT_LABELED: (1.0, self.loss(first(image_l).float(), label_l))}
        yield Streams.LABELED, {Terms.SECOND_LABELED: (1.0, self.loss(second(image_l).float(), label_l))}
        if image_u is None or ramp == 0:
            return
        logits, others = first(image_u).float(), second(image_u).float()
        loss = F.cross_entropy(logits, others.argmax(dim=1)) + F.cross_entropy(others, logits.argmax(dim=1))
        yield Streams.UNLABELED, {Terms.CROSS: (ramp * self.weights[Terms.CROSS], loss)}
