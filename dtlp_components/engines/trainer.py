# SPDX-License-Identifier: Apache-2.0
"""The trainer: one iteration of DTLP-Net, read from top to bottom."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.networks.utils import eval_mode
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from ..errors import NonFiniteError
from ..keys import LossTerms as Terms
from ..keys import PseudoLabelSources as Sources
from ..keys import TrainingEvents
from ..keys import TrainingStreams as Streams
from .protocols import ClassWeightedLoss, Teacher, TeacherLabels, TrainingNetwork

__all__ = ["DTLPTrainer", "loss_terms"]

WEIGHTED_TERMS = (
    Terms.DENOISING,
    Terms.DIFFICULTY,
    Terms.CUTMIX,
    Terms.MASKED,
    Terms.DISTILLATION,
    Terms.RECONSTRUCTION,
    Terms.CORRELATION,
    Terms.UNLABELED,
    Terms.STUDENT_LABELED,
)


def loss_terms(output: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of ``state.output``: total loss, every term before its weight, and what else the trainer reports."""
    return {name: float(value) for name, value in output.items() if name not in (Keys.IMAGE, Keys.LABEL)}


class DTLPTrainer(SupervisedTrainer):
    """
    Train a student on labeled images and on what two teachers say of unlabeled ones (Eq. 22 of Li et al. 2025).

    The trainer knows the order of things and nothing of how each is done: network, losses, pseudo-labels and mixing are
    handed in. Semi-supervised learning, domain adaptation and domain generalization differ in their data only.

    Every stream of an iteration runs forward and backward on its own and frees its graph before the next, so peak
    memory is that of one stream. With no ``unlabeled_data_loader`` the student trains on true labels alone: that is the
    labeled-only baseline, with the same network, schedule and augmentation.

    Args:
        device: where to train.
        max_epochs: epochs of ``epoch_length`` iterations.
        train_data_loader: endless batches of ``image`` (B_l, in_channels, D, H, W) and ``label`` (B_l, 1, D, H, W).
        network: training network, such as :py:class:`dtlp_components.DTLPNet`; what it and the other parts must have is
            in ``protocols.py``.
        optimizer: of the network's parameters.
        loss_function: DiceCE of logits (B, C, D, H, W) and class indices (B, 1, D, H, W).
        unlabeled_data_loader: endless batches of ``image`` (B_u, in_channels, D, H, W), or ``None``.
        mean_teacher: moving average of the student, with a method ``update(student, iteration)``.
        pseudo_labeler: called with unlabeled images, returns :py:class:`dtlp_components.PseudoLabels`.
        difficulty_loss: class-weighted loss with a method ``update(predicted, label) -> weights``.
        reconstruction_loss: one value per volume of masked student logits and teacher logits.
        distillation_loss: called with student logits and a list of soft maps.
        propagate: label propagation, called with query, key and logits.
        cutmix: cross-set CutMix of (unlabeled image, pseudo-label, labeled image, label).
        block_mask: hides blocks of a batch of images.
        weights: weight of every term of ``LossTerms``; all must be given, and no other name.
        ramp_up: called with the iteration (from 0), gives the factor of all unlabeled terms; where it is 0, nothing is
            done with unlabeled images.
        recycling: share of iterations in which the network's own prediction is noised instead of the true label, so
            that the diffusion decoder learns from what it meets when it samples (Fu et al. 2023).
        difficulty_source: decoder whose Dice drives the difficulty weights, ``diffusion`` or ``difficulty``.
        student_difficulty_weights: weigh classes by difficulty in the student's term on true labels as well.
        decoder_aggregation: share by which the student's decoder is pulled to the teachers' each iteration (A&D: 0.01).
        max_grad_norm: gradients are scaled down to this norm.
        amp: autocast to bfloat16 (CPU, and CUDA devices that have it) or float16.
        channels_last: keep weights and volumes in ``channels_last_3d``, which is faster.
        gradient_checkpointing: compute the inside of every stage once more on the way back instead of keeping it.
        kwargs: see :py:class:`monai.engines.SupervisedTrainer`; ``accumulation_steps`` and ``compile`` are refused.

    Raises:
        ValueError: if a weight is missing or unknown, a switch has no such value, or an unsupported argument is given.
    """

    network: TrainingNetwork  # type: ignore[assignment]  # a Protocol cannot say that it is a Module

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        network: TrainingNetwork,
        optimizer: torch.optim.Optimizer,
        loss_function: Callable[[Tensor, Tensor], Tensor],
        *,
        unlabeled_data_loader: Iterable[Any] | None,
        mean_teacher: Teacher,
        pseudo_labeler: Callable[[Tensor], TeacherLabels],
        difficulty_loss: ClassWeightedLoss,
        reconstruction_loss: Callable[[Tensor, Tensor], Tensor],
        distillation_loss: Callable[[Tensor, list[Tensor]], Tensor],
        propagate: Callable[[Tensor, Tensor, Tensor], Tensor],
        cutmix: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
        block_mask: Callable[[Tensor], Tensor],
        weights: Mapping[str, float],
        ramp_up: Callable[[int], float],
        recycling: float = 0.0,
        difficulty_source: str = Sources.DIFFUSION,
        student_difficulty_weights: bool = True,
        decoder_aggregation: float = 0.0,
        max_grad_norm: float = 12.0,
        amp: bool = False,
        channels_last: bool = True,
        gradient_checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("accumulation_steps", 1) != 1 or kwargs.get("compile", False):
            raise ValueError("DTLPTrainer supports neither accumulation_steps nor compile.")
        if set(weights) != set(WEIGHTED_TERMS):
            raise ValueError(f"weights must name {sorted(WEIGHTED_TERMS)}, got {sorted(weights)}.")
        if difficulty_source not in (Sources.DIFFUSION, Sources.DIFFICULTY):
            raise ValueError(f"difficulty_source must be 'diffusion' or 'difficulty', got {difficulty_source!r}.")
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,  # type: ignore[arg-type]
            optimizer=optimizer,
            loss_function=loss_function,
            decollate=False,
            **kwargs,
        )
        device = torch.device(device)
        self.unlabeled_data_loader = unlabeled_data_loader
        self.mean_teacher = mean_teacher
        self.pseudo_labeler = pseudo_labeler
        self.difficulty_loss = difficulty_loss
        self.reconstruction_loss = reconstruction_loss
        self.distillation_loss = distillation_loss
        self.propagate = propagate
        self.cutmix = cutmix
        self.block_mask = block_mask
        self.weights = {name: float(value) for name, value in weights.items()}
        self.ramp_up = ramp_up
        self.recycling = recycling
        self.difficulty_source = difficulty_source
        self.student_difficulty_weights = student_difficulty_weights
        self.decoder_aggregation = decoder_aggregation
        self.max_grad_norm = max_grad_norm
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        if channels_last:
            self.network.use_channels_last()
            self.mean_teacher.module.use_channels_last()
        if gradient_checkpointing:
            self.network.use_gradient_checkpointing()

        half = torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
        self.autocast_kwargs: dict[str, Any] = {"device_type": device.type, "dtype": half, "enabled": amp}
        # MONAI's own scaler is made anew at each run and could not be resumed
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=amp and half == torch.float16)
        self._unlabeled_batches: Iterator[Any] | None = None
        self.register_events(*TrainingEvents)
        self.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        logger = logging.getLogger("dtlp")
        counts = [_count_cases(loader) for loader in (self.data_loader, self.unlabeled_data_loader)]
        if None not in counts:
            logger.info(f"Training on {counts[0]} labeled and {counts[1]} unlabeled scans.")
        if self.unlabeled_data_loader is None:
            logger.warning(
                "No unlabeled scans: the student trains on true labels alone (labeled-only baseline); "
                "teachers, pseudo-labels and all other loss terms are off."
            )
        else:
            self._unlabeled_batches = iter(self.unlabeled_data_loader)
            active = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items() if weight)
            logger.info(f"Loss terms and weights: {active}.")

    def _iteration(self, engine: Engine, batchdata: dict[str, Tensor]) -> dict[str, Any]:
        """
        One iteration; docs/method.md goes through the same steps with the reasons.

        Writes to ``state.output``: ``image`` and ``label`` (the labeled batch), ``loss`` (weighted total), every term
        of :py:class:`LossTerms` that was computed (before its weight), ``grad_norm``, ``learning_rate`` and, with
        unlabeled data, ``ramp_up`` and ``difficulty_weight`` (mean over classes).

        Raises:
            NonFiniteError: if a term or the gradient norm is not finite; no weight has been changed by the iteration
                then.
        """
        net, weights = self.network, self.weights
        output: dict[str, Any] = {}
        engine.state.output = output  # type: ignore[assignment]

        # 1. One labeled batch, and one unlabeled if there is any
        image_l = self._to_device(batchdata[Keys.IMAGE])
        label_l = self._to_device(batchdata[Keys.LABEL]).long()
        image_u = None
        if self._unlabeled_batches is not None:
            image_u = self._to_device(next(self._unlabeled_batches)[Keys.IMAGE])
        output.update({Keys.IMAGE: image_l, Keys.LABEL: label_l, Keys.LOSS: 0.0})

        net.train()
        self.optimizer.zero_grad(set_to_none=True)
        ramp = self.ramp_up(engine.state.iteration - 1)
        self._complete(Streams.BATCH)

        if image_u is None:
            # 2. Labeled only: the student on true labels, nothing else
            with self._autocast():
                logits = net(image_l)
            self._backward(Streams.LABELED, {Terms.STUDENT_LABELED: (1.0, self._loss(logits, label_l))})
        else:
            # 3. Diffusion flow on labeled images: denoise the label map (Eq. 1, 2), propagate its logits (Eq. 21)
            clean = net.diffusion.clean_from_label(label_l)
            if self.recycling > 0 and torch.rand(()) < self.recycling:
                clean = self._predict_from_noise(image_l)
                self._complete(Streams.RECYCLING)
            t = net.diffusion.random_timesteps(len(image_l), image_l.device)
            y_t = self._format(net.diffusion.add_noise(clean, t))
            with self._autocast():
                diffusion_logits, features = net.denoise(image_l, y_t, t)
            losses = {Terms.DENOISING: (weights[Terms.DENOISING], self._loss(diffusion_logits, label_l))}
            if weights[Terms.CORRELATION]:
                losses[Terms.CORRELATION] = (
                    weights[Terms.CORRELATION],
                    self._correlation_loss(features, diffusion_logits, label_l),
                )
            self._backward(Streams.DIFFUSION, losses)

            # 4. Difficulty flow on labeled images (Eq. 3-6); the student may see true labels in the same pass
            with self._autocast():
                features = net.image_features(image_l)
                difficulty_logits = net.difficulty_decoder(features)
            source = diffusion_logits if self.difficulty_source == Sources.DIFFUSION else difficulty_logits
            class_weights = self.difficulty_loss.update(source.detach().argmax(dim=1, keepdim=True), label_l)
            loss = self.difficulty_loss(difficulty_logits.float(), label_l, class_weights)
            losses = {Terms.DIFFICULTY: (weights[Terms.DIFFICULTY], loss)}
            if weights[Terms.STUDENT_LABELED]:
                with self._autocast():
                    logits = net.student.decoder(features)
                if self.student_difficulty_weights:
                    loss = self.difficulty_loss(logits.float(), label_l, class_weights)
                else:
                    loss = self._loss(logits, label_l)
                losses[Terms.STUDENT_LABELED] = (weights[Terms.STUDENT_LABELED], loss)
            self._backward(Streams.DIFFICULTY, losses)
            output["difficulty_weight"] = float(class_weights.mean())
            output["ramp_up"] = ramp

        if image_u is not None and ramp > 0:
            # 5. Both teachers name the unlabeled voxels (Eq. 7-10); no gradient, no dropout, no statistics
            with eval_mode(net, self.mean_teacher), self._autocast():  # type: ignore[arg-type]
                pseudo = self.pseudo_labeler(image_u)
                if weights[Terms.RECONSTRUCTION]:
                    teacher_logits_l = self.mean_teacher(image_l)
            self._complete(Streams.TEACHERS)

            # 6. Student on images mixed across both sets (Eq. 12, 13)
            if weights[Terms.CUTMIX]:
                image_mix, label_mix = self.cutmix(image_u, pseudo.label, image_l, label_l)
                with self._autocast():
                    logits = net(image_mix)
                loss = self._loss(logits, label_mix)
                self._backward(Streams.MIXED, {Terms.CUTMIX: (ramp * weights[Terms.CUTMIX], loss)})

            # 7. Student on masked images: consistent with the pseudo-label (Eq. 15) and with the mean teacher (Eq. 16)
            volumes = len(image_l) + len(image_u)
            if weights[Terms.MASKED] or weights[Terms.RECONSTRUCTION]:
                with self._autocast():
                    logits = net(self.block_mask(image_u))
                losses = {}
                if weights[Terms.MASKED]:
                    losses[Terms.MASKED] = (ramp * weights[Terms.MASKED], self._loss(logits, pseudo.label))
                if weights[Terms.RECONSTRUCTION]:
                    loss = self.reconstruction_loss(logits, pseudo.mean_teacher_logits).sum() / volumes
                    losses[Terms.RECONSTRUCTION] = (ramp * weights[Terms.RECONSTRUCTION], loss)
                self._backward(Streams.MASKED, losses)
            if weights[Terms.RECONSTRUCTION]:
                with self._autocast():
                    logits = net(self.block_mask(image_l))
                loss = self.reconstruction_loss(logits, teacher_logits_l).sum() / volumes
                losses = {Terms.RECONSTRUCTION: (ramp * weights[Terms.RECONSTRUCTION], loss)}
                self._backward(Streams.MASKED_LABELED, losses)

            # 8. Student on the images as they are: distillation (Eq. 17), propagation (Eq. 18-20), Eq. 11 if asked for
            if weights[Terms.DISTILLATION] or weights[Terms.CORRELATION] or weights[Terms.UNLABELED]:
                with self._autocast():
                    features = net.image_features(image_u)
                    logits = net.student.decoder(features)
                losses = {}
                if weights[Terms.DISTILLATION]:
                    targets = [pseudo.probabilities[name] for name in (Sources.DIFFUSION, Sources.DIFFICULTY)]
                    loss = self.distillation_loss(logits, targets)
                    losses[Terms.DISTILLATION] = (ramp * weights[Terms.DISTILLATION], loss)
                if weights[Terms.CORRELATION]:
                    loss = self._correlation_loss(features, logits, pseudo.label)
                    losses[Terms.CORRELATION] = (ramp * weights[Terms.CORRELATION], loss)
                if weights[Terms.UNLABELED]:
                    losses[Terms.UNLABELED] = (ramp * weights[Terms.UNLABELED], self._loss(logits, pseudo.label))
                self._backward(Streams.UNLABELED, losses)

        # 9. One step, unless something is not finite; then the mean teacher follows
        self._step(engine)
        self._complete(Streams.STEP)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _complete(self, stream: Streams) -> None:
        """Tell who watches that a stream is done."""
        self.state.stream = stream
        self.fire_event(TrainingEvents.STREAM_COMPLETED)

    def _backward(self, stream: Streams, losses: Mapping[Terms, tuple[float, Tensor]]) -> None:
        """Add one stream's weighted terms, ``{name: (weight, loss)}``, run backward and free its graph."""
        output: Any = self.state.output
        total = torch.stack([weight * loss for weight, loss in losses.values()]).sum()
        self.grad_scaler.scale(total).backward()
        output[Keys.LOSS] = output[Keys.LOSS] + total.detach()
        for name, (_, loss) in losses.items():
            output[name] = output.get(name, 0.0) + loss.detach()
        self._complete(stream)

    def _step(self, engine: Engine) -> None:
        """Check, clip, step, and let the mean teacher follow."""
        output: Any = engine.state.output
        output.update(loss_terms(output))
        self.grad_scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        output["grad_norm"] = float(norm)
        output["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        broken = [name for name, value in output.items() if isinstance(value, float) and not math.isfinite(value)]
        if self.grad_scaler.is_enabled():
            # a float16 gradient may overflow now and then: the scaler skips that step and lowers its scale
            broken = [name for name in broken if name != "grad_norm"]
        if broken:
            values = ", ".join(f"{name} = {output[name]}" for name in broken)
            raise NonFiniteError(
                f"Training stopped at iteration {engine.state.iteration}: not finite: {values}. The last checkpoint is "
                "untouched. Try a smaller learning_rate or max_grad_norm, amp False, or look for broken scans."
            )
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self.decoder_aggregation:
            self.network.aggregate_decoders(self.decoder_aggregation)
        self.mean_teacher.update(self.network.student, engine.state.iteration)

    def _predict_from_noise(self, image: Tensor) -> Tensor:
        """The network's own clean label map, made in one pass from noise, ``(B, C, D, H, W)``."""
        diffusion = self.network.diffusion
        last = torch.full((1,), diffusion.num_train_timesteps - 1, device=image.device)
        with eval_mode(self.network), self._autocast():  # type: ignore[arg-type]
            noise = torch.randn(len(image), diffusion.num_classes, *image.shape[2:], device=image.device)
            logits, _ = self.network.denoise(image, self._format(noise), last)
        return diffusion.clean_from_logits(logits)

    def _correlation_loss(self, features: list[Tensor], logits: Tensor, label: Tensor) -> Tensor:
        with self._autocast():
            query, key = self.network.correlation_features(features)
        return self._loss(self.propagate(query, key, logits), label)

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return self.loss_function(logits.float(), label)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(**self.autocast_kwargs)

    def _to_device(self, batch: Tensor) -> Tensor:
        # a plain tensor: MetaTensor costs time in every operation and its meta data end here
        return self._format(torch.as_tensor(batch).as_subclass(torch.Tensor).to(self.state.device, non_blocking=True))

    def _format(self, volume: Tensor) -> Tensor:
        return volume.contiguous(memory_format=self.memory_format)


def _count_cases(loader: Any) -> int | None:
    """Cases that a loader draws from, 0 without a loader; None if it does not tell."""
    if loader is None:
        return 0
    return len(loader.dataset) if hasattr(loader, "dataset") else None
