# SPDX-License-Identifier: Apache-2.0
"""Normalization with the ReLU and the modulation that follow it, by the fastest way that a device has."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["make_norm", "norm_relu"]

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


class _InstanceNormReLUInHalf(torch.autograd.Function):
    """
    As :py:class:`_InstanceNormReLU`, in half precision and ``channels_last_3d`` on a CPU, with torch's kernels of batch
    norm, one volume after the other.

    They keep their sums in float32. What is fast in float32 takes four times as long here, and matrix products would
    round the sums to half precision.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        y, mean, rstd = _instance_norm_relu_in_half(x, scale, shift, eps)
        ctx.save_for_backward(x, y, scale, mean, rstd)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, scale, mean, rstd = ctx.saved_tensors
        g = torch.ops.aten.threshold_backward(grad.contiguous(memory_format=torch.channels_last_3d), y, 0)
        grad_scale, grad_shift = torch.empty_like(mean), torch.empty_like(mean)
        for i, (image_g, image_x) in enumerate(zip(_images(g), _images(x), strict=True)):
            grad_x, grad_scale[i], grad_shift[i] = torch.ops.aten.native_batch_norm_backward(
                image_g, image_x, scale[i % len(scale)], None, None, mean[i], rstd[i], True, ctx.eps, [True] * 3
            )
            image_g.copy_(grad_x)
        return g, grad_scale.sum_to_size(scale.shape), grad_shift.sum_to_size(scale.shape), None


def _instance_norm_relu_in_half(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """:py:func:`_instance_norm_relu` for half precision in ``channels_last_3d``; all but ``x`` and the first result in
    float32."""
    y = torch.empty_like(x)
    mean, rstd = scale.new_empty(2, len(x), x.shape[1])
    for i, (image, out) in enumerate(zip(_images(x), _images(y), strict=True)):
        j = i % len(scale)
        torch.ops.aten.native_batch_norm.out(
            image, scale[j], shift[j], None, None, True, 0.0, eps, out=out, save_mean=mean[i], save_invstd=rstd[i]
        )
    return y.relu_(), mean, rstd


class _InstanceNormReLUOnGPU(torch.autograd.Function):
    """
    As :py:class:`_InstanceNormReLU`, in float32 or half precision and ``channels_last_3d`` on a GPU, with the kernels
    of synchronized batch norm, one volume after the other.

    Torch's instance and group norm take a volume to contiguous memory and compute a channel's sums in one block of
    threads, of which 64 leave half of an H200 idle; these read it as rows of channels, in as many blocks as it takes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        y = torch.empty_like(x)
        statistics = []
        for i, (rows, out) in enumerate(zip(_rows(x), _rows(y), strict=True)):
            mean, rstd = torch.batch_norm_stats(rows, eps)
            j = i % len(scale)
            torch.batch_norm_elemt(rows, scale[j], shift[j], mean, rstd, eps, out=out)
            statistics += [mean, rstd]
        ctx.save_for_backward(x, y.relu_(), scale, *statistics)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, scale, *statistics = ctx.saved_tensors
        g = torch.ops.aten.threshold_backward(grad.contiguous(memory_format=torch.channels_last_3d), y, 0)
        voxels = torch.full((1,), x.shape[2:].numel(), dtype=torch.int32, device=x.device)
        grad_scale, grad_shift = statistics[0].new_empty(2, len(x), x.shape[1])
        for i, (rows_g, rows_x) in enumerate(zip(_rows(g), _rows(x), strict=True)):
            mean, rstd, weight = statistics[2 * i], statistics[2 * i + 1], scale[i % len(scale)]
            sum_g, sum_gx, grad_scale[i], grad_shift[i] = torch.batch_norm_backward_reduce(
                rows_g, rows_x, mean, rstd, weight, True, True, True
            )
            rows_g.copy_(torch.batch_norm_backward_elemt(rows_g, rows_x, mean, rstd, weight, sum_g, sum_gx, voxels))
        return g, grad_scale.sum_to_size(scale.shape), grad_shift.sum_to_size(scale.shape), None


def _rows(x: Tensor) -> list[Tensor]:
    """Volumes ``(B, C, D, H, W)`` in ``channels_last_3d`` as ``B`` views ``(D H W, C)``."""
    return list(x.movedim(1, -1).flatten(1, 3))


def _images(x: Tensor) -> list[Tensor]:
    """Volumes ``(B, C, D, H, W)`` in ``channels_last_3d`` as ``B`` views ``(1, C, D H, W)`` in ``channels_last``."""
    # a view or an error, never a copy: results are written into it
    return list(x.view(*x.shape[:2], -1, x.shape[4]).split(1))


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
    by_rows = x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()
    on_cpu = x.device.type == "cpu"
    in_float32 = on_cpu and x.dtype == torch.float32
    in_half = on_cpu and x.dtype in (torch.bfloat16, torch.float16) and by_rows
    on_gpu = x.is_cuda and by_rows
    if isinstance(norm, InstanceNorm) and (in_float32 or in_half or on_gpu):
        weight, bias = norm.weight[None], norm.bias[None]
        if scale is not None and shift is not None:
            weight, bias = weight * scale, torch.addcmul(shift, bias, scale)
        weight, bias = weight.float(), bias.float()
        if on_gpu:
            return _InstanceNormReLUOnGPU.apply(x, weight, bias, norm.eps)
        if torch.is_grad_enabled():
            return (_InstanceNormReLUInHalf if in_half else _InstanceNormReLU).apply(x, weight, bias, norm.eps)
        return (_instance_norm_relu_in_half if in_half else _instance_norm_relu)(x, weight, bias, norm.eps)[0]
    x = norm(x)
    if scale is not None and shift is not None:
        x = torch.addcmul(_per_channel(shift), x, _per_channel(scale))
    return F.relu(x, inplace=True)
