# SPDX-License-Identifier: Apache-2.0
"""Labeled and unlabeled volumes pasted into each other: BCP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from monai.losses import MaskedDiceLoss
from monai.networks.utils import one_hot
from monai.transforms import KeepLargestConnectedComponent
from torch import Tensor, nn

from ..errors import InputError
from ..keys import MethodTerms as Terms
from ..keys import TrainingStreams as Streams
from ..transforms.mixing import random_box

__all__ = ["BidirectionalCopyPaste"]


class BidirectionalCopyPaste:
    """
    BCP (Bai et al. 2023; ``LA_BCP_train.py``, 7879f98).

    Volumes come in two halves a and b. With a box ``M`` of two thirds of each side, the student learns from an
    unlabeled box in a labeled volume, and from a labeled box in an unlabeled one::

        x_in  = (1 - M) x_l^a + M x_u^a,    x_out = (1 - M) x_u^b + M x_l^b
        L = sum over both of  1 * DiceCE on labeled voxels + weight * DiceCE on voxels that the teacher named

    where the mean teacher's classes keep their largest connected part. As long as the ramp is 0 (the first phase there,
    2000 of 17,000 iterations), one half of the labeled volumes is pasted into the other.

    Args:
        student: network that is trained.
        mean_teacher: its moving average; carries no gradient.
        batch_sizes: labeled and unlabeled volumes of an iteration.
        loss: DiceCE of logits and class indices, of the first phase.
        weight: of voxels that the teacher named.
        side_share: of the box.

    Raises:
        InputError: if a batch is no two halves, or the two differ in size.

    Example:
        >>> student = VNet(num_classes=2, features=2)
        >>> method = BidirectionalCopyPaste(student, MeanTeacher(student), [2, 2], PartialDiceCELoss())
        >>> image, label = torch.rand(2, 1, 32, 16, 16), torch.zeros(2, 1, 32, 16, 16).long()
        >>> [str(term) for stream, losses in method(image, label, image, ramp=1.0) for term in losses]
        ['mixed_labeled', 'mixed_unlabeled', 'mixed_labeled', 'mixed_unlabeled']
    """

    def __init__(
        self,
        student: nn.Module,
        mean_teacher: nn.Module,
        batch_sizes: Sequence[int],
        loss: Callable[[Tensor, Tensor], Tensor],
        weight: float = 0.5,
        side_share: float = 2 / 3,
    ) -> None:
        labeled, unlabeled = batch_sizes
        if labeled % 2 or unlabeled not in (0, labeled):
            raise InputError(
                "--batch_size_labeled, --batch_size_unlabeled: expected the same even number, because method bcp "
                f"pastes halves of the two batches into each other, got {labeled} and {unlabeled}."
            )
        self.student, self.mean_teacher, self.loss, self.side_share = student, mean_teacher, loss, side_share
        self.dice = MaskedDiceLoss(include_background=True, softmax=True)
        self.largest = KeepLargestConnectedComponent(independent=True)
        self.weights: dict[str, float] = {Terms.MIXED_LABELED: 1.0, Terms.MIXED_UNLABELED: weight}

    def __call__(
        self, image_l: Tensor, label_l: Tensor, image_u: Tensor | None, ramp: float
    ) -> Iterator[tuple[Streams, Mapping[str, tuple[float, Tensor]]]]:
        """See :py:class:`dtlp_components.engines.protocols.Method`."""
        (image_a, image_b), (label_a, label_b) = image_l.chunk(2), label_l.chunk(2)
        inside = self.box(image_l)
        if image_u is None or ramp == 0:
            logits = self.student(torch.where(inside, image_b, image_a)).float()
            yield (
                Streams.LABELED,
                {Terms.MIXED_LABELED: (1.0, self.loss(logits, torch.where(inside, label_b, label_a)))},
            )
            return
        unlabeled_a, unlabeled_b = image_u.chunk(2)
        with torch.no_grad():
            named = self.mean_teacher(image_u).argmax(dim=1, keepdim=True)
            named = torch.stack([torch.as_tensor(self.largest(labels)) for labels in named])
            named_a, named_b = named.to(label_l).chunk(2)
        yield Streams.TEACHERS, {}
        for outer, inner, classes, labeled in (
            (image_a, unlabeled_a, torch.where(inside, named_a, label_a), ~inside),
            (unlabeled_b, image_b, torch.where(inside, label_b, named_b), inside),
        ):
            logits = self.student(torch.where(inside, inner, outer)).float()
            known, guessed = (self.part_loss(logits, classes, part) for part in (labeled, ~labeled))
            weight = ramp * self.weights[Terms.MIXED_UNLABELED]
            yield Streams.MIXED, {Terms.MIXED_LABELED: (1.0, known), Terms.MIXED_UNLABELED: (weight, guessed)}

    def box(self, image: Tensor) -> Tensor:
        """True inside of a random box, ``(1, 1, D, H, W)``."""
        inside = torch.zeros(1, 1, *image.shape[2:], dtype=torch.bool, device=image.device)
        inside[(slice(None), slice(None), *random_box(image.shape[2:], self.side_share))] = True
        return inside

    def part_loss(self, logits: Tensor, classes: Tensor, part: Tensor) -> Tensor:
        """Half of cross entropy and Dice on a part of the voxels, a scalar."""
        mask = (part & (classes >= 0)).float()
        classes = classes.clamp_min(0)
        cross_entropy = F.cross_entropy(logits, classes[:, 0], reduction="none") * mask[:, 0]
        cross_entropy = cross_entropy.sum() / mask.sum().clamp_min(1)
        # one-hot before the mask: MONAI's loss would make background of what is masked
        loss: Tensor = (cross_entropy + self.dice(logits, one_hot(classes, logits.shape[1]), mask)) / 2
        return loss
