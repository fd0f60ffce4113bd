# SPDX-License-Identifier: Apache-2.0
"""The student: a V-Net that maps an image to logits, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import ConvNormAct, PointwiseConv3d, conv_stage, run_stage

__all__ = ["VNet", "VNetDecoder", "VNetEncoder"]

CONVS_PER_STAGE = (1, 2, 3, 3, 3)


class VNetEncoder(nn.Module):
    """
    Five-stage V-Net encoder (Milletari et al. 2016); stage ``i`` has ``features * 2**i`` channels at ``1 / 2**i`` of
    the resolution.

    Args:
        features: channels at full resolution.
        norm: ``instance``, ``group`` or ``batch``.
        dropout: share of bottleneck channels dropped in training.
    """

    def __init__(self, features: int, norm: str, dropout: float = 0.0) -> None:
        super().__init__()
        stages = []
        for i, num_convs in enumerate(CONVS_PER_STAGE[1:], start=1):
            channels = features * 2**i
            down = ConvNormAct(channels // 2, channels, norm, scale="down")
            stages.append(nn.Sequential(down, *conv_stage(channels, num_convs, norm)))
        self.stages = nn.ModuleList(stages)
        self.dropout = nn.Dropout3d(dropout)
        self.checkpointing = False

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(B, F, D, H, W)`` from a stem -> five feature maps, finest first."""
        features = [x]
        for i, stage in enumerate(self.stages):
            deepest = i == len(self.stages) - 1
            if deepest:
                x = x.contiguous()  # see VNet.use_channels_last
            if torch.jit.is_scripting():  # noqa: SIM108  # TorchScript compiles both sides of an expression
                x = stage(x)
            else:
                x = run_stage(stage, x, checkpointing=self.checkpointing)
            if deepest:
                x = self.dropout(x)
            features.append(x)
        return features


class VNetDecoder(nn.Module):
    """
    V-Net decoder: five feature maps, finest first, to logits; skip connections are added.

    Args:
        num_classes: channels of the logits.
        features: channels at full resolution.
        norm: ``instance``, ``group`` or ``batch``.
        dropout: share of channels dropped in training before the last convolution.
    """

    def __init__(self, num_classes: int, features: int, norm: str, dropout: float = 0.0) -> None:
        super().__init__()
        ups, stages = [], []
        for i in reversed(range(len(CONVS_PER_STAGE) - 1)):
            channels = features * 2**i
            ups.append(nn.Sequential(ConvNormAct(channels * 2, channels, norm, scale="up")))
            stages.append(conv_stage(channels, CONVS_PER_STAGE[i], norm))
        self.ups = nn.ModuleList(ups)
        self.stages = nn.ModuleList(stages)
        self.dropout = nn.Dropout3d(dropout)
        self.head = PointwiseConv3d(features, num_classes)
        self.checkpointing = False

    def forward(self, features: list[Tensor]) -> Tensor:
        """Five feature maps, finest first -> logits ``(B, C, D, H, W)``."""
        x = features[-1]
        for i, (up, stage) in enumerate(zip(self.ups, self.stages)):  # noqa: B905  # TorchScript knows no `strict`
            x = up(x) + features[-2 - i]
            if torch.jit.is_scripting():  # noqa: SIM108  # TorchScript compiles both sides of an expression
                x = stage(x)
            else:
                x = run_stage(stage, x, checkpointing=self.checkpointing)
        return self.head(self.dropout(x))


class VNet(nn.Module):
    """
    Student network, the only one used at inference: ``forward(image) -> logits``.

    It is stem, shared encoder and student decoder of DTLP-Net; :py:class:`dtlp_components.DTLPNet` wraps it for
    training and shares stem and encoder with the other decoders. MONAI's ``VNet`` has 16 channels at full resolution
    and kernels of 5 voxels, always, and does not hand out the features that those decoders take.

    Args:
        in_channels: channels of the image.
        num_classes: classes with the background.
        features: channels at full resolution; the paper's baseline has 32.
        norm: ``instance``, ``group`` or ``batch``.
        dropout: share of channels dropped in training at the bottleneck and before the last convolution.
        channels_last: see :py:meth:`use_channels_last`.

    Example:
        >>> student = VNet(in_channels=1, num_classes=3, features=4)
        >>> student(torch.rand(2, 1, 32, 48, 16)).shape
        torch.Size([2, 3, 32, 48, 16])
    """

    divisor = 2 ** (len(CONVS_PER_STAGE) - 1)

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        features: int = 32,
        norm: str = "instance",
        dropout: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.features = in_channels, num_classes, features
        self.norm, self.dropout = norm, dropout
        self.stem = nn.Sequential(ConvNormAct(in_channels, features, norm))
        self.encoder = VNetEncoder(features, norm, dropout)
        self.decoder = VNetDecoder(num_classes, features, norm, dropout)
        if channels_last:
            self.use_channels_last()

    def forward(self, image: Tensor) -> Tensor:
        """
        Args:
            image: ``(B, in_channels, D, H, W)``; every side a multiple of 16.

        Returns:
            Logits ``(B, num_classes, D, H, W)``.
        """
        return self.decoder(self.image_features(image))

    @torch.jit.export
    def image_features(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, in_channels, D, H, W)`` -> five feature maps, finest first."""
        if not torch.jit.is_scripting():
            self.check_patch_size(image.shape[2:])
        return self.encoder(self.stem(image))

    def use_channels_last(self) -> None:
        """
        Keep weights in ``channels_last_3d``, which suits large grids with few channels.

        The bottleneck stays contiguous: on its few voxels most of the time would go into re-ordering its large weight
        gradients (a third of a whole iteration at 32x48x32 and 16 features on CPU).
        """
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.encoder.stages[-1].to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def use_gradient_checkpointing(self) -> None:
        """
        Keep the inputs of all stages for the way back, and compute what is inside them once more.

        Raises:
            ValueError: with batch norm, which would count every batch twice.
        """
        if self.norm == "batch":
            raise ValueError("with gradient checkpointing, batch norm would count every batch twice: use another norm.")
        self.encoder.checkpointing = self.decoder.checkpointing = True

    @classmethod
    def check_patch_size(cls, patch_size: Sequence[int]) -> None:
        """
        Raises:
            ValueError: if a side is no positive multiple of 16, or the deepest grid would have a single voxel.
        """
        wrong = [side for side in patch_size if side < cls.divisor or side % cls.divisor]
        if wrong or len(patch_size) != 3:
            raise ValueError(
                f"patch_size {list(patch_size)} does not fit the V-Net: it needs three sides, each a positive multiple "
                f"of {cls.divisor}, e.g. {[max(1, round(side / cls.divisor)) * cls.divisor for side in patch_size]}."
            )
        if all(side == cls.divisor for side in patch_size):
            raise ValueError(
                f"patch_size {list(patch_size)} leaves only one voxel at the deepest stage, which cannot be "
                f"normalized: make one side at least {2 * cls.divisor}."
            )
