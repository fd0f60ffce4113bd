# SPDX-License-Identifier: Apache-2.0
"""What ``bench`` times of a training: a bundle's trainer stream by stream, a plain iteration, bare convolutions."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.losses import DiceCELoss
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .checks import _override_problems
from .errors import InputError, raise_if_any
from .keys import LossTerms as Terms
from .networks.vnet import VNet

__all__ = [
    "RECYCLING",
    "Convolution",
    "Iteration",
    "PlainIteration",
    "StreamClock",
    "TrainingVariant",
    "convolutions",
    "count_flop",
    "network_settings",
    "read_config",
    "seconds_on",
    "synthetic_volume",
]

RECYCLING = "labelled: recycling"
TEACHERS_FUSED = "teachers: fusion"
STEP = "optimizer and moving average"
REST = "rest"
# A stream is named by the first of these terms that it runs backward
STREAMS = {
    Terms.DENOISING: "labelled: diffusion",
    Terms.DIFFICULTY: "labelled: difficulty",
    Terms.CUTMIX: "student: mixed",
    Terms.MASKED: "student: masked",
    Terms.DISTILLATION: "student: unlabelled",
    Terms.UNLABELED: "student: unlabelled",
    Terms.CORRELATION: "student: unlabelled",
    Terms.RECONSTRUCTION: "student: masked, labelled",
    Terms.STUDENT_LABELED: "student: labelled",
}
SOURCES = {"diffusion": "teachers: DDIM", "difficulty": "teachers: difficulty"}
MEAN_TEACHER = "teachers: mean teacher"
LOSSES, PROPAGATION, AVERAGE = "losses", "propagation", "moving average"

# torch counts the attention kernels of GPUs only; backward is five products of matrices where forward is two
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *args, **kwargs: sdpa_flop_count(
        q, k, v
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *args, **kwargs: (
        sdpa_flop_count(q, k, v) * 5 // 2
    ),
}

MARGIN = 16  # voxels by which the volumes of the data loading are larger than the patch
NUM_VOLUMES = 2


def seconds_on(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that first waits for what the device has been given to do."""

    def read() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def flop_counter() -> FlopCounterMode:
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
    images, labels = zip(*volumes)
    return {Keys.IMAGE: torch.stack(images), Keys.LABEL: torch.stack(labels)}


def read_config(config_file: str, overrides: Mapping[str, Any]) -> ConfigParser:
    """
    A bundle's file with keys set, as ``monai.bundle run`` sets them.

    Raises:
        InputError: if the file does not exist, a key does not, or a patch does not fit the network.
    """
    try:
        config = ConfigParser.load_config_file(config_file)
    except (OSError, ValueError) as error:
        raise InputError(f"--config_file {config_file}: {error}") from error
    words = [word for key in overrides for word in (f"--{key}", "0")]
    raise_if_any(_override_problems(["", "run", "--config_file", config_file, *words]))
    parser = ConfigParser(config)
    parser.update(dict(overrides))
    patch_size = parser.get_parsed_content("patch_size")
    try:
        VNet.check_patch_size(patch_size)
    except (TypeError, ValueError) as error:
        raise InputError(f"--patch_size: {error}") from error
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


class _Feed(Iterator):
    """An endless loader of the batch that it has been given."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __next__(self) -> Any:
        return self.batch


class TrainingVariant:
    """
    A bundle's trainer on synthetic batches, with all streams on and no handlers, which are what a user's run adds.

    The trainer is the one that ``train.json`` describes, watched from outside: its methods and parts are replaced by ones
    that tell a clock when they return. Recycling happens in a share ``recycling`` of a training's iterations; here it
    happens in every one, and counts by that share, so that repetitions are alike and the sum is what is to be expected.

    On a CUDA device, readings wait for the device. This has not been tried: no machine with one was at hand.

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
        self.recycling = float(self.trainer.recycling)
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
            }
        )
        progress = ("train::dataset::progress", "unlabeled::dataset::progress")
        parser.update({key: False for key in progress if key in parser})

    def _watch(self) -> None:
        trainer, clock = self.trainer, self.clock
        labeler, teacher = trainer.pseudo_labeler, trainer.mean_teacher
        clock.watch_part(trainer, "_loss", LOSSES)
        clock.watch_part(trainer.difficulty_loss, "update", LOSSES)
        clock.watch_part(trainer.difficulty_loss, "forward", LOSSES)
        for loss in ("reconstruction_loss", "distillation_loss"):
            clock.watch_part(trainer, loss, LOSSES)
        clock.watch_part(trainer, "propagate", PROPAGATION)
        clock.watch_part(teacher, "update", AVERAGE)

        def stream(losses: Mapping[Terms, Any]) -> str:
            return next(name for term, name in STREAMS.items() if term in losses)

        clock.watch_stream(trainer, "_backward", stream)
        clock.watch_stream(trainer, "_predict_from_noise", RECYCLING, before=STREAMS[Terms.DENOISING])
        for source, name in SOURCES.items():
            clock.watch_stream(labeler, source, name, before=TEACHERS_FUSED)
        # the averaged network itself, which the labeler and the trainer both call
        clock.watch_stream(teacher.module, "forward", MEAN_TEACHER, before=TEACHERS_FUSED)
        clock.watch_stream(trainer, "pseudo_labeler", TEACHERS_FUSED)
        clock.watch_stream(trainer, "_step", STEP)

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
            Medians in seconds: ``seconds`` of a labelled and an unlabelled batch drawn one after the other, ``wait`` of
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
        return dict(zip(("seconds", "wait", "share"), medians))


class PlainIteration:
    """
    The unit: the student alone, trained on two labelled patches.

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


def convolutions(variant: TrainingVariant) -> list[Convolution]:
    """Convolutions of the shapes of the network's five stages, each in both memory formats."""
    return [
        Convolution(
            variant.settings["features"] * 2**stage,
            [side // 2**stage for side in variant.settings["patch_size"]],
            variant.batch_size,
            channels_last,
            variant.autocast_kwargs,
            variant.settings["device"],
        )
        for stage in range(5)
        for channels_last in (True, False)
    ]
