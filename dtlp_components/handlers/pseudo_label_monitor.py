# SPDX-License-Identifier: Apache-2.0
"""Dice and entropy of every source of pseudo-labels on volumes whose labels are known."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.networks.utils import eval_mode
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from ..keys import PseudoLabelSources as Sources
from ..metrics.overlap import batch_dice
from ..metrics.uncertainty import entropy_bits
from ..processes import gather, is_first, my_share
from ..run_folder import RunFolder
from .run_table import RunTable

__all__ = ["PseudoLabelMonitor", "predict_sources"]


def predict_sources(
    image: Tensor,
    student: nn.Module,
    pseudo_labeler: Callable[[Tensor], Any],
    inferer: Callable[..., Any],
) -> dict[str, Tensor]:
    """
    Probabilities of every pseudo-label source for a whole volume, window by window.

    Args:
        image: ``(1, in_channels, D, H, W)``, any size.
        student: maps windows to logits.
        pseudo_labeler: maps windows to :py:class:`dtlp_components.PseudoLabels`.
        inferer: sliding-window inferer.

    Returns:
        One map ``(1, C, D, H, W)`` per :py:class:`PseudoLabelSources` that the labeler has, by name.
    """
    names: list[str] = []

    def all_sources(window: Tensor) -> Tensor:
        maps = pseudo_labeler(window).probabilities
        maps = {**maps, Sources.STUDENT: torch.softmax(student(window).float(), dim=1)}
        names[:] = [name for name in Sources if name in maps]
        return torch.cat([maps[name] for name in names], dim=1)

    stacked = inferer(image, all_sources)
    return dict(zip(names, stacked.chunk(len(names), dim=1), strict=True))


class PseudoLabelMonitor:
    """
    Show at each validation how good every teacher is: a teacher worse than the student is visible at once.

    Mean foreground Dice (classes absent from a volume's label are left out) and mean entropy in bits over voxels,
    averaged over volumes, on the training grid. Results go to ``engine.state.metrics`` as ``dice/<source>`` and
    ``entropy/<source>`` (so that TensorBoard and MLflow log them), to the log as a table and to
    ``logs/pseudo_labels.csv``, which has the rows of this run alone. The random state of training is left as it was.

    Args:
        dataset: preprocessed volumes with ``image`` (in_channels, D, H, W) and ``label`` (1, D, H, W).
        network: training network, put in eval mode.
        student: network whose logits count as the student's.
        pseudo_labeler: see :py:func:`predict_sources`.
        inferer: sliding-window inferer.
        device: where to predict.
        num_classes: classes with the background.
        interval: epochs from one look to the next.
        max_cases: volumes to look at; the diffusion teacher costs ``ddim_steps`` passes of each window.
        output_dir: holds ``logs/``.
        seed: of the noise, with the number of the case; the same at every look.

    Example:
        >>> import tempfile
        >>> from ignite.engine import Engine
        >>> from monai.inferers import SlidingWindowInferer
        >>> folder = tempfile.TemporaryDirectory()
        >>> volume = {"image": torch.rand(1, 8, 9, 10), "label": (torch.rand(1, 8, 9, 10) > 0.5).long()}
        >>> student, device = torch.nn.Conv3d(1, 2, 1), torch.device("cpu")
        >>> engine = Engine(lambda engine, batch: None)
        >>> PseudoLabelMonitor(
        ...     [volume], student, student, SingleTeacher(student), SlidingWindowInferer([8, 8, 8]), device,
        ...     num_classes=2, interval=1, max_cases=1, output_dir=folder.name,
        ... ).attach(engine)
        >>> sorted(engine.run([0], max_epochs=1).metrics)
        ['dice/mean_teacher', 'dice/student', 'entropy/mean_teacher', 'entropy/student']
    """

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        network: nn.Module,
        student: nn.Module,
        pseudo_labeler: Callable[[Tensor], Any],
        inferer: Callable[..., Any],
        device: torch.device,
        num_classes: int,
        interval: int,
        max_cases: int,
        output_dir: str,
        seed: int = 0,
    ) -> None:
        self.dataset, self.network, self.student = dataset, network, student
        self.pseudo_labeler, self.inferer, self.device = pseudo_labeler, inferer, device
        self.num_classes, self.interval, self.max_cases, self.seed = num_classes, interval, max_cases, seed
        self.table = RunTable(RunFolder(output_dir).pseudo_labels)
        self.logger = logging.getLogger("dtlp")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def _clear(self, engine: Engine) -> None:
        if is_first():
            self.table.begin(engine.state.iteration)
        # a value stands in the logs only for the epoch in which it was measured
        for name in [name for name in engine.state.metrics if name.startswith(("dice/", "entropy/"))]:
            del engine.state.metrics[name]

    def __call__(self, engine: Engine) -> None:
        # every process looks at its share; the noise of a case depends on its number alone
        own: dict[int, dict[str, tuple[float, float]]] = {}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), eval_mode(self.network, self.student):
            for number in my_share(range(min(self.max_cases, len(self.dataset)))):
                torch.manual_seed(self.seed + number)
                case, own[number] = self.dataset[number], {}
                image = torch.as_tensor(case[Keys.IMAGE]).as_subclass(torch.Tensor)[None].to(self.device)
                label = torch.as_tensor(case[Keys.LABEL]).as_subclass(torch.Tensor).to(self.device).long()
                maps = predict_sources(image, self.student, self.pseudo_labeler, self.inferer)
                for name, probabilities in maps.items():
                    scores, present = batch_dice(probabilities.argmax(dim=1), label, self.num_classes)
                    mean_dice = float(scores[1:][present[1:]].mean()) if present[1:].any() else float("nan")
                    own[number][name] = (mean_dice, float(entropy_bits(probabilities).mean()))
        seen = {number: values for share in gather(own) for number, values in share.items()}
        dice: dict[str, list[float]] = defaultdict(list)
        entropy: dict[str, list[float]] = defaultdict(list)
        for number in sorted(seen):
            for name, (mean_dice, mean_entropy) in seen[number].items():
                dice[name].append(mean_dice)
                entropy[name].append(mean_entropy)
        self._report(engine, {k: _mean(v) for k, v in dice.items()}, {k: _mean(v) for k, v in entropy.items()})

    def _report(self, engine: Engine, dice: dict[str, float], entropy: dict[str, float]) -> None:
        row: dict[str, float] = {"iteration": engine.state.iteration}
        row.update({f"dice/{name}": value for name, value in dice.items()})
        row.update({f"entropy/{name}": value for name, value in entropy.items()})
        engine.state.metrics.update({k: v for k, v in row.items() if k != "iteration"})
        if is_first():
            self.table.add([row])
        table = "  ".join(f"{name} {value:.3f} ({entropy[name]:.3f})" for name, value in dice.items())
        self.logger.info(f"Iteration {engine.state.iteration}: Dice (entropy in bits) of each source: {table}")


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")
