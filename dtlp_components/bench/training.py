# SPDX-License-Identifier: Apache-2.0
"""What ``bench`` times of a training: a bundle's trainer, stream by stream."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from ..bundle.start import config_word
from ..checks.key_table import check_values
from ..checks.overrides import override_problems
from ..checks.settings import Settings
from ..engines.trainer import DTLPTrainer
from ..errors import InputError, raise_if_any
from ..keys import TrainingEvents
from ..keys import TrainingStreams as Streams
from ..networks.vnet import VNet
from .reference import flop_counter, seconds_on, synthetic_batch, synthetic_volume

__all__ = ["RECYCLING", "Iteration", "StreamClock", "TrainingVariant", "network_settings", "read_config"]

RECYCLING = "labeled: recycling"
TEACHERS_FUSED = "teachers: fusion"
STEP = "optimizer and moving average"
REST = "rest"
STREAMS = {
    Streams.BATCH: REST,
    Streams.RECYCLING: RECYCLING,
    Streams.DIFFUSION: "labeled: diffusion",
    Streams.DIFFICULTY: "labeled: difficulty",
    Streams.LABELED: "student: labeled",
    Streams.TEACHERS: TEACHERS_FUSED,
    Streams.MIXED: "student: mixed",
    Streams.MASKED: "student: masked",
    Streams.MASKED_LABELED: "student: masked, labeled",
    Streams.UNLABELED: "student: unlabeled",
    Streams.STEP: STEP,
}
SOURCES = {"diffusion": "teachers: DDIM", "difficulty": "teachers: difficulty"}
MEAN_TEACHER = "teachers: mean teacher"
LOSSES, PROPAGATION, AVERAGE = "losses", "propagation", "moving average"

MARGIN = 16  # voxels by which the volumes of the data loading are larger than the patch
NUM_VOLUMES = 2


def read_config(config_file: str, overrides: Mapping[str, Any]) -> ConfigParser:
    """
    A bundle's file with keys set, as ``monai.bundle run`` sets them; with ``method`` among them, and that method's
    overlay beside the file laid over it.

    Raises:
        InputError: if the file does not exist, a key does not, or a patch does not fit the network.
    """
    files, method = [Path(config_file)], overrides.get("method", "dtlp")
    if method != "dtlp":
        overlay = files[0].parent / "methods" / f"{method}.json"
        if not overlay.is_file():
            known = sorted(file.stem for file in overlay.parent.glob("*.json"))
            raise InputError(f"--method: expected `dtlp` or one of {', '.join(known) or 'none here'}, got {method!r}.")
        files.append(overlay)
    try:
        config = ConfigParser.load_config_files([str(file) for file in files])
    except (OSError, ValueError) as error:
        raise InputError(f"--config_file {config_file}: {error}") from error
    words = [word for key, value in overrides.items() for word in (f"--{key}", repr(value))]
    raise_if_any(override_problems(["", "run", "--config_file", config_word(files), *words]) + check_values(overrides))
    parser = ConfigParser(config)
    parser.update(dict(overrides))
    raise_if_any(Settings({"patch_size": parser.get_parsed_content("patch_size")}).problems())
    return parser


def network_settings(parser: ConfigParser) -> dict[str, Any]:
    """``patch_size``, ``in_channels``, ``num_classes``, ``features`` and ``device`` of a bundle's file."""
    numbers = {key: int(parser.get_parsed_content(key)) for key in ("in_channels", "num_classes", "features")}
    patch_size = [int(side) for side in parser.get_parsed_content("patch_size")]
    return {"patch_size": patch_size, **numbers, "device": torch.device(parser.get_parsed_content("device"))}


class StreamClock:
    """
    Gives every moment of an iteration to a stream; what runs inside one is summed up beside.

    Args:
        read: what is measured, a reading that only grows: seconds, or operations counted so far.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.start()

    def start(self) -> None:
        """Forget everything; the time to come has no stream yet."""
        self.streams: dict[str, float] = defaultdict(float)
        self.parts: dict[str, float] = defaultdict(float)
        self._last = self.read()

    def give_to(self, stream: str) -> None:
        """All since the last call belongs to ``stream``."""
        now = self.read()
        self.streams[stream] += now - self._last
        self._last = now

    def watch_stream(
        self, owner: Any, method: str, stream: str | Callable[..., str], before: str | None = None
    ) -> None:
        """
        Give the time that ends with each call of a method to a stream.

        Args:
            owner: object whose method is replaced by a watched one.
            method: its name.
            stream: name, or a function of the call's arguments that returns one.
            before: stream of what precedes the call; ``None`` counts it with the call.
        """
        original = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                self.give_to(before)
            result = original(*args, **kwargs)
            self.give_to(stream if isinstance(stream, str) else stream(*args, **kwargs))
            return result

        setattr(owner, method, watched)

    def watch_part(self, owner: Any, method: str, part: str) -> None:
        """Sum up forward and backward passes of a method, which also stay in the stream that they are part of."""
        original = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            entered = self.read()
            mark = [0.0]

            def begin(grad: Tensor) -> None:
                mark[0] = self.read()

            def end(grad: Tensor) -> None:
                now = self.read()
                self.parts[part] += now - mark[0]
                mark[0] = now

            def probe(value: Any) -> Any:
                # a view of its own, whose gradient is complete when the method's own backward pass is
                if not isinstance(value, Tensor) or not value.requires_grad:
                    return value
                view = value.view_as(value)
                view.register_hook(end)
                return view

            result = original(*map(probe, args), **kwargs)
            if isinstance(result, Tensor) and result.requires_grad:
                result.register_hook(begin)
            self.parts[part] += self.read() - entered
            return result

        setattr(owner, method, watched)


@dataclass
class Iteration:
    """
    One iteration, in seconds or floating point operations.

    Attributes:
        total: the iteration.
        streams: by stream; they add up to the total.
        parts: of losses and propagation (forward and backward) and of the moving average, within the streams.
        loss: the iteration's total loss.
    """

    total: float
    streams: dict[str, float]
    parts: dict[str, float]
    loss: float


class _Feed(Iterator[Any]):
    """An endless loader of the batch that it has been given."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __next__(self) -> Any:
        return self.batch


class TrainingVariant:
    """
    A bundle's trainer on synthetic batches, with all streams on and no handlers, which are what a user's run adds.

    The trainer is the one that ``train.json`` describes. It fires an event after each stream; what goes on within a
    stream is watched from outside: parts that the trainer was handed are replaced by ones that tell a clock when they
    return. Recycling happens in a share ``recycling`` of a training's iterations; here it
    happens in every one, and counts by that share, so that repetitions are alike and the sum is what is to be expected.

    On a CUDA device, readings wait for the device.

    Args:
        config_file: the bundle's ``train.json``.
        overrides: values by key.

    Raises:
        InputError: see :py:func:`read_config`.
    """

    def __init__(self, config_file: str, overrides: Mapping[str, Any]) -> None:
        parser = read_config(config_file, overrides)
        # Each unless it is asked for: ramp-up at its end, no handlers
        defaults = {"ramp_up": 0.0, "burn_in": 0.0, "train::handlers": []}
        parser.update({key: value for key, value in defaults.items() if key not in overrides})
        self.settings = network_settings(parser)
        self._put_volumes_for_scans(parser)
        parser.get_parsed_content("initialize")
        self.trainer: Any = parser.get_parsed_content("train::trainer")
        self.loaders = [self.trainer.data_loader, self.trainer.unlabeled_data_loader]
        self.num_workers = int(parser.get_parsed_content("num_workers"))
        self.student: VNet = parser.get_parsed_content("network")
        self.autocast_kwargs: dict[str, Any] = self.trainer.autocast_kwargs
        self.recycling = float(getattr(self.trainer, "recycling", 0.0))  # of DTLP alone
        if self.recycling > 0:
            self.trainer.recycling = 1.0

        shape: Any = [self.settings[key] for key in ("patch_size", "in_channels", "num_classes")]
        self.batch_size = int(parser.get_parsed_content("batch_size_labeled"))
        self.batch = synthetic_batch(self.batch_size, *shape, seed=0)
        self._feed: _Feed | None = None
        if self.loaders[1] is not None:
            batch = synthetic_batch(int(parser.get_parsed_content("batch_size_unlabeled")), *shape, seed=1000)
            self._feed = self.trainer.unlabeled_data_loader = _Feed({Keys.IMAGE: batch[Keys.IMAGE]})
        self.trainer.fire_event(Events.STARTED)
        self.clock = StreamClock(seconds_on(self.settings["device"]))
        self._watch()

    def _put_volumes_for_scans(self, parser: ConfigParser) -> None:
        """Let the bundle's own data sets and loaders draw from volumes in memory, preprocessed already."""
        shape = [side + MARGIN for side in self.settings["patch_size"]]
        channels, num_classes = self.settings["in_channels"], self.settings["num_classes"]
        items = []
        for i in range(NUM_VOLUMES):
            image, label = synthetic_volume(shape, channels, num_classes, seed=2000 + i)
            # with an affine, as a loaded scan: random transforms take longer then
            items.append({Keys.IMAGE: MetaTensor(image), Keys.LABEL: MetaTensor(label)})
        parser.update(
            {
                "train::preprocessing": {"_target_": "Compose", "transforms": []},
                "train::dataset::data": items,
                "unlabeled::items": [{Keys.IMAGE: item[Keys.IMAGE]} for item in items],
                "open_classes": [],  # no list is read for them
            }
        )
        progress = ("train::dataset::progress", "unlabeled::dataset::progress")
        parser.update({key: False for key in progress if key in parser})

    def _watch(self) -> None:
        trainer, clock = self.trainer, self.clock
        teacher = trainer.mean_teacher
        clock.watch_part(trainer, "loss_function", LOSSES)
        clock.watch_part(teacher, "update", AVERAGE)

        trainer.add_event_handler(TrainingEvents.STREAM_COMPLETED, lambda: clock.give_to(STREAMS[trainer.state.stream]))
        # the averaged network itself, which the labeler and the trainer both call
        clock.watch_stream(teacher.module, "forward", MEAN_TEACHER, before=TEACHERS_FUSED)
        if not isinstance(trainer, DTLPTrainer):
            return
        for part in ("observe", "update", "forward"):
            clock.watch_part(trainer.difficulty_loss, part, LOSSES)
        for loss in ("reconstruction_loss", "distillation_loss"):
            clock.watch_part(trainer, loss, LOSSES)
        clock.watch_part(trainer, "propagation_loss", PROPAGATION)
        for source, name in SOURCES.items():
            clock.watch_stream(trainer.pseudo_labeler, source, name, before=TEACHERS_FUSED)

    def iterate(self, seed: int, labeled: Any = None, unlabeled: Any = None) -> Iteration:
        """
        One training iteration.

        Args:
            seed: of everything that the iteration draws.
            labeled: batch to train on; the synthetic one if ``None``.
            unlabeled: likewise.
        """
        if unlabeled is not None and self._feed is not None:
            self._feed.batch = unlabeled
        torch.manual_seed(seed)
        trainer, clock = self.trainer, self.clock
        trainer.state.iteration += 1
        clock.start()
        began = clock.read()
        output = trainer._iteration(trainer, self.batch if labeled is None else labeled)
        clock.give_to(REST)
        total = clock.read() - began
        loss = float(output[Keys.LOSS])
        if RECYCLING in clock.streams:
            total -= (1 - self.recycling) * clock.streams[RECYCLING]
            clock.streams[RECYCLING] *= self.recycling
        return Iteration(total, dict(clock.streams), dict(clock.parts), loss)

    def count(self, seed: int = 0) -> Iteration:
        """One iteration, in floating point operations (see :py:func:`count_flop`) instead of seconds."""
        seconds = self.clock.read
        try:
            with flop_counter() as counter:
                self.clock.read = counter.get_total_flops
                return self.iterate(seed)
        finally:
            self.clock.read = seconds

    def loading(self, repeats: int, warmup: int) -> dict[str, float]:
        """
        What the bundle's loaders cost, with volumes in memory.

        Returns:
            Medians in seconds: ``seconds`` of a labeled and an unlabeled batch drawn one after the other, ``wait`` of
            the network for them when it trains on every one, and ``share``, the part of an iteration that ``wait`` is.
        """
        read = self.clock.read
        draws = [iter(loader) for loader in self.loaders if loader is not None]

        def draw() -> tuple[list[Any], float]:
            began = read()
            batches = [next(iterator) for iterator in draws]
            return batches, read() - began

        seconds = [draw()[1] for _ in range(warmup + repeats)][warmup:]
        waits, shares = [], []
        for i in range(warmup + repeats):
            batches, wait = draw()
            waits.append(wait)
            shares.append(wait / (wait + self.iterate(i, *batches).total))
        medians = (statistics.median(values) for values in (seconds, waits[warmup:], shares[warmup:]))
        return dict(zip(("seconds", "wait", "share"), medians, strict=True))
