# SPDX-License-Identifier: Apache-2.0
"""What the student is sure of in an image, learned on distorted views of it: FixMatch and UniMatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import MaskedDiceLoss
from monai.networks.utils import eval_mode, one_hot
from torch import Tensor

from ..keys import MethodTerms as Terms
from ..keys import TrainingStreams as Streams
from ..transforms.mixing import random_box

__all__ = ["FixMatch", "UniMatch"]

Step = tuple[Streams, Mapping[str, tuple[float, Tensor]]]
View = tuple[Tensor, Tensor, Tensor]


class FixMatch:
    """
    FixMatch (Sohn et al. 2020) for segmentation, as UniMatch's authors train it (``fixmatch.py``, 0324f3d), but for the
    loss on true labels, which is cross entropy alone there, and the pasted boxes, which come from the same scan::

        L = 1/2 (DiceCE(f(x_l), y_l) + ramp * mean over voxels of [conf >= threshold] CE(f(strong(x_u)), y_u))

    where ``y_u`` and ``conf`` are the student's class and confidence on the image as the bundle augments it, without
    dropout. A strong view has a box of another volume of the batch, in half of the volumes.

    Args:
        student: network that is trained.
        loss: DiceCE of logits and class indices.
        strong: distorts images ``(B, in_channels, D, H, W)``, voxel by voxel in place.
        threshold: confidence from which on a voxel counts.
        box_share: least and largest share of the volume that a pasted box takes.

    Example:
        >>> student = VNet(num_classes=2, features=2)
        >>> method = FixMatch(student, PartialDiceCELoss(), strong=StrongView([]))
        >>> image, label = torch.rand(2, 1, 32, 16, 16), torch.zeros(2, 1, 32, 16, 16).long()
        >>> [str(term) for stream, losses in method(image, label, image, ramp=1.0) for term in losses]
        ['student_labeled', 'strong']
    """

    def __init__(
        self,
        student: Any,
        loss: Callable[[Tensor, Tensor], Tensor],
        strong: Callable[[Tensor], Tensor],
        threshold: float = 0.95,
        box_share: tuple[float, float] = (0.02, 0.4),
    ) -> None:
        self.student, self.loss, self.strong = student, loss, strong
        self.threshold, self.box_share = threshold, box_share
        self.weights: dict[str, float] = {Terms.STUDENT_LABELED: 0.5, Terms.STRONG: 0.5}

    def __call__(self, image_l: Tensor, label_l: Tensor, image_u: Tensor | None, ramp: float) -> Iterator[Step]:
        """See :py:class:`dtlp_components.engines.protocols.Method`."""
        weight = self.weights[Terms.STUDENT_LABELED]
        yield Streams.LABELED, {Terms.STUDENT_LABELED: (weight, self.loss(self.student(image_l).float(), label_l))}
        if image_u is None or ramp == 0:
            return
        confidence, label = self.weak(image_u)
        yield Streams.TEACHERS, {}
        image, label, confidence = self.mixed(self.strong(image_u), label, confidence)
        certain = (confidence >= self.threshold).float()
        loss = (F.cross_entropy(self.student(image).float(), label[:, 0], reduction="none") * certain[:, 0]).mean()
        yield Streams.MIXED, {Terms.STRONG: (ramp * self.weights[Terms.STRONG], loss)}

    def weak(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Confidence and class ``(B, 1, D, H, W)``, without gradient."""
        with eval_mode(self.student):
            confidence, label = torch.softmax(self.student(image).float(), dim=1).max(dim=1, keepdim=True)
        return confidence, label

    def mixed(self, image: Tensor, label: Tensor, confidence: Tensor) -> View:
        """In every other volume, on average, a box of the next one, in the image and in what is known of it."""
        mixed = image.clone(), label.clone(), confidence.clone()
        low, high = self.box_share
        for i in range(len(image) if len(image) > 1 else 0):
            if torch.rand(()) < 0.5:
                share = low + (high - low) * float(torch.rand(()))
                box = (slice(None), *random_box(image.shape[2:], share ** (1 / 3)))
                for new, old in zip(mixed, (image, label, confidence), strict=True):
                    new[i][box] = old[(i + 1) % len(image)][box]
        return mixed


class UniMatch(FixMatch):
    """
    UniMatch (Yang et al. 2023; medical part, ``unimatch.py``, 0324f3d): two strong views, and dropped features::

        L = 1/2 (L_l + ramp * (1/4 L(s_1) + 1/4 L(s_2) + 1/2 L(fp)))

    each ``L`` a Dice loss with squared denominators over voxels of enough confidence, all classes with the background.
    ``fp`` is the image as it is with half of the channels of each of the encoder's features dropped.

    Args:
        args: see :py:class:`FixMatch`; the student has ``image_features`` and ``decoder``.
        feature_dropout: share of channels dropped.
        kwargs: the other arguments of :py:class:`FixMatch`.

    Example:
        >>> student = VNet(num_classes=2, features=2)
        >>> method = UniMatch(student, PartialDiceCELoss(), strong=StrongView([]))
        >>> image, label = torch.rand(2, 1, 32, 16, 16), torch.zeros(2, 1, 32, 16, 16).long()
        >>> [str(term) for stream, losses in method(image, label, image, ramp=1.0) for term in losses]
        ['student_labeled', 'strong', 'strong', 'features']
    """

    def __init__(self, *args: Any, feature_dropout: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.feature_dropout = feature_dropout
        self.dice = MaskedDiceLoss(softmax=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
        self.weights = {Terms.STUDENT_LABELED: 0.5, Terms.STRONG: 0.125, Terms.FEATURES: 0.25}

    def __call__(self, image_l: Tensor, label_l: Tensor, image_u: Tensor | None, ramp: float) -> Iterator[Step]:
        """See :py:class:`dtlp_components.engines.protocols.Method`."""
        weights = self.weights
        loss = self.loss(self.student(image_l).float(), label_l)
        yield Streams.LABELED, {Terms.STUDENT_LABELED: (weights[Terms.STUDENT_LABELED], loss)}
        if image_u is None or ramp == 0:
            return
        confidence, label = self.weak(image_u)
        yield Streams.TEACHERS, {}
        for _ in range(2):
            image, mixed_label, mixed_confidence = self.mixed(self.strong(image_u), label, confidence)
            loss = self.certain_dice(self.student(image), mixed_label, mixed_confidence)
            yield Streams.MIXED, {Terms.STRONG: (ramp * weights[Terms.STRONG], loss)}
        features = [F.dropout3d(f, self.feature_dropout) for f in self.student.image_features(image_u)]
        loss = self.certain_dice(self.student.decoder(features), label, confidence)
        yield Streams.UNLABELED, {Terms.FEATURES: (ramp * weights[Terms.FEATURES], loss)}

    def certain_dice(self, logits: Tensor, label: Tensor, confidence: Tensor) -> Tensor:
        """Dice loss over voxels of enough confidence."""
        # one-hot before the mask: MONAI's loss would make background of what is masked
        target = one_hot(label, logits.shape[1])
        loss: Tensor = self.dice(logits.float(), target, (confidence >= self.threshold).float())
        return loss
