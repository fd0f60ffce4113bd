# SPDX-License-Identifier: Apache-2.0
"""What the tests of methods share: volumes with classes, a voxelwise student, the losses of an iteration."""

from __future__ import annotations

from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from dtlp_components.engines.protocols import Method
from dtlp_components.keys import TrainingStreams

CLASSES, GRID = 3, (4, 5, 6)
LOSS = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, lambda_dice=0.5, lambda_ce=0.5)


class Voxelwise(nn.Module):
    """A network that sees each voxel alone: logits are ``weight * image + bias`` with one of each per class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([-3.0, 0.5, 3.0]))
        self.bias = nn.Parameter(torch.tensor([1.0, 0.0, -1.0]))

    def image_features(self, image: Tensor) -> list[Tensor]:
        return [image]

    def decoder(self, features: list[Tensor]) -> Tensor:
        shape = (1, CLASSES, 1, 1, 1)
        return self.weight.view(shape) * features[0] + self.bias.view(shape)

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.image_features(image))


def batch(count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images ``(count, 1, 4, 5, 6)`` and class indices."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (count, 1, *GRID), generator=generator)
    return label - 1 + 0.5 * torch.randn(label.shape, generator=generator), label


def losses_of(method: Method, ramp: float = 1.0, unlabeled: bool = True, seed: int = 5) -> list[tuple[Any, Any]]:
    """Streams of an iteration with their losses, ``(stream, {term: (weight, value)})``, backward included."""
    torch.manual_seed(seed)
    image_l, label_l = batch(2, seed=1)
    image_u = batch(2, seed=2)[0] if unlabeled else None
    found = []
    for stream, losses in method(image_l, label_l, image_u, ramp):
        for weight, loss in losses.values():
            (weight * loss).backward(retain_graph=len(losses) > 1)
        found.append((stream, {str(name): (weight, loss.item()) for name, (weight, loss) in losses.items()}))
    return found


def terms_of(method: Method, **kwargs: Any) -> dict[str, tuple[float, float]]:
    """The same by term, later ones winning."""
    return {name: value for _, losses in losses_of(method, **kwargs) for name, value in losses.items()}


def streams_of(method: Method, **kwargs: Any) -> list[TrainingStreams]:
    return [stream for stream, _ in losses_of(method, **kwargs)]
