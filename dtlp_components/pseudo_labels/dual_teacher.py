# SPDX-License-Identifier: Apache-2.0
"""Two teachers name every unlabeled voxel: probabilities, entropy ensemble, hard pseudo-label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor

from ..keys import NO_LABEL
from ..keys import PseudoLabelSources as Sources
from ..metrics.uncertainty import entropy_bits

__all__ = ["DualTeacher", "PseudoLabels", "fuse_teachers", "gumbel_softmax"]


@dataclass
class PseudoLabels:
    """
    What the teachers say of a batch of unlabeled images; nothing here carries gradient.

    Attributes:
        probabilities: one map ``(B, C, D, H, W)`` for each of the :py:class:`PseudoLabelSources` that was asked,
            float32, sums to 1 over ``C``; none is noised by Gumbel, so they serve as soft targets.
        mean_teacher_logits: ``z_thetaT`` ``(B, C, D, H, W)`` float32, target of the masked reconstruction.
        label: hard pseudo-label ``(B, 1, D, H, W)`` int64; ``NO_LABEL`` where the teachers are not sure enough.

    Example:
        >>> logits = torch.randn(1, 2, 4, 5, 6)
        >>> labels = PseudoLabels({"mean_teacher": logits.softmax(dim=1)}, logits, logits.argmax(dim=1, keepdim=True))
        >>> labels.label.shape
        torch.Size([1, 1, 4, 5, 6])
    """

    probabilities: dict[str, Tensor]
    mean_teacher_logits: Tensor
    label: Tensor


def fuse_teachers(first: Tensor, second: Tensor, first_entropy: Tensor, second_entropy: Tensor) -> Tensor:
    """
    Average two teachers voxel by voxel, trusting the more certain one more (Eq. 10)::

        p = (w_1 p_1 + w_2 p_2) / (w_1 + w_2),    w_i = exp(-H_i)

    Args:
        first: probabilities ``(B, C, D, H, W)``.
        second: probabilities, same shape.
        first_entropy: ``H_1`` in bits, ``(B, 1, D, H, W)``.
        second_entropy: ``H_2``, same shape.

    Raises:
        ValueError: if the two shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"teachers must agree in shape, got {tuple(first.shape)} and {tuple(second.shape)}.")
    # w_1 / (w_1 + w_2) is a sigmoid of the difference of the entropies
    return second + torch.sigmoid(second_entropy - first_entropy) * (first - second)


def gumbel_softmax(probabilities: Tensor, temperature: float) -> Tensor:
    """
    Re-parameterise a probability map with Gumbel noise: ``softmax((log p + g) / temperature)``, same shape.

    On log-probabilities, so that a certain voxel stays certain; in float32 from a clamped uniform draw, since the
    double logarithm of a half-precision one is infinite now and then.
    """
    tiny = torch.finfo(torch.float32).tiny
    uniform = torch.rand_like(probabilities, dtype=torch.float32).clamp_(tiny, 1 - 1e-7)
    noise = -torch.log(-torch.log(uniform))
    return torch.softmax((torch.log(probabilities.float().clamp_min(1e-10)) + noise) / temperature, dim=1)


class DualTeacher:
    """
    Pseudo-labels of two diverse teachers (Eq. 7-10).

    The first teacher is the mean of the diffusion decoder's sample and the difficulty decoder's prediction, the second
    the mean teacher. Entropies are taken before Gumbel noise: a noised map is less entropic than the map it was drawn
    from, and noise would gain weight.

    Args:
        diffusion: maps images ``(B, in_channels, D, H, W)`` to logits of a sampled label map.
        difficulty: maps images to the difficulty decoder's logits.
        mean_teacher: maps images to the mean teacher's logits.
        gumbel: noise the diffusion map before smoothing, as the paper does.
        gumbel_temperature: temperature of the noise.
        blur_sigma: standard deviation in voxels of the 3x3x3 Gaussian that smooths the diffusion map; 0 switches it
            off.
        teachers: whose label it is: that of ``both``, of the ``first`` or of the ``mean`` teacher (Table XI).
        decoders: whether the maps of the two decoders are needed for something else than the label; if not, and the
            label is the mean teacher's, they are not computed.
        ensemble: how both teachers are averaged: by ``certainty``, as Eq. 10 does, or as their ``mean``. The surer
            teacher need not be the better one: the mean teacher learns from the ensemble, which makes it sure.
        confidence: least probability of a voxel's class for the voxel to have a label; 0 labels all.

    Raises:
        ValueError: if ``teachers`` or ``ensemble`` has another value, or ``confidence`` is not within [0, 1).

    Example:
        >>> image = torch.rand(1, 1, 4, 5, 6)
        >>> sure = torch.tensor([4.0, -4.0]).view(1, 2, 1, 1, 1).expand(1, 2, 4, 5, 6)
        >>> networks = [lambda image: sure, lambda image: sure, lambda image: -0.1 * sure]
        >>> DualTeacher(*networks)(image).label.unique()  # the first teacher is the surer one
        tensor([0])
        >>> DualTeacher(*networks, teachers="mean")(image).label.unique()
        tensor([1])
    """

    def __init__(
        self,
        diffusion: Callable[[Tensor], Tensor],
        difficulty: Callable[[Tensor], Tensor],
        mean_teacher: Callable[[Tensor], Tensor],
        gumbel: bool = False,
        gumbel_temperature: float = 1.0,
        blur_sigma: float = 1.0,
        teachers: str = "both",
        decoders: bool = True,
        ensemble: str = "certainty",
        confidence: float = 0.0,
    ) -> None:
        if teachers not in ("both", "first", "mean"):
            raise ValueError(f"teachers must be 'both', 'first' or 'mean', got {teachers!r}.")
        if ensemble not in ("certainty", "mean"):
            raise ValueError(f"ensemble must be 'certainty' or 'mean', got {ensemble!r}.")
        if not 0 <= confidence < 1:
            raise ValueError(f"confidence must be within [0, 1), got {confidence}.")
        self.ensemble, self.confidence = ensemble, confidence
        self.teachers, self.decoders = teachers, decoders
        self.diffusion, self.difficulty, self.mean_teacher = diffusion, difficulty, mean_teacher
        self.gumbel, self.gumbel_temperature = gumbel, gumbel_temperature
        self.kernel = None
        if blur_sigma > 0:
            kernel = gaussian_1d(torch.tensor(float(blur_sigma)), truncated=1.0 / blur_sigma, approx="sampled")
            self.kernel = kernel / kernel.sum()

    @torch.no_grad()
    def __call__(self, image: Tensor) -> PseudoLabels:
        """
        Images ``(B, in_channels, D, H, W)`` -> :py:class:`PseudoLabels`; the caller puts the networks in eval mode.
        """
        mean_teacher_logits = self.mean_teacher(image).float()
        if self.teachers == "mean" and not self.decoders:
            mean_teacher = torch.softmax(mean_teacher_logits, dim=1)
            return PseudoLabels({Sources.MEAN_TEACHER: mean_teacher}, mean_teacher_logits, self.label(mean_teacher))
        diffusion = torch.softmax(self.diffusion(image).float(), dim=1)
        difficulty = torch.softmax(self.difficulty(image).float(), dim=1)
        mean_teacher = torch.softmax(mean_teacher_logits, dim=1)

        first = 0.5 * (self.smooth(diffusion) + difficulty)  # Eq. 7 without noise
        noised = first
        if self.gumbel:
            noised = 0.5 * (self.smooth(gumbel_softmax(diffusion, self.gumbel_temperature)) + difficulty)
        if self.ensemble == "certainty":
            ensemble = fuse_teachers(noised, mean_teacher, entropy_bits(first), entropy_bits(mean_teacher))
        else:
            ensemble = 0.5 * (noised + mean_teacher)
        return PseudoLabels(
            probabilities={
                Sources.DIFFUSION: diffusion,
                Sources.DIFFICULTY: difficulty,
                Sources.FIRST_TEACHER: first,
                Sources.MEAN_TEACHER: mean_teacher,
                Sources.ENSEMBLE: ensemble,
            },
            mean_teacher_logits=mean_teacher_logits,
            label=self.label({"both": ensemble, "first": noised, "mean": mean_teacher}[self.teachers]),
        )

    def label(self, probabilities: Tensor) -> Tensor:
        """Class indices of a map ``(B, C, D, H, W)``, ``NO_LABEL`` where none is probable enough; ``(B, 1, …)``."""
        probability, label = probabilities.max(dim=1, keepdim=True)
        return label if self.confidence == 0 else torch.where(probability >= self.confidence, label, NO_LABEL)

    def smooth(self, probabilities: Tensor) -> Tensor:
        """Gaussian blur of a map ``(B, C, D, H, W)``; borders are replicated, so a constant map stays constant."""
        if self.kernel is None:
            return probabilities
        self.kernel = self.kernel.to(probabilities)  # once: the processor waits for a copy to a GPU
        with torch.autocast(probabilities.device.type, enabled=False):  # a bfloat16 map would not sum to 1
            return separable_filtering(probabilities, [self.kernel] * 3, mode="replicate")
