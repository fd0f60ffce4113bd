# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the V-Net: convolutions and stages, with and without a time step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .norms import make_norm, norm_relu

__all__ = [
    "Conv3d",
    "ConvNormAct",
    "PointwiseConv3d",
    "TimeConditionedStage",
    "conv_stage",
    "run_stage",
]


class Conv3d(nn.Conv3d):
    """
    Convolution with a 3x3x3 kernel, stride 1 and padding 1 that takes another way where oneDNN's fails.

    On CPU (torch 2.13), whenever the first side of the grid is 2 or less, the weight gradient is computed ten times
    slower than elsewhere in float32, and in bfloat16 it is uninitialized memory, often NaN. There, the convolution is a
    product of matrices in float32.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, D, H, W) -> (B, out_channels, D, H, W)``; float32 in training on CPU where ``D <= 2``."""
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        else:
            if x.shape[2] > 2 or x.device.type != "cpu" or not torch.is_grad_enabled():
                return self._conv_forward(x, self.weight, self.bias)
            with torch.autocast(x.device.type, enabled=False):
                return self._as_matrix_product(x.float())

    def _as_matrix_product(self, x: Tensor) -> Tensor:
        batch, _, *grid = x.shape
        neighbors = F.pad(x, (1,) * 6).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)  # (B, C, D, H, W, 3, 3, 3)
        rows = neighbors.permute(0, 2, 3, 4, 1, 5, 6, 7).reshape(-1, self.weight[0].numel())
        y = F.linear(rows, self.weight.flatten(1), self.bias)
        return y.view(batch, *grid, self.out_channels).movedim(-1, 1)


class PointwiseConv3d(nn.Conv3d):
    """
    Convolution with a 1x1x1 kernel that stays in the memory format of its input.

    Torch 2.13 takes a volume in ``channels_last_3d`` to contiguous memory for it on CPU, forward and backward; as a
    product of matrices it is a view there.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, D, H, W) -> (B, out_channels, D, H, W)``."""
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        else:
            if not x.is_contiguous(memory_format=torch.channels_last_3d):
                return self._conv_forward(x, self.weight, self.bias)
            return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class ConvNormAct(nn.Sequential):
    """
    Convolution, normalization, ReLU: ``(B, in_channels, …) -> (B, out_channels, …)``.

    MONAI's ``Convolution`` takes torch's convolutions and norms; ours are guarded and faster (:py:class:`Conv3d`,
    :py:class:`PointwiseConv3d`, :py:func:`.norms.norm_relu`).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: ``instance``, ``group`` or ``batch``.
        scale: 1 keeps the grid (3x3x3 kernel), ``"down"`` halves it and ``"up"`` doubles it (2x2x2 kernel, stride 2).
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, scale: str = "same") -> None:
        conv: nn.Module
        if scale == "same":
            conv = Conv3d(in_channels, out_channels)
        elif scale == "down":
            conv = nn.Conv3d(in_channels, out_channels, kernel_size=2, stride=2)
        elif scale == "up":
            conv = nn.ConvTranspose3d(in_channels, out_channels, kernel_size=2, stride=2)
        else:
            raise ValueError(f"scale must be 'same', 'down' or 'up', got {scale!r}.")
        super().__init__(conv, make_norm(norm, out_channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self[0](x)
        if torch.jit.is_scripting():
            return self[2](self[1](x))
        else:
            return norm_relu(self[1], x)


def run_stage(stage: Any, *inputs: Any, checkpointing: bool = False) -> Tensor:
    """
    ``stage(*inputs)``; with ``checkpointing`` only the inputs are kept for the way back, where the stage runs once
    more.
    """
    if checkpointing and torch.is_grad_enabled():
        result: Tensor = checkpoint(stage, *inputs, use_reentrant=False)
        return result
    return stage(*inputs)


def conv_stage(channels: int, num_convs: int, norm: str) -> nn.Sequential:
    """``num_convs`` convolutions that keep grid and channels."""
    return nn.Sequential(*[ConvNormAct(channels, channels, norm) for _ in range(num_convs)])


class TimeConditionedStage(nn.Module):
    """
    The time step's share of a stage: a scale and a shift per channel after every normalization.

    It wraps no convolution of its own, so the stage (which may belong to the student) stays free of any trace of time:
    ``y = act((1 + s(t)) * norm(conv(x)) + b(t))``. The shift has to come after the normalization, since instance norm
    would subtract a constant that is added before it.

    A normalization with running statistics is replaced by one of this stage's own, so that noisy inputs never touch the
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
        for layer, linear, own_norm in zip(stage, self.scale_shift, self.own_norms, strict=True):
            conv, norm, _ = layer
            norm = norm if isinstance(own_norm, nn.Identity) else own_norm
            scale, shift = linear(embedding).chunk(2, dim=1)
            x = norm_relu(norm, conv(x), 1 + scale, shift)
        return x
