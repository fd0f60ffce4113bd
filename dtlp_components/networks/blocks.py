# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the V-Net: convolution, normalization, activation, with and without a time step."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

__all__ = [
    "Conv3d",
    "ConvNormAct",
    "PointwiseConv3d",
    "TimeConditionedStage",
    "conv_stage",
    "make_norm",
    "norm_relu",
    "run_stage",
]

NORMS = ("instance", "group", "batch")


def make_norm(name: str, channels: int) -> nn.Module:
    """
    Normalization layer for ``(B, channels, D, H, W)``, always with learned scale and shift.

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
    backward pass of that kernel takes three times as long on CPU as that of ``instance_norm``. On a GPU, autocast would
    take half precision back to float32 for ``group_norm``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, D, H, W)``, same shape."""
        if x.dtype != torch.float32:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def _instance_norm_relu(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """
    ``relu(scale * (x - mean) * rstd + shift)``, ``mean`` and ``rstd`` ``(B, C)``; one scale and shift for all or each.
    """
    batch, channels, voxels = x.shape[0], x.shape[1], x.shape[2:].numel()
    if len(scale) == 1:
        # what is the same for the whole batch goes into the norm, which spares a pass over memory
        y, mean, rstd = torch.native_group_norm(x, scale[0], shift[0], batch, channels, voxels, channels, eps)
    else:
        normalized, mean, rstd = torch.native_group_norm(x, None, None, batch, channels, voxels, channels, eps)
        y = torch.addcmul(_per_channel(shift), normalized, _per_channel(scale))
    return y.relu_(), mean, rstd


class _InstanceNormReLU(torch.autograd.Function):
    """
    ``y = relu(scale * (x - mean) * rstd + shift)`` with a scale and shift per channel, or per volume and channel.

    Torch's group norm has no fast backward pass for ``channels_last_3d`` on CPU; this one takes a quarter of the time,
    and does the ReLU's and the modulation's in the same go. With ``g`` the gradient before the ReLU and ``n`` voxels::

        d_shift = sum(g),    d_scale = rstd * (sum(g x) - mean * sum(g))
        d_x = scale * rstd * (g - d_shift / n - (x - mean) * rstd * d_scale / n)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        y, mean, rstd = _instance_norm_relu(x, scale, shift, eps)
        ctx.save_for_backward(x, y, scale, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, scale, mean, rstd = ctx.saved_tensors
        g = torch.ops.aten.threshold_backward(grad, y, 0)
        # sums over voxels as matrix products, which are fast in any memory format
        flat_g, flat_x = g.flatten(2), x.flatten(2)
        voxels = flat_g.shape[2]
        sum_g = torch.bmm(flat_g, flat_g.new_ones(1, voxels, 1).expand(len(x), -1, -1))[:, :, 0]
        sum_gx = torch.bmm(flat_g, flat_x.transpose(1, 2)).diagonal(dim1=1, dim2=2)
        grad_scale = rstd * (sum_gx - mean * sum_g)
        a = scale * rstd
        b = -a * rstd * grad_scale / voxels
        c = -a * sum_g / voxels - b * mean
        # in place of g: memory that is written for the first time costs as much as the sum
        grad_x = torch.addcmul(_per_channel(c), g, _per_channel(a), out=g).addcmul_(x, _per_channel(b))
        return grad_x, grad_scale.sum_to_size(scale.shape), sum_g.sum_to_size(scale.shape), None


def _per_channel(value: Tensor) -> Tensor:
    return value[:, :, None, None, None]


def norm_relu(norm: nn.Module, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """
    ``relu(scale * norm(x) + shift)``.

    Args:
        norm: normalization of :py:func:`make_norm`.
        x: ``(B, channels, D, H, W)``.
        scale: per volume and channel ``(B, channels)``, for all volumes ``(1, channels)``, or ``None`` for 1.
        shift: of the same shape, given with ``scale``.
    """
    if isinstance(norm, InstanceNorm) and x.dtype == torch.float32 and x.device.type == "cpu":
        weight, bias = norm.weight[None], norm.bias[None]
        if scale is not None and shift is not None:
            weight, bias = weight * scale, torch.addcmul(shift, bias, scale)
        if torch.is_grad_enabled():
            return _InstanceNormReLU.apply(x, weight, bias, norm.eps)
        return _instance_norm_relu(x, weight, bias, norm.eps)[0]
    x = norm(x)
    if scale is not None and shift is not None:
        x = torch.addcmul(_per_channel(shift), x, _per_channel(scale))
    return F.relu(x, inplace=True)


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
    :py:class:`PointwiseConv3d`, :py:class:`InstanceNorm`).

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
