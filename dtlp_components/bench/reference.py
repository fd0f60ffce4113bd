# SPDX-License-Identifier: Apache-2.0
"""What ``bench`` compares a training with, a plain iteration and bare convolutions, and how it reads and draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..networks.vnet import VNet

__all__ = [
    "Convolution",
    "PlainIteration",
    "convolutions",
    "count_flop",
    "flop_counter",
    "seconds_on",
    "synthetic_batch",
    "synthetic_volume",
]

# torch counts the attention kernels of GPUs only; backward is five products of matrices where forward is two
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *args, **kwargs: sdpa_flop_count(
        q, k, v
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *args, **kwargs: (
        sdpa_flop_count(q, k, v) * 5 // 2
    ),
}


def seconds_on(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that first waits for what the device has been given to do."""

    def read() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def flop_counter() -> FlopCounterMode:
    """Torch's counter, which also counts attention on a CPU and prints nothing."""
    return FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)


def count_flop(run: Callable[[], Any]) -> int:
    """Floating point operations of convolutions, products of matrices and attention in ``run()``."""
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


def synthetic_volume(shape: Sequence[int], channels: int, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """
    A label map of blocks of about 8 voxels, and an image of it with noise.

    Returns:
        Image ``(channels, D, H, W)`` and class indices ``(1, D, H, W)``, both float32; the same for the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(num_classes, (1, 1, *(-(-side // 8) for side in shape)), generator=generator).float()
    label = F.interpolate(blocks, size=tuple(shape), mode="nearest")[0]
    return label + 0.5 * torch.randn(channels, *shape, generator=generator), label


def synthetic_batch(
    count: int, shape: Sequence[int], channels: int, num_classes: int, *, seed: int
) -> dict[str, Tensor]:
    """``count`` volumes of :py:func:`synthetic_volume` with seeds from ``seed`` on."""
    volumes = [synthetic_volume(shape, channels, num_classes, seed + i) for i in range(count)]
    images, labels = zip(*volumes, strict=True)
    return {Keys.IMAGE: torch.stack(images), Keys.LABEL: torch.stack(labels)}


class PlainIteration:
    """
    The unit: the student alone, trained on two labeled patches.

    Batch norm, Dice and cross-entropy, SGD with momentum, float32, contiguous memory: what one would write first.

    Args:
        patch_size: sides in voxels.
        in_channels: of the image.
        num_classes: with the background.
        features: channels at full resolution.
        device: where.
    """

    def __init__(
        self, patch_size: Sequence[int], in_channels: int, num_classes: int, features: int, device: torch.device
    ) -> None:
        torch.manual_seed(0)
        batch = synthetic_batch(2, patch_size, in_channels, num_classes, seed=0)
        self.image, self.label = (batch[key].to(device) for key in (Keys.IMAGE, Keys.LABEL))
        self.network = VNet(in_channels, num_classes, features, "batch").to(device)
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)
        self.read = seconds_on(device)

    def iterate(self) -> float:
        """Seconds of one iteration."""
        began = self.read()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.network(self.image), self.label)
        loss.backward()
        self.optimizer.step()
        loss.item()
        return self.read() - began


class Convolution:
    """
    One 3x3x3 convolution, forward and backward, alone: what the machine attains.

    Args:
        channels: in and out.
        grid: sides in voxels.
        batch_size: volumes.
        channels_last: memory format.
        autocast_kwargs: of :py:class:`torch.autocast`.
        device: where.
    """

    def __init__(
        self,
        channels: int,
        grid: Sequence[int],
        batch_size: int,
        channels_last: bool,
        autocast_kwargs: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self.channels, self.grid, self.channels_last = channels, list(grid), channels_last
        self.autocast_kwargs = autocast_kwargs
        memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        layer: Any = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
        self.layer = layer.to(device=device, memory_format=memory_format)
        x = torch.randn(batch_size, channels, *grid, device=device).contiguous(memory_format=memory_format)
        self.x = x.requires_grad_()
        self.read = seconds_on(device)
        # 27 products and sums per pair of channels and voxel; forward, gradient of the input, gradient of the weights
        self.flop = 3 * 2 * 27 * channels**2 * x[:, 0].numel()

    def run(self) -> float:
        """Seconds of one pass forward and backward."""
        began = self.read()
        with torch.autocast(**self.autocast_kwargs):
            y = self.layer(self.x)
        y.backward(y.detach())
        self.x.grad = None
        self.layer.zero_grad(set_to_none=True)
        return self.read() - began


def convolutions(settings: Mapping[str, Any], batch_size: int, autocast_kwargs: Mapping[str, Any]) -> list[Convolution]:
    """
    Convolutions of the shapes of the network's five stages, each in both memory formats.

    Args:
        settings: with ``features``, ``patch_size`` and ``device``.
        batch_size: volumes.
        autocast_kwargs: of :py:class:`torch.autocast`.
    """
    return [
        Convolution(
            settings["features"] * 2**stage,
            [side // 2**stage for side in settings["patch_size"]],
            batch_size,
            channels_last,
            autocast_kwargs,
            settings["device"],
        )
        for stage in range(5)
        for channels_last in (True, False)
    ]
