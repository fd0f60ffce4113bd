# SPDX-License-Identifier: Apache-2.0
"""Two students of one kind that begin with different weights."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from .vnet import VNet

__all__ = ["TwoStudents"]


class TwoStudents(nn.Module):
    """
    A student and a second one of the same kind, with weights drawn anew; for cross pseudo supervision.

    Args:
        student: the one that is kept when training ends.

    Example:
        >>> both = TwoStudents(VNet(num_classes=2, features=2))
        >>> image = torch.rand(1, 1, 32, 16, 16)
        >>> both(image).equal(both.student(image)), both(image).equal(both.second(image))
        (True, False)
    """

    def __init__(self, student: VNet) -> None:
        super().__init__()
        self.student = student
        self.second: VNet = copy.deepcopy(student)
        for module in self.second.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    def forward(self, image: Tensor) -> Tensor:
        """The student's logits ``(B, C, D, H, W)``."""
        logits: Tensor = self.student(image)
        return logits

    def use_channels_last(self) -> None:
        """As :py:meth:`VNet.use_channels_last`, for both."""
        self.student.use_channels_last()
        self.second.use_channels_last()

    def use_gradient_checkpointing(self) -> None:
        """As :py:meth:`VNet.use_gradient_checkpointing`, for both."""
        self.student.use_gradient_checkpointing()
        self.second.use_gradient_checkpointing()
