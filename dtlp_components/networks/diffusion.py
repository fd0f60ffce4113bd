# SPDX-License-Identifier: Apache-2.0
"""Diffusion of label maps: noising and DDIM sampling on MONAI's scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.networks.schedulers import DDIMScheduler
from monai.networks.utils import one_hot
from torch import Tensor

__all__ = ["LabelDiffusion"]


class LabelDiffusion:
    """
    Forward and reverse diffusion between a label map and noise (Eq. 1; Song et al. 2021, DDIM, eta = 0).

    A clean sample is ``y_0 = 2 * onehot(label) - 1``, or, for a network's prediction, ``2 * softmax(logits) - 1``: both
    lie in [-1, 1] and sum to ``2 - C`` over classes, so neither a shift nor the scale of the logits matters.

    Args:
        num_classes: classes with the background.
        num_train_timesteps: length ``T`` of the chain; time steps are ``0 … T - 1``.
        ddim_steps: network passes that one sample costs.
        beta_start: first variance of the linear schedule.
        beta_end: last variance of the linear schedule.
        clean_sample: ``softmax``, or ``clamp``, which takes logits cut off at -1 and 1 for the clean sample, as A&D's
            code does: where two of them exceed 1 there is a tie.

    Raises:
        ValueError: if ``ddim_steps`` is not within ``1 … num_train_timesteps``, or ``clean_sample`` is another word.

    Example:
        >>> diffusion = LabelDiffusion(num_classes=2, ddim_steps=2)
        >>> clean = diffusion.clean_from_label(torch.ones(1, 1, 4, 5, 6))
        >>> clean[0, :, 0, 0, 0]
        tensor([-1.,  1.])
        >>> logits = diffusion.sample(lambda noisy, step: 9 * clean, clean.shape, torch.device("cpu"))
        >>> bool((logits.argmax(dim=1) == 1).all())
        True
    """

    def __init__(
        self,
        num_classes: int,
        num_train_timesteps: int = 1000,
        ddim_steps: int = 10,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        clean_sample: str = "softmax",
    ) -> None:
        if clean_sample not in ("softmax", "clamp"):
            raise ValueError(f"clean_sample must be 'softmax' or 'clamp', got {clean_sample!r}.")
        self.clean_sample = clean_sample
        if not 1 <= ddim_steps <= num_train_timesteps:
            raise ValueError(f"ddim_steps must be within 1 and {num_train_timesteps}, got {ddim_steps}.")
        self.num_classes, self.num_train_timesteps, self.ddim_steps = num_classes, num_train_timesteps, ddim_steps
        self.scheduler = DDIMScheduler(
            num_train_timesteps=num_train_timesteps,
            schedule="linear_beta",
            beta_start=beta_start,
            beta_end=beta_end,
            clip_sample=False,
            prediction_type="sample",
        )
        self.scheduler.set_timesteps(ddim_steps)
        # MONAI spreads its time steps over 0 … T-1, while a step jumps by T // n: the levels are set to what a step
        # does
        stride = num_train_timesteps // ddim_steps
        self.scheduler.timesteps = torch.arange(num_train_timesteps - 1, -1, -stride)[:ddim_steps]

    def clean_from_label(self, label: Tensor) -> Tensor:
        """
        Class indices ``(B, 1, D, H, W)`` -> ``y_0 = 2 * onehot - 1`` ``(B, C, D, H, W)`` float32; where the index is
        below 0, which is of no class known, all are as likely.
        """
        clean = one_hot(label.clamp_min(0), num_classes=self.num_classes)
        return 2 * torch.where(label < 0, 1 / self.num_classes, clean) - 1

    def clean_from_logits(self, logits: Tensor) -> Tensor:
        """Logits ``(B, C, D, H, W)`` -> ``2 * softmax - 1``, or clamped ones, same shape, float32."""
        if self.clean_sample == "clamp":
            return logits.float().clamp(-1, 1)
        return 2 * torch.softmax(logits.float(), dim=1) - 1

    def random_timesteps(self, batch_size: int, device: torch.device) -> Tensor:
        """Uniform time steps ``(batch_size,)`` int64 in ``0 … T - 1``."""
        return torch.randint(self.num_train_timesteps, (batch_size,), device=device)

    def add_noise(self, clean: Tensor, timesteps: Tensor) -> Tensor:
        """``y_t = sqrt(alpha_bar_t) y_0 + sqrt(1 - alpha_bar_t) eps`` (Eq. 1); ``(B, C, D, H, W)`` float32."""
        clean = clean.float()  # add_noise with another dtype would cast the scheduler's table for good
        return self.scheduler.add_noise(clean, torch.randn_like(clean), timesteps)

    def sample(self, denoise: Callable[[Tensor, Tensor], Tensor], shape: Sequence[int], device: torch.device) -> Tensor:
        """
        Draw a label map by DDIM, from noise, in ``ddim_steps`` calls of the network.

        Args:
            denoise: maps ``y_t`` ``(B, C, D, H, W)`` and a time step ``(1,)`` to logits of the clean label.
            shape: ``(B, C, D, H, W)``.
            device: where to sample.

        Returns:
            Logits of the last call, ``(B, C, D, H, W)``; with ``clamp`` the clamped ones, which A&D's labels come from.
        """
        y_t = torch.randn(tuple(shape), device=device)
        logits = y_t
        for step in self.scheduler.timesteps.tolist():
            logits = denoise(y_t, torch.full((1,), step, device=device))
            clean = self.clean_from_logits(logits)
            y_t, _ = self.scheduler.step(clean, step, y_t)
        return clean if self.clean_sample == "clamp" else logits
