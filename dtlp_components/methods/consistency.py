# SPDX-License-Identifier: Apache-2.0
"""Consistency with a mean teacher: mean teacher and UA-MT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..keys import MethodTerms as Terms
from ..keys import TrainingStreams as Streams
from ..metrics.uncertainty import entropy_bits

__all__ = ["MeanTeacherConsistency", "UncertaintyAwareConsistency"]

Step = tuple[Streams, Mapping[str, tuple[float, Tensor]]]


class MeanTeacherConsistency:
    """
    Mean teacher (Tarvainen and Valpola 2017) as SSL4MIS trains it on volumes (``train_mean_teacher_3D.py``, 06df604)::

        L = DiceCE(f(x_l), y_l) + weight * ramp * mean((softmax f(x_u) - softmax f_T(x_u + noise))^2)

    The published teacher runs in train mode, with dropout; here it has none (UA-MT's passes do).

    Args:
        student: network that is trained.
        mean_teacher: its moving average; carries no gradient.
        loss: DiceCE of logits and class indices.
        weight: of the consistency.
        noise: standard deviation of the noise on the teacher's image, cut off at twice as much.

    Example:
        >>> student = VNet(num_classes=2, features=2)
        >>> method = MeanTeacherConsistency(student, MeanTeacher(student), PartialDiceCELoss())
        >>> image, label = torch.rand(2, 1, 32, 16, 16), torch.zeros(2, 1, 32, 16, 16).long()
        >>> [str(term) for stream, losses in method(image, label, image, ramp=1.0) for term in losses]
        ['student_labeled', 'consistency']
    """

    def __init__(
        self,
        student: nn.Module,
        mean_teacher: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        weight: float = 0.1,
        noise: float = 0.1,
    ) -> None:
        self.student, self.mean_teacher, self.loss, self.noise = student, mean_teacher, loss, noise
        self.weights: dict[str, float] = {Terms.STUDENT_LABELED: 1.0, Terms.CONSISTENCY: weight}

    def __call__(self, image_l: Tensor, label_l: Tensor, image_u: Tensor | None, ramp: float) -> Iterator[Step]:
        """See :py:class:`dtlp_components.engines.protocols.Method`."""
        yield Streams.LABELED, {Terms.STUDENT_LABELED: (1.0, self.loss(self.student(image_l).float(), label_l))}
        if image_u is None or ramp == 0:
            return
        with torch.no_grad():
            target = torch.softmax(self.mean_teacher(self.noised(image_u)).float(), dim=1)
            mask = self.trusted(image_u, ramp)
        yield Streams.TEACHERS, {}
        squares = (torch.softmax(self.student(image_u).float(), dim=1) - target).square()
        # the mean over trusted voxels and classes; without a mask over all
        distance = squares.mean() if mask is None else (mask * squares.mean(1, True)).sum() / mask.sum().clamp_min(1)
        yield Streams.UNLABELED, {Terms.CONSISTENCY: (ramp * self.weights[Terms.CONSISTENCY], distance)}

    def noised(self, image: Tensor) -> Tensor:
        """The image with a little noise, same shape."""
        return image + (torch.randn_like(image) * self.noise).clamp(-2 * self.noise, 2 * self.noise)

    def trusted(self, image: Tensor, ramp: float) -> Tensor | None:
        """1 where the teacher is to be believed, ``(B, 1, D, H, W)``; ``None`` is everywhere."""
        return None


class UncertaintyAwareConsistency(MeanTeacherConsistency):
    """
    UA-MT (Yu et al. 2019; ``train_LA_meanteacher_certainty_unlabel.py``, 88ed29a): consistency where the teacher's mean
    prediction over passes with noise and dropout has an entropy below ``(0.75 + 0.25 * ramp)`` of the largest.

    There the threshold is ``(0.75 + 0.25 * ramp) * ln 2``, which is the same for the two classes of the left atrium.

    Args:
        args: see :py:class:`MeanTeacherConsistency`; the student's dropout is what makes the passes differ.
        passes: of the teacher.
        kwargs: the other arguments of :py:class:`MeanTeacherConsistency`.

    Example:
        >>> student = VNet(num_classes=2, features=2)
        >>> method = UncertaintyAwareConsistency(student, MeanTeacher(student), PartialDiceCELoss(), passes=2)
        >>> image, label = torch.rand(2, 1, 32, 16, 16), torch.zeros(2, 1, 32, 16, 16).long()
        >>> [str(term) for stream, losses in method(image, label, image, ramp=1.0) for term in losses]
        ['student_labeled', 'consistency']
    """

    def __init__(self, *args: Any, passes: int = 8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.passes = passes

    def trusted(self, image: Tensor, ramp: float) -> Tensor:
        """See the base."""
        dropouts = [module for module in self.mean_teacher.modules() if isinstance(module, nn.Dropout3d)]
        for module in dropouts:
            module.train()
        maps = [torch.softmax(self.mean_teacher(self.noised(image)).float(), dim=1) for _ in range(self.passes)]
        for module in dropouts:
            module.eval()
        mean = torch.stack(maps).mean(dim=0)
        return (entropy_bits(mean) < (0.75 + 0.25 * ramp) * math.log2(mean.shape[1])).float()
