# SPDX-License-Identifier: Apache-2.0
"""Gradients and scalars of the batches that one process accumulates for a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

__all__ = ["BatchSums", "scalars_of"]


def scalars_of(output: dict[str, Any]) -> dict[str, Tensor]:
    """What a batch has reported, which is on the device; not its volumes, and not what is known without it."""
    return {name: value for name, value in output.items() if isinstance(value, Tensor) and value.ndim == 0}


class BatchSums:
    """
    Sums over batches, each of which begins with no gradient and no scalar, as in a process of its own: what floats add
    up to depends on their order. Torch would add each stream of a batch to all that were before.

    Args:
        weights: what has gradients.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> sums, output = BatchSums(layer.parameters()), {}
        >>> for value in (1.0, 2.0):
        ...     output["loss"] = layer(torch.tensor([value])).sum()
        ...     output["loss"].backward()
        ...     sums.take(output)
        >>> sums.give(output)
        >>> layer.weight.grad.item()
        3.0
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self.weights = list(weights)
        self.gradients: list[Tensor | None] = [None] * len(self.weights)
        self.scalars: dict[str, Tensor] = {}

    def take(self, output: dict[str, Any]) -> None:
        """Add gradients and scalars of a batch, which have none afterwards."""
        for i, weight in enumerate(self.weights):
            gradient, before = weight.grad, self.gradients[i]
            if gradient is not None:
                self.gradients[i] = gradient if before is None else before.add_(gradient)
            weight.grad = None
        for name, value in scalars_of(output).items():
            self.scalars[name] = value + self.scalars.get(name, 0.0)
            del output[name]

    def give(self, output: dict[str, Any]) -> None:
        """Put the sums where those of the last batch were."""
        for weight, gradient in zip(self.weights, self.gradients, strict=True):
            weight.grad = gradient
        output |= self.scalars
