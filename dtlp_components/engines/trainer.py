# SPDX-License-Identifier: Apache-2.0
"""The trainer: one iteration of DTLP-Net, read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.networks.utils import eval_mode, train_mode
from torch import Tensor

from ..keys import LossTerms as Terms
from ..keys import PseudoLabelSources as Sources
from ..keys import TrainingStreams as Streams
from .protocols import ClassWeightedLoss, TeacherLabels, TrainingNetwork
from .student_trainer import StudentTrainer

__all__ = ["DTLPTrainer"]

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


# terms that need what the teachers say of an unlabeled image
TAUGHT_TERMS = (
    Terms.CUTMIX,
    Terms.MASKED,
    Terms.DISTILLATION,
    Terms.RECONSTRUCTION,
    Terms.CORRELATION,
    Terms.UNLABELED,
)


class DTLPTrainer(StudentTrainer):
    """
    Train a student on labeled images and on what two teachers say of unlabeled ones (Eq. 22 of Li et al. 2025).

    The trainer knows the order of things and nothing of how each is done: network, losses, pseudo-labels and mixing are
    handed in. Semi-supervised learning, domain adaptation and domain generalization differ in their data only. A flow
    is left out where the weights of all its terms are 0. With no ``unlabeled_data_loader`` the student trains on true
    labels alone: that is the labeled-only baseline, with the same network, schedule and augmentation.

    Args:
        args: see :py:class:`StudentTrainer`; the network is one such as :py:class:`dtlp_components.DTLPNet`, and what
            it and the other parts must have is in ``protocols.py``.
        pseudo_labeler: called with unlabeled images, returns :py:class:`dtlp_components.PseudoLabels`.
        difficulty_loss: class-weighted loss with methods ``observe(predicted, label) -> weights`` and
            ``update()``, see ``protocols.py``.
        reconstruction_loss: one value per volume of masked student logits and teacher logits.
        distillation_loss: called with student logits and a list of soft maps.
        propagation_loss: label propagation, called with query, key, logits and label.
        cutmix: cross-set CutMix of (unlabeled image, pseudo-label, labeled image, label).
        block_mask: hides blocks of a batch of images.
        strong_view: distorts the intensities of images that the student sees mixed or masked; its teachers do not.
        weights: weight of every term of ``LossTerms``; all must be given, and no other name.
        recycling: share of iterations in which the network's own prediction is noised instead of the true label, so
            that the diffusion decoder learns from what it meets when it samples (Fu et al. 2023).
        difficulty_source: decoder whose Dice drives the difficulty weights, ``diffusion`` or ``difficulty``.
        student_difficulty_weights: weigh classes by difficulty in the student's term on true labels as well.
        decoder_aggregation: share by which the student's decoder is pulled to the teachers' each iteration (A&D: 0.01).
        teacher_mode: ``eval``, or ``train``, in which teachers have dropout and batch statistics (A&D).
        kwargs: the other arguments of :py:class:`StudentTrainer`.

    Raises:
        ValueError: if a weight is missing or unknown, a switch has no such value, or an unsupported argument is given.
    """

    network: TrainingNetwork
    numbers = (*StudentTrainer.numbers, "difficulty_weight")

    def __init__(
        self,
        *args: Any,
        pseudo_labeler: Callable[[Tensor], TeacherLabels],
        difficulty_loss: ClassWeightedLoss,
        reconstruction_loss: Callable[[Tensor, Tensor], Tensor],
        distillation_loss: Callable[[Tensor, list[Tensor]], Tensor],
        propagation_loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
        cutmix: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
        block_mask: Callable[[Tensor], Tensor],
        strong_view: Callable[[Tensor], Tensor],
        weights: Mapping[str, float],
        recycling: float = 0.0,
        difficulty_source: str = Sources.DIFFUSION,
        student_difficulty_weights: bool = True,
        decoder_aggregation: float = 0.0,
        teacher_mode: str = "eval",
        **kwargs: Any,
    ) -> None:
        if set(weights) != set(WEIGHTED_TERMS):
            raise ValueError(f"weights must name {sorted(WEIGHTED_TERMS)}, got {sorted(weights)}.")
        if difficulty_source not in (Sources.DIFFUSION, Sources.DIFFICULTY):
            raise ValueError(f"difficulty_source must be 'diffusion' or 'difficulty', got {difficulty_source!r}.")
        if teacher_mode not in ("eval", "train"):
            raise ValueError(f"teacher_mode must be 'eval' or 'train', got {teacher_mode!r}.")
        super().__init__(*args, **kwargs)
        self.pseudo_labeler = pseudo_labeler
        self.difficulty_loss = difficulty_loss
        self.reconstruction_loss = reconstruction_loss
        self.distillation_loss = distillation_loss
        self.propagation_loss = propagation_loss
        self.cutmix = cutmix
        self.block_mask, self.strong_view = block_mask, strong_view
        self.weights = {name: float(value) for name, value in weights.items()}
        self.recycling = recycling
        self.difficulty_source = difficulty_source
        self.student_difficulty_weights = student_difficulty_weights
        self.decoder_aggregation = decoder_aggregation
        self.weighs_classes = bool(
            self.weights[Terms.DIFFICULTY] or (self.weights[Terms.STUDENT_LABELED] and student_difficulty_weights)
        )
        source = Terms.DENOISING if difficulty_source == Sources.DIFFUSION else Terms.DIFFICULTY
        if self.weighs_classes and not self.weights[source]:
            raise ValueError(
                f"weights::{source} must be above 0, since difficulty_source {difficulty_source!r} needs it."
            )
        self.teacher_mode = eval_mode if teacher_mode == "eval" else train_mode

    def active_terms(self) -> Mapping[str, float]:
        """As in the base."""
        return {name: weight for name, weight in self.weights.items() if weight}

    def _iteration(self, engine: Engine, batchdata: dict[str, Tensor]) -> dict[str, Any]:
        """
        One iteration; docs/explanation/method.md goes through the same steps with the reasons.

        Writes to ``state.output``: ``image`` and ``label`` (the labeled batch), ``loss`` (weighted total), every term
        of :py:class:`LossTerms` that was computed (before its weight), ``grad_norm``, ``learning_rate`` and, with
        unlabeled data, ``ramp_up`` and ``difficulty_weight`` (the largest of the classes; their mean is always 1).
        A term is the mean over the batches of the iteration, of all processes.

        Raises:
            NonFiniteError: if a term or the gradient norm is not finite; no weight has been changed by the iteration
                then.
        """
        net, weights = self.network, self.weights

        ramp = self.ramp_up(engine.state.iteration - 1)
        # 1. One labeled batch, and one unlabeled if there is any; several of them if they are accumulated
        for image_l, label_l, image_u in self._batches(engine, batchdata):
            if image_u is None:
                # 2. Labeled only: the student on true labels, nothing else
                with self._autocast():
                    logits = net(image_l)
                self._backward(Streams.LABELED, {Terms.STUDENT_LABELED: (1.0, self._loss(logits, label_l))})
                continue

            # 3. Diffusion flow on labeled images: denoise the label map (Eq. 1, 2), propagate its logits (Eq. 21)
            if weights[Terms.DENOISING] or weights[Terms.CORRELATION]:
                clean = net.diffusion.clean_from_label(label_l)
                if self.recycling > 0 and torch.rand(()) < self.recycling:
                    clean = self._predict_from_noise(image_l)
                    self._complete(Streams.RECYCLING)
                t = net.diffusion.random_timesteps(len(image_l), image_l.device)
                y_t = self._format(net.diffusion.add_noise(clean, t))
                with self._autocast():
                    diffusion_logits, features = net.denoise(image_l, y_t, t)
                losses: dict[str, tuple[float, Tensor]] = {}
                if weights[Terms.DENOISING]:
                    losses[Terms.DENOISING] = (weights[Terms.DENOISING], self._loss(diffusion_logits, label_l))
                if weights[Terms.CORRELATION]:
                    losses[Terms.CORRELATION] = (
                        weights[Terms.CORRELATION],
                        self._correlation_loss(features, diffusion_logits, label_l),
                    )
                self._backward(Streams.DIFFUSION, losses)

            # 4. Difficulty flow on labeled images (Eq. 3-6); the student may see true labels in the same pass
            if weights[Terms.DIFFICULTY] or weights[Terms.STUDENT_LABELED]:
                losses = {}
                with self._autocast():
                    features = net.image_features(image_l)
                    if weights[Terms.DIFFICULTY]:
                        difficulty_logits = net.difficulty_decoder(features)
                if self.weighs_classes:
                    source = diffusion_logits if self.difficulty_source == Sources.DIFFUSION else difficulty_logits
                    class_weights = self.difficulty_loss.observe(source.argmax(dim=1, keepdim=True), label_l)
                    self._report("difficulty_weight", class_weights.max())
                if weights[Terms.DIFFICULTY]:
                    loss = self.difficulty_loss(difficulty_logits.float(), label_l, class_weights)
                    losses[Terms.DIFFICULTY] = (weights[Terms.DIFFICULTY], loss)
                if weights[Terms.STUDENT_LABELED]:
                    with self._autocast():
                        logits = net.student.decoder(features)
                    if self.student_difficulty_weights:
                        loss = self.difficulty_loss(logits.float(), label_l, class_weights)
                    else:
                        loss = self._loss(logits, label_l)
                    losses[Terms.STUDENT_LABELED] = (weights[Terms.STUDENT_LABELED], loss)
                self._backward(Streams.DIFFICULTY, losses)

            if ramp == 0 or not any(weights[term] for term in TAUGHT_TERMS):
                continue

            # 5. Both teachers name the unlabeled voxels (Eq. 7-10); no gradient, no dropout, no statistics
            with self.teacher_mode(net, self.mean_teacher), torch.no_grad(), self._autocast():  # type: ignore[arg-type]
                pseudo = self.pseudo_labeler(image_u)
                if weights[Terms.RECONSTRUCTION]:
                    teacher_logits_l = self.mean_teacher(image_l)
            self._complete(Streams.TEACHERS)

            # 6. Student on images mixed across both sets (Eq. 12, 13)
            if weights[Terms.CUTMIX]:
                image_mix, label_mix = self.cutmix(image_u, pseudo.label, image_l, label_l)
                with self._autocast():
                    logits = net(self.strong_view(image_mix))
                loss = self._loss(logits, label_mix)
                self._backward(Streams.MIXED, {Terms.CUTMIX: (ramp * weights[Terms.CUTMIX], loss)})

            # 7. Student on masked images: consistent with the pseudo-label (Eq. 15) and with the mean teacher (Eq. 16)
            volumes = len(image_l) + len(image_u)
            if weights[Terms.MASKED] or weights[Terms.RECONSTRUCTION]:
                with self._autocast():
                    logits = net(self.block_mask(self.strong_view(image_u)))
                losses = {}
                if weights[Terms.MASKED]:
                    losses[Terms.MASKED] = (ramp * weights[Terms.MASKED], self._loss(logits, pseudo.label))
                if weights[Terms.RECONSTRUCTION]:
                    loss = self.reconstruction_loss(logits, pseudo.mean_teacher_logits).sum() / volumes
                    losses[Terms.RECONSTRUCTION] = (ramp * weights[Terms.RECONSTRUCTION], loss)
                self._backward(Streams.MASKED, losses)
            if weights[Terms.RECONSTRUCTION]:
                with self._autocast():
                    logits = net(self.block_mask(self.strong_view(image_l)))
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

        # 9. One step, of all processes alike, unless something is not finite; then the mean teacher follows
        output: Any = engine.state.output
        if self.unlabeled_data_loader is not None:
            output["ramp_up"] = ramp
        self._step(engine, net.student)
        self._complete(Streams.STEP)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _statistics(self) -> list[Tensor]:
        return [self.difficulty_loss.counts]

    def _after_step(self) -> None:
        self.difficulty_loss.update()
        if self.decoder_aggregation:
            self.network.aggregate_decoders(self.decoder_aggregation)

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
        return self.propagation_loss(query, key, logits, label)
