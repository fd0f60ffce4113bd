# SPDX-License-Identifier: Apache-2.0
"""DTLP-Net for training: the student plus the decoders and layers that teach it."""

from __future__ import annotations

import torch
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn

from ..errors import InputError
from .blocks import ConvNormAct, PointwiseConv3d, TimeConditionedStage, run_stage
from .diffusion import LabelDiffusion
from .vnet import VNet, VNetDecoder

__all__ = ["DTLPNet"]

# what the diffusion flow goes through with time embeddings, and what the two other decoders are made like
STUDENT_MEMBERS = ("in_channels", "num_classes", "features", "norm", "dropout", "stem", "encoder", "decoder")


class DTLPNet(nn.Module):
    """
    One encoder, three decoders (Fig. 1 of Li et al. 2025).

    The student owns the image stem, the encoder and its decoder; they are shared, not copied. This module adds:

    - ``difficulty_decoder``, a V-Net decoder for labeled images, ``D(·; psi)``;
    - ``diffusion_stem`` and ``diffusion_decoder``, which denoise a label map given the image, ``D(·; xi)``, and the
      time embedding that every convolution of a noisy pass receives, at every resolution and in the shared encoder as
      well;
    - ``query`` and ``key``, the two linear projections of the correlation map (Eq. 18).

    Args:
        student: network of the student; this one is put on its device.
        diffusion: noising and sampling of label maps.
        correlation_stage: encoder stage whose features give the correlation map; stage ``i`` has ``1 / 2**i`` of the
            resolution, 0 … 4.
        image_shortcut: add the image stem's features to those of the diffusion stem. The paper's network sees the image
            of a noisy pass only as one channel beside one noise channel per class; with many classes its diffusion
            decoder hardly learns to look at it.
        decoders_like_student: start the two other decoders with the weights of the student's, for a student that has
            learned something already.

    Raises:
        InputError: if the student is not built like a V-Net.
        ValueError: if ``correlation_stage`` is no stage of the encoder or class counts differ.

    Example:
        >>> network = DTLPNet(VNet(num_classes=3, features=2), LabelDiffusion(num_classes=3, ddim_steps=2))
        >>> image = torch.rand(1, 1, 32, 16, 16)
        >>> network(image).shape  # the student's logits
        torch.Size([1, 3, 32, 16, 16])
        >>> network.sample_labels(image).shape  # logits of the diffusion decoder, from noise
        torch.Size([1, 3, 32, 16, 16])
    """

    def __init__(
        self,
        student: VNet,
        diffusion: LabelDiffusion,
        correlation_stage: int = 2,
        image_shortcut: bool = True,
        decoders_like_student: bool = False,
    ) -> None:
        super().__init__()
        missing = [name for name in STUDENT_MEMBERS if not hasattr(student, name)]
        if missing:
            raise InputError(
                "network_def: expected a network with a stem, an encoder and a decoder like dtlp_components.VNet, "
                f"which the teachers share and copy; got {type(student).__name__}, which lacks {', '.join(missing)}. "
                "Derive your network from VNet, or do not change network_def."
            )
        if correlation_stage not in range(5):
            raise ValueError(f"correlation_stage must be within 0 and 4, got {correlation_stage}.")
        if diffusion.num_classes != student.num_classes:
            raise ValueError(f"diffusion has {diffusion.num_classes} classes, the student {student.num_classes}.")
        features, norm, dropout = student.features, student.norm, student.dropout
        self.student = student
        self.diffusion = diffusion
        self.correlation_stage = correlation_stage
        self.difficulty_decoder = VNetDecoder(student.num_classes, features, norm, dropout)
        self.diffusion_stem = nn.Sequential(ConvNormAct(student.in_channels + student.num_classes, features, norm))
        self.diffusion_decoder = VNetDecoder(student.num_classes, features, norm, dropout)

        self.embedding_dim = 4 * features
        self.time_embedding = nn.Sequential(
            nn.Linear(self.embedding_dim, self.embedding_dim),
            nn.SiLU(),
            nn.Linear(self.embedding_dim, self.embedding_dim),
        )
        decoder = self.diffusion_decoder
        self.time_stem = TimeConditionedStage(self.diffusion_stem, self.embedding_dim)
        self.time_image_stem = TimeConditionedStage(student.stem, self.embedding_dim) if image_shortcut else None
        self.time_encoder = nn.ModuleList(TimeConditionedStage(s, self.embedding_dim) for s in student.encoder.stages)
        self.time_ups = nn.ModuleList(TimeConditionedStage(up, self.embedding_dim) for up in decoder.ups)
        self.time_decoder = nn.ModuleList(TimeConditionedStage(s, self.embedding_dim) for s in decoder.stages)

        width = features * 2**correlation_stage
        self.query = PointwiseConv3d(width, width)
        self.key = PointwiseConv3d(width, width)
        if decoders_like_student:
            for decoder in (self.difficulty_decoder, self.diffusion_decoder):
                decoder.load_state_dict(student.decoder.state_dict())
        self.to(next(student.parameters()).device)

    def use_channels_last(self) -> None:
        """As :py:meth:`VNet.use_channels_last`, for all decoders."""
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.student.use_channels_last()

    def use_gradient_checkpointing(self) -> None:
        """As :py:meth:`VNet.use_gradient_checkpointing`, for all decoders."""
        self.student.use_gradient_checkpointing()
        self.difficulty_decoder.checkpointing = self.diffusion_decoder.checkpointing = True

    def forward(self, image: Tensor) -> Tensor:
        """The student's logits ``(B, C, D, H, W)``."""
        return self.student(image)

    def image_features(self, image: Tensor) -> list[Tensor]:
        """Features of a clean image pass, finest first; what student and difficulty decoder take."""
        return self.student.image_features(image)

    def difficulty_logits(self, image: Tensor) -> Tensor:
        """Logits of the difficulty decoder ``z_psi`` ``(B, C, D, H, W)``."""
        return self.difficulty_decoder(self.image_features(image))

    def denoise(self, image: Tensor, noisy_label: Tensor, timesteps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """
        One noisy pass ``D_xi(E([x, y_t], t))``.

        Args:
            image: ``(B, in_channels, D, H, W)``.
            noisy_label: ``y_t`` ``(B, C, D, H, W)``.
            timesteps: ``(B,)`` int64, or ``(1,)`` for all volumes, which is faster.

        Returns:
            Logits of the clean label ``(B, C, D, H, W)`` and the encoder's features, finest first.
        """
        embedding = self.time_embedding(get_timestep_embedding(timesteps, self.embedding_dim))
        x = self.time_stem(self.diffusion_stem, torch.cat([image, noisy_label.to(image.dtype)], dim=1), embedding)
        if self.time_image_stem is not None:
            x = x + self.time_image_stem(self.student.stem, image, embedding)
        features = [x]
        encoder = self.student.encoder
        for i, (time, stage) in enumerate(zip(self.time_encoder, encoder.stages, strict=True)):
            deepest = i == len(encoder.stages) - 1
            if deepest:
                x = x.contiguous()  # see VNet.use_channels_last
            x = run_stage(time, stage, x, embedding, checkpointing=encoder.checkpointing)
            features.append(encoder.dropout(x) if deepest else x)

        decoder, x = self.diffusion_decoder, features[-1]
        for i, (up, stage) in enumerate(zip(decoder.ups, decoder.stages, strict=True)):
            x = self.time_ups[i](up, x, embedding) + features[-2 - i]
            x = run_stage(self.time_decoder[i], stage, x, embedding, checkpointing=decoder.checkpointing)
        return decoder.head(decoder.dropout(x)), features

    def sample_labels(self, image: Tensor) -> Tensor:
        """Logits ``(B, C, D, H, W)`` of a label map drawn by DDIM for the image; the caller switches gradients off."""
        shape = (image.shape[0], self.diffusion.num_classes, *image.shape[2:])
        return self.diffusion.sample(lambda y_t, t: self.denoise(image, y_t, t)[0], shape, image.device)

    def correlation_features(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """``e_1`` and ``e_2`` of Eq. 18, both ``(B, E, d, h, w)`` at the correlation stage."""
        source = features[self.correlation_stage]
        return self.query(source), self.key(source)

    @torch.no_grad()
    def aggregate_decoders(self, share: float) -> None:
        """Pull the student's decoder by ``share`` towards the mean of the two teacher decoders, as A&D does."""
        for theta, xi, psi in zip(
            self.student.decoder.parameters(),
            self.diffusion_decoder.parameters(),
            self.difficulty_decoder.parameters(),
            strict=True,
        ):
            theta.lerp_((xi + psi) / 2, share)
