# SPDX-License-Identifier: Apache-2.0
"""What every training of a student shares: two batches in, losses backward one stream after the other, one step."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from ..errors import NonFiniteError
from ..keys import WORDS, TrainingEvents
from ..keys import TrainingStreams as Streams
from ..processes import average_tensors, copy_from_first, num_processes
from ..tables import indented
from .batch_sums import BatchSums, scalars_of
from .devices import half_precision
from .protocols import Teacher, TrainedModule
from .random_streams import RandomStreams

__all__ = ["StudentTrainer", "loss_terms"]


def loss_terms(output: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of ``state.output``: total loss, every term before its weight, and what else the trainer reports."""
    return {name: float(value) for name, value in output.items() if name not in (Keys.IMAGE, Keys.LABEL)}


class StudentTrainer(SupervisedTrainer):
    """
    Base of the trainers: what is around an iteration, which derived classes write as ``_iteration``.

    Every stream of an iteration runs forward and backward on its own and frees its graph before the next, so peak
    memory is that of one stream. An iteration is one step of the optimizer, from ``accumulation_steps`` batches of each
    of the processes that train together: ``W`` processes step as one does that accumulates ``W`` batches.

    Args:
        device: where to train.
        max_epochs: epochs of ``epoch_length`` iterations.
        train_data_loader: endless batches of ``image`` (k B_l, in_channels, D, H, W) and ``label`` (k B_l, 1, D, H, W),
            ``k`` batches to accumulate in one.
        network: everything that is trained.
        optimizer: of the network's parameters.
        loss_function: DiceCE of logits (B, C, D, H, W) and class indices (B, 1, D, H, W).
        unlabeled_data_loader: endless batches of ``image`` (k B_u, in_channels, D, H, W), or ``None``.
        mean_teacher: moving average of the student, with a method ``update(student, iteration)``.
        ramp_up: called with the iteration (from 0), gives the factor of all unlabeled terms; where it is 0, nothing is
            done with unlabeled images.
        style_transfer: called with labeled and unlabeled images, gives the labeled ones in the style of the others.
        max_grad_norm: gradients are scaled down to this norm.
        accumulation_steps: batches that this process takes one after the other before a step. MONAI's trainer would
            count each of them as an iteration.
        amp: autocast to :py:func:`half_precision`.
        channels_last: keep weights and volumes in ``channels_last_3d``, which is faster.
        gradient_checkpointing: compute the inside of every stage once more on the way back instead of keeping it.
        kwargs: see :py:class:`monai.engines.SupervisedTrainer`; ``compile`` is refused.

    Raises:
        ValueError: if an unsupported argument is given.
    """

    network: TrainedModule  # type: ignore[assignment]  # a Protocol cannot say that it is a Module
    numbers: tuple[str, ...] = (Keys.LOSS, "ramp_up", "grad_norm")  # what the log has beside the terms

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        network: Any,
        optimizer: torch.optim.Optimizer,
        loss_function: Callable[[Tensor, Tensor], Tensor],
        *,
        unlabeled_data_loader: Iterable[Any] | None,
        mean_teacher: Teacher,
        ramp_up: Callable[[int], float],
        style_transfer: Callable[[Tensor, Tensor], Tensor] = lambda image, reference: image,
        max_grad_norm: float = 12.0,
        accumulation_steps: int = 1,
        amp: bool = False,
        channels_last: bool = True,
        gradient_checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("compile", False):
            raise ValueError(f"{type(self).__name__} does not support compile.")
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            decollate=False,
            **kwargs,
        )
        device = torch.device(device)
        self.unlabeled_data_loader = unlabeled_data_loader
        self.mean_teacher = mean_teacher
        self.ramp_up, self.style_transfer = ramp_up, style_transfer
        self.max_grad_norm = max_grad_norm
        self.random_streams = RandomStreams(device, accumulation_steps)
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        if channels_last:
            self.network.use_channels_last()
            self.mean_teacher.module.use_channels_last()
        if gradient_checkpointing:
            self.network.use_gradient_checkpointing()

        half = half_precision(device)
        self.autocast_kwargs: dict[str, Any] = {"device_type": device.type, "dtype": half, "enabled": amp}
        # MONAI's own scaler is made anew at each run and could not be resumed
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=amp and half == torch.float16)
        self._unlabeled_batches: Iterator[Any] | None = None
        self.register_events(*TrainingEvents)
        self.add_event_handler(Events.STARTED, self._start)

    def active_terms(self) -> Mapping[str, float]:
        """Loss terms with their weights, those that have one."""
        raise NotImplementedError

    def _start(self, engine: Engine) -> None:
        logger = logging.getLogger("dtlp")
        copy_from_first([*self.network.state_dict().values(), *self.mean_teacher.module.state_dict().values()])
        self.random_streams.start()
        counts = [_count_cases(loader) for loader in (self.data_loader, self.unlabeled_data_loader)]
        if None not in counts:
            logger.info(f"Training on {counts[0]} labeled and {counts[1]} unlabeled scans.")
        if num_processes() > 1 or self.random_streams.count > 1:
            logger.info(
                f"A step takes {num_processes() * self.random_streams.count} batches: {num_processes()} processes, "
                f"accumulation_steps {self.random_streams.count}."
            )
        if self.unlabeled_data_loader is None:
            logger.warning(
                "No unlabeled scans: the student trains on true labels alone (labeled-only baseline); "
                "teachers, pseudo-labels and all other loss terms are off."
            )
        else:
            self._unlabeled_batches = iter(self.unlabeled_data_loader)
            # a method of somebody's own has terms of its own
            rows = [[f"{name} {weight:g}", WORDS.get(name, "")] for name, weight in self.active_terms().items()]
            rows += [[name, WORDS[name]] for name in self.numbers]
            logger.info("Loss terms and weights:\n" + indented(rows))

    def _batches(
        self, engine: Engine, batchdata: Mapping[str, Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """
        Labeled images and labels, and unlabeled images if there are any, of each batch of an iteration; gradients and
        ``state.output`` start anew.
        """
        output: Any = {Keys.LOSS: torch.zeros((), device=self.state.device)}
        engine.state.output = output
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        images, labels = self._split(batchdata[Keys.IMAGE]), self._split(batchdata[Keys.LABEL])
        unlabeled: Sequence[Tensor | None] = [None] * self.random_streams.count
        if self._unlabeled_batches is not None:
            unlabeled = self._split(next(self._unlabeled_batches)[Keys.IMAGE])
        sums = BatchSums(self.network.parameters()) if self.random_streams.count > 1 else None
        for batch, (image_l, label_l, image_u) in enumerate(zip(images, labels, unlabeled, strict=True)):
            with self.random_streams.use(batch):
                image_l, label_l = self._to_device(image_l), self._to_device(label_l).long()
                if image_u is not None:
                    image_u = self._to_device(image_u)
                    image_l = self.style_transfer(image_l, image_u)
                output.update({Keys.IMAGE: image_l, Keys.LABEL: label_l})
                self._complete(Streams.BATCH)
                yield image_l, label_l, image_u
            if sums is not None:
                sums.take(output)
        if sums is not None:
            sums.give(output)

    def _split(self, batches: Tensor) -> Sequence[Tensor]:
        # a plain tensor: MetaTensor costs time in every operation and its meta data end here
        return torch.as_tensor(batches).as_subclass(torch.Tensor).chunk(self.random_streams.count)

    def _complete(self, stream: Streams) -> None:
        """Tell who watches that a stream is done."""
        self.state.stream = stream
        self.fire_event(TrainingEvents.STREAM_COMPLETED)

    def _backward(self, stream: Streams, losses: Mapping[str, tuple[float, Tensor]]) -> None:
        """Add one stream's weighted terms, ``{name: (weight, loss)}``, run backward and free its graph."""
        total = torch.stack([weight * loss for weight, loss in losses.values()]).sum()
        self.grad_scaler.scale(total).backward()
        self._report(Keys.LOSS, total)
        for name, (_, loss) in losses.items():
            self._report(name, loss)
        self._complete(stream)

    def _report(self, name: str, value: Tensor) -> None:
        """Add a scalar of a batch to ``state.output``."""
        output: Any = self.state.output
        output[name] = output.get(name, 0.0) + value.detach()

    def _step(self, engine: Engine, student: Any) -> None:
        """Average over processes, check, clip, step, and let the mean teacher follow."""
        output: Any = engine.state.output
        names, terms = zip(*scalars_of(output).items(), strict=True)
        scalars = torch.stack(terms).float()
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        average_tensors([*gradients, scalars, *self._statistics()], self.random_streams.count)
        # as one larger batch would have them
        average_tensors(_running_statistics(self.network, self.mean_teacher.module))
        self.grad_scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        # the one message from the device, for which the processor has to wait
        values = torch.cat([scalars, norm.to(scalars)[None]]).tolist()
        output.update(zip([*names, "grad_norm"], values, strict=True))
        output["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        # a float16 gradient may overflow now and then: the scaler skips that step and lowers its scale
        _refuse_non_finite(output, engine.state.iteration, {"grad_norm"} if self.grad_scaler.is_enabled() else set())
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self._after_step()
        self.mean_teacher.update(student, engine.state.iteration)

    def _statistics(self) -> list[Tensor]:
        """Float tensors on the device that all processes average before a step, beside the gradients."""
        return []

    def _after_step(self) -> None:
        """What changes weights after the optimizer and before the mean teacher follows."""

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return self.loss_function(logits.float(), label)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(**self.autocast_kwargs)

    def _to_device(self, batch: Tensor) -> Tensor:
        return self._format(batch.to(self.state.device, non_blocking=True))

    def _format(self, volume: Tensor) -> Tensor:
        return volume.contiguous(memory_format=self.memory_format)


def _count_cases(loader: Any) -> int | None:
    """Cases that a loader draws from, 0 without a loader; None if it does not tell."""
    if loader is None:
        return 0
    return len(loader.dataset) if hasattr(loader, "dataset") else None


def _refuse_non_finite(output: Mapping[str, Any], iteration: int, may_be: set[str]) -> None:
    broken = [
        f"{name} = {value}"
        for name, value in output.items()
        if isinstance(value, float) and not math.isfinite(value) and name not in may_be
    ]
    if broken:
        raise NonFiniteError(
            f"Training stopped at iteration {iteration}: not finite: {', '.join(broken)}. The last checkpoint is "
            "untouched. Try a smaller max_grad_norm, amp False, or a new run with a smaller learning_rate; or look for "
            "broken scans."
        )


def _running_statistics(*modules: Any) -> list[Tensor]:
    """Of batch norm, if there is one."""
    buffers = (buffer for module in modules for buffer in module.named_buffers())
    return [buffer for name, buffer in buffers if name.endswith(("running_mean", "running_var"))]
