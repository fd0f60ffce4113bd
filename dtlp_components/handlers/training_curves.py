# SPDX-License-Identifier: Apache-2.0
"""Curves of a training: a table of its losses, and one picture that is drawn anew at each validation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from ..files import whole_file
from ..keys import PseudoLabelSources as Sources
from ..run_folder import RunFolder
from .run_table import RunTable

__all__ = [
    "Curves",
    "TrainingCurves",
    "draw_curves",
    "open_axis",
    "plots",
    "read_losses",
    "read_sources",
    "save_figure",
]

# told apart by color-blind people (Okabe and Ito 2008), and each with a mark of its own
STYLES = dict(
    zip(
        Sources,
        (
            ("#E69F00", "o"), ("#56B4E9", "s"), ("#009E73", "^"), ("#CC79A7", "v"), ("#0072B2", "D"), ("#D55E00", "X"),
        ),
        strict=True,
    )
)  # fmt: skip
NO_LOSSES = {"loss", "ramp_up", "learning_rate", "grad_norm", "difficulty_weight"}

Curves = dict[str, tuple[list[float], list[float]]]


class TrainingCurves:
    """
    Keep the loss terms in ``logs/losses.csv`` and draw ``logs/progress.png``.

    The picture has Dice of all pseudo-label sources on one axis, their entropy, the losses with the ramp-up shaded, and
    the learning rate. TensorBoard shows each in a chart of its own.

    Args:
        output_dir: holds ``logs/``.
        output_transform: maps ``state.output`` to the scalars to keep, by name.
        interval: iterations between two rows.
        picture_interval: epochs between two pictures; the last epoch always draws one.
        difficulty_loss: with ``class_weights`` and ``seen``, whose weights are kept as well.

    Example:
        >>> import os, tempfile
        >>> from ignite.engine import Engine
        >>> folder = tempfile.TemporaryDirectory()
        >>> engine = Engine(lambda engine, batch: {"loss": 1.0})
        >>> TrainingCurves(folder.name, lambda output: output, interval=1, picture_interval=1).attach(engine)
        >>> _ = engine.run([0, 1], max_epochs=1)
        >>> sorted(os.listdir(os.path.join(folder.name, "logs")))
        ['losses.csv', 'progress.png']
    """

    def __init__(
        self,
        output_dir: str,
        output_transform: Callable[[Any], Mapping[str, float]],
        interval: int,
        picture_interval: int,
        difficulty_loss: Any | None = None,
    ) -> None:
        self.run = RunFolder(output_dir)
        self.output_transform, self.interval = output_transform, interval
        self.picture_interval, self.difficulty_loss = picture_interval, difficulty_loss
        self.table = RunTable(self.run.losses)

    def attach(self, engine: Engine) -> None:
        """Attach after the monitor of pseudo-labels, and before whoever takes the picture."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda e: self.table.begin(e.state.iteration))
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self.keep)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.draw)

    def keep(self, engine: Engine) -> None:
        """Add this iteration's scalars to the table, one row each, since terms come and go."""
        values = dict(self.output_transform(engine.state.output))
        if self.difficulty_loss is not None and bool(self.difficulty_loss.seen.any()):
            weights = self.difficulty_loss.class_weights(self.difficulty_loss.seen).tolist()
            values |= {f"class_weight/{i}": weight for i, weight in enumerate(weights)}
        iteration = engine.state.iteration
        self.table.add([{"iteration": iteration, "name": str(n), "value": f"{v:.6g}"} for n, v in values.items()])

    def draw(self, engine: Engine) -> None:
        """Draw the picture, if it is due."""
        if engine.state.epoch % self.picture_interval and engine.state.epoch != engine.state.max_epochs:
            return
        save_figure(draw_curves(self.run), self.run.progress)


def read_losses(run: RunFolder) -> Curves:
    """Iterations and values of every scalar of a training's ``losses.csv``, by name."""
    curves: Curves = defaultdict(lambda: ([], []))
    for row in RunTable(run.losses).read():
        x, y = curves[row["name"]]
        x.append(float(row["iteration"]))
        y.append(float(row["value"]))
    return dict(curves)


def read_sources(run: RunFolder) -> Curves:
    """Iterations and values of ``dice/<source>`` and ``entropy/<source>`` of a training's ``pseudo_labels.csv``."""
    rows = RunTable(run.pseudo_labels).read()
    names = [name for name in (rows[0] if rows else {}) if name != "iteration"]
    numbers = {name: [float(row[name] or "nan") for row in rows] for name in names}
    iterations = [float(row["iteration"]) for row in rows]
    return {name: (iterations, values) for name, values in numbers.items()}


def plots() -> Any:
    """Matplotlib's ``pyplot``, which draws into files alone, and takes a $ in a name as it is."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False
    from matplotlib import pyplot

    return pyplot


def open_axis(axis: Any) -> None:
    """A faint grid instead of a frame."""
    axis.grid(alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def save_figure(figure: Any, file: Path) -> None:
    """Write a figure of matplotlib as PNG, whole or not at all, and close it."""
    from matplotlib import pyplot

    with whole_file(file) as part:
        figure.savefig(part, dpi=100, format="png")
    pyplot.close(figure)


def draw_curves(run: RunFolder) -> Any:
    """
    A figure of matplotlib with the curves of a training.

    Args:
        run: its folder.
    """
    plt = plots()
    losses, sources = read_losses(run), read_sources(run)
    figure, ((dice, entropy), (loss, rate)) = plt.subplots(2, 2, figsize=(12, 8))
    for axis, kind, title in ((dice, "dice", "Dice of each source"), (entropy, "entropy", "entropy [bits]")):
        _draw_sources(axis, sources, kind)
        axis.set_title(title)
    _draw_losses(loss, losses)
    if "learning_rate" in losses:
        rate.plot(*losses["learning_rate"], color="#0072B2")
    rate.set_title("learning rate")
    for axis in (dice, entropy, loss, rate):
        axis.set_xlabel("iteration")
        axis.xaxis.get_major_locator().set_params(integer=True)
        open_axis(axis)
    figure.suptitle(run.root.absolute().name)
    figure.tight_layout()
    return figure


def _draw_sources(axis: Any, sources: Curves, kind: str) -> None:
    drawn = [source for source in Sources if f"{kind}/{source}" in sources]
    for source in drawn:
        color, mark = STYLES[source]
        axis.plot(*sources[f"{kind}/{source}"], color=color, marker=mark, markersize=5, label=source.replace("_", " "))
    if drawn:
        axis.legend(fontsize=8)
    else:
        axis.text(0.5, 0.5, "no validation yet", ha="center", va="center", transform=axis.transAxes)
    if kind == "dice" and drawn:
        top = max((v for s in drawn for v in sources[f"{kind}/{s}"][1] if not math.isnan(v)), default=1.0)
        axis.set_ylim(0, max(0.05, min(1.0, 1.1 * top)))


def _draw_losses(axis: Any, losses: Curves) -> None:
    names = sorted(name for name in losses if name not in NO_LOSSES and "/" not in name)
    for name in names:
        axis.plot(*_smoothed(*losses[name]), linewidth=1.2, label=name)
    if "ramp_up" in losses:
        x, ramp = losses["ramp_up"]
        rising = [i for i, value in zip(x, ramp, strict=True) if value < 0.99]
        if rising:
            axis.axvspan(0, max(rising), color="0.85", label="ramp-up", zorder=0)
    axis.set_title("loss terms before their weight, averaged")
    if names:
        axis.legend(fontsize=7, ncol=2)


def _smoothed(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of runs of values, at most fifty of them."""
    size = max(1, len(x) // 50)
    chunks = [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
    return [chunk[0][-1] for chunk in chunks], [float(torch.tensor(chunk[1]).mean()) for chunk in chunks]
