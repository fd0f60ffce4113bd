# SPDX-License-Identifier: Apache-2.0
"""
What the trainer asks of the parts that it is handed. Whoever writes another network, teacher or loss reads this file;
nothing has to be derived from it: a class with these methods and attributes is one (PEP 544).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..keys import TrainingStreams

__all__ = [
    "ClassWeightedLoss",
    "LabelNoise",
    "Method",
    "Student",
    "Teacher",
    "TeacherLabels",
    "TrainedModule",
    "TrainingNetwork",
]


class Student(Protocol):
    """The network that is kept when training ends."""

    @property
    def decoder(self) -> Callable[[list[Tensor]], Tensor]:
        """From features, finest first, to logits ``(B, C, D, H, W)``."""


class LabelNoise(Protocol):
    """How label maps of the diffusion flow are noised, all ``(B, C, D, H, W)``."""

    @property
    def num_train_timesteps(self) -> int:
        """Time steps there are; the last is noise alone."""

    @property
    def num_classes(self) -> int:
        """``C``, with the background."""

    def clean_from_label(self, label: Tensor) -> Tensor:
        """The map to be noised, of class indices ``(B, 1, D, H, W)``."""

    def clean_from_logits(self, logits: Tensor) -> Tensor:
        """The map to be noised, of logits."""

    def random_timesteps(self, batch_size: int, device: torch.device) -> Tensor:
        """One time step per volume, ``(B,)`` int64."""

    def add_noise(self, clean: Tensor, timesteps: Tensor) -> Tensor:
        """The map at these time steps."""


class TrainedModule(Protocol):
    """A module with everything that is trained."""

    def __call__(self, image: Tensor) -> Tensor:
        """The student's logits ``(B, C, D, H, W)`` of images ``(B, in_channels, D, H, W)``."""

    def use_channels_last(self) -> None:
        """Keep weights in ``channels_last_3d``."""

    def use_gradient_checkpointing(self) -> None:
        """Compute activations once more on the way back instead of keeping them."""

    def train(self) -> Any:
        """As :py:meth:`torch.nn.Module.train`."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As :py:meth:`torch.nn.Module.parameters`."""

    def state_dict(self) -> dict[str, Any]:
        """As :py:meth:`torch.nn.Module.state_dict`."""

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """As :py:meth:`torch.nn.Module.named_buffers`."""


class TrainingNetwork(TrainedModule, Protocol):
    """A module with the student, the two decoders that teach it, and what the correlation map needs."""

    @property
    def student(self) -> Student:
        """The part that is kept."""

    @property
    def diffusion(self) -> LabelNoise:
        """How label maps are noised."""

    @property
    def difficulty_decoder(self) -> Callable[[list[Tensor]], Tensor]:
        """From features of :py:meth:`image_features` to logits ``(B, C, D, H, W)``."""

    def image_features(self, image: Tensor) -> list[Tensor]:
        """What both decoders of clean images take, finest first."""

    def denoise(self, image: Tensor, noisy_label: Tensor, timesteps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits of the clean label map, and features like those of :py:meth:`image_features`."""

    def correlation_features(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Query and key of the correlation map, both ``(B, E, d, h, w)``."""

    def aggregate_decoders(self, share: float) -> None:
        """Pull the student's decoder by ``share`` towards the teachers'."""


class Teacher(Protocol):
    """A module that follows the student."""

    @property
    def module(self) -> Any:
        """The network inside, with the method ``use_channels_last``."""

    def __call__(self, image: Tensor) -> Tensor:
        """Logits ``(B, C, D, H, W)`` of images ``(B, in_channels, D, H, W)``."""

    def update(self, student: Any, iteration: int) -> None:
        """Follow the student, once an iteration (from 1)."""


class TeacherLabels(Protocol):
    """What a pseudo-labeler returns of a batch of unlabeled images; without gradient."""

    @property
    def probabilities(self) -> Mapping[str, Tensor]:
        """Soft maps ``(B, C, D, H, W)`` by :py:class:`PseudoLabelSources`."""

    @property
    def mean_teacher_logits(self) -> Tensor:
        """Of the mean teacher, ``(B, C, D, H, W)``."""

    @property
    def label(self) -> Tensor:
        """Class indices ``(B, 1, D, H, W)``."""


class Method(Protocol):
    """A semi-supervised method, as the losses of an iteration in their order."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Of every term, for the log."""

    def __call__(
        self, image_l: Tensor, label_l: Tensor, image_u: Tensor | None, ramp: float
    ) -> Iterator[tuple[TrainingStreams, Mapping[str, tuple[float, Tensor]]]]:
        """
        Yield, stream by stream, ``{term: (weight, loss)}``, whose graph is freed before the next is asked for; a stream
        without losses is one that learns nothing, such as a teacher's.

        Args:
            image_l: labeled images ``(B_l, in_channels, D, H, W)``.
            label_l: their class indices ``(B_l, 1, D, H, W)``.
            image_u: unlabeled images ``(B_u, in_channels, D, H, W)``, or ``None``.
            ramp: factor of what unlabeled images teach; at 0, nothing is to be done with them.
        """


class ClassWeightedLoss(Protocol):
    """A loss whose class weights follow how well each class is segmented."""

    @property
    def counts(self) -> Tensor:
        """What was observed since the last update, such that the counts of several batches can be added or averaged."""

    def observe(self, predicted: Tensor, label: Tensor) -> Tensor:
        """Count one batch of class indices ``(B, 1, D, H, W)`` and return its weights ``(C,)``."""

    def update(self) -> None:
        """Take in what was counted; the end of an iteration."""

    def __call__(self, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        """The loss, a scalar."""
