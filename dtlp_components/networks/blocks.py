# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the V-Net: convolution, normalisation, activation, with and without a time step."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Conv3d", "ConvNormAct", "TimeConditionedStage", "conv_stage", "make_norm"]

NORMS = ("instance", "group", "batch")


def make_norm(name: str, channels: int) -> nn.Module:
    """
    Normalisation layer for ``(B, channels, D, H, W)``, always with learned scale and shift.

    Raises:
        ValueError: if ``name`` is none of ``instance``, ``group``, ``batch``.
    """
    if name not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {name!r}.")
    if name == "batch":
        return nn.BatchNorm3d(channels)
    return InstanceNorm(channels) if name == "instance" else nn.GroupNorm(math.gcd(8, channels), channels)


class InstanceNorm(nn.GroupNorm):
    """
    Instance norm with scale and shift, by the faster of torch's two kernels.

    As group norm with one channel per group it is computed without leaving ``channels_last_3d``; but in bfloat16 the
    backward pass of that kernel takes three times as long on CPU as that of ``instance_norm``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, D, H, W)``, same shape."""
        if x.dtype == torch.bfloat16:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Conv3d(nn.Conv3d):
    """
    Convolution with a 3x3x3 kernel that leaves autocast where bfloat16 would spoil its weight gradient.

    On CPU (oneDNN, torch 2.13) that gradient is uninitialised memory, often NaN, whenever the first side of the grid is 2,
    for any number of channels; other grids are right.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, D, H, W) -> (B, out_channels, D, H, W)``, float32 where ``D <= 2``."""
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        else:
            if x.shape[2] > 2:
                return self._conv_forward(x, self.weight, self.bias)
            with torch.autocast(x.device.type, enabled=False):
                return self._conv_forward(x.float(), self.weight, self.bias)


class ConvNormAct(nn.Sequential):
    """
    Convolution, normalisation, ReLU: ``(B, in_channels, …) -> (B, out_channels, …)``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: ``instance``, ``group`` or ``batch``.
        scale: 1 keeps the grid (3x3x3 kernel), ``"down"`` halves it and ``"up"`` doubles it (2x2x2 kernel, stride 2).
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, scale: str = "same") -> None:
        conv: nn.Module
        if scale == "same":
            conv = Conv3d(in_channels, out_channels, kernel_size=3, padding=1)
        elif scale == "down":
            conv = nn.Conv3d(in_channels, out_channels, kernel_size=2, stride=2)
        elif scale == "up":
            conv = nn.ConvTranspose3d(in_channels, out_channels, kernel_size=2, stride=2)
        else:
            raise ValueError(f"scale must be 'same', 'down' or 'up', got {scale!r}.")
        super().__init__(conv, make_norm(norm, out_channels), nn.ReLU(inplace=True))


def conv_stage(channels: int, num_convs: int, norm: str) -> nn.Sequential:
    """``num_convs`` convolutions that keep grid and channels."""
    return nn.Sequential(*[ConvNormAct(channels, channels, norm) for _ in range(num_convs)])


class TimeConditionedStage(nn.Module):
    """
    The time step's share of a stage: a scale and a shift per channel after every normalisation.

    It wraps no convolution of its own, so the stage (which may belong to the student) stays free of any trace of time:
    ``y = act((1 + s(t)) * norm(conv(x)) + b(t))``. The shift has to come after the normalisation, since instance norm
    would subtract a constant that is added before it.

    A normalisation with running statistics is replaced by one of this stage's own, so that noisy inputs never touch the
    statistics that are used at inference.

    Args:
        stage: the convolutions to condition; kept by the caller and passed again to ``forward``.
        embedding_dim: length of the time embedding.
    """

    def __init__(self, stage: Any, embedding_dim: int) -> None:
        super().__init__()
        self.scale_shift = nn.ModuleList()
        self.own_norms = nn.ModuleList()
        for layer in stage:
            norm = layer[1]
            channels = norm.weight.numel()
            linear = nn.Linear(embedding_dim, 2 * channels)
            nn.init.zeros_(linear.weight)  # starts as the plain stage and learns what time has to add
            nn.init.zeros_(linear.bias)
            self.scale_shift.append(linear)
            has_statistics = getattr(norm, "running_mean", None) is not None
            self.own_norms.append(type(norm)(channels) if has_statistics else nn.Identity())

    def forward(self, stage: Any, x: Tensor, embedding: Tensor) -> Tensor:
        """``x`` (B, C_in, …) and ``embedding`` (B, E) -> (B, C_out, …)."""
        for layer, linear, own_norm in zip(stage, self.scale_shift, self.own_norms):
            conv, norm, act = layer
            norm = norm if isinstance(own_norm, nn.Identity) else own_norm
            scale, shift = linear(embedding)[:, :, None, None, None].chunk(2, dim=1)
            x = act(torch.addcmul(shift, norm(conv(x)), 1 + scale))
        return x
