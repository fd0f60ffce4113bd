# SPDX-License-Identifier: Apache-2.0
"""Losses as a table, and curves as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from matplotlib.image import imread

from dtlp_components.handlers.run_table import RunTable
from dtlp_components.handlers.training_curves import (
    STYLES,
    TrainingCurves,
    draw_curves,
    read_losses,
    read_sources,
    save_figure,
)
from dtlp_components.keys import PseudoLabelSources as Sources
from dtlp_components.losses.difficulty import DifficultyAwareLoss
from dtlp_components.run_folder import RunFolder


def train(folder: Path, epochs: int = 4, picture_interval: int = 2, **kwargs: Any) -> TrainingCurves:
    """Epochs of five iterations, whose loss is ten times the iteration."""
    trainer = Engine(lambda engine, batch: {"loss": 10.0 * engine.state.iteration, "ramp_up": 0.5, "mix": 1.0})
    curves = TrainingCurves(str(folder), lambda output: output, 2, picture_interval, **kwargs)
    curves.attach(trainer)
    trainer.run([0] * 5, max_epochs=epochs)
    return curves


def test_every_scalar_is_kept_at_every_interval(tmp_path: Path) -> None:
    train(tmp_path, epochs=2)
    losses = read_losses(RunFolder(tmp_path))
    assert losses["loss"] == ([2, 4, 6, 8, 10], [20, 40, 60, 80, 100])
    assert set(losses) == {"loss", "ramp_up", "mix"}


def test_class_weights_are_kept_once_a_class_was_seen(tmp_path: Path) -> None:
    difficulty = DifficultyAwareLoss(3)
    train(tmp_path / "unseen", epochs=1, difficulty_loss=difficulty)
    assert "class_weight/1" not in read_losses(RunFolder(tmp_path / "unseen"))
    label = torch.tensor([0, 1, 2, 2]).view(1, 1, 1, 2, 2)
    difficulty.observe(torch.tensor([0, 1, 1, 2]).view(1, 1, 1, 2, 2), label)
    difficulty.update()
    train(tmp_path / "seen", epochs=1, difficulty_loss=difficulty)
    losses = read_losses(RunFolder(tmp_path / "seen"))
    expected = difficulty.class_weights(difficulty.seen).tolist()
    assert [losses[f"class_weight/{i}"][1][0] for i in range(3)] == pytest.approx(expected, rel=1e-4)


def test_picture_is_drawn_at_its_interval_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    name = "dtlp_components.handlers.training_curves.save_figure"
    monkeypatch.setattr(name, lambda figure, file: drawn.append(file.name))
    train(tmp_path, epochs=5, picture_interval=2)
    assert drawn == ["progress.png"] * 3  # after 2, 4 and 5


def sources(folder: Path) -> RunFolder:
    run = RunFolder(folder)
    rows = [
        {
            "iteration": i,
            **{f"dice/{s}": 0.1 * i + 0.01 * n for n, s in enumerate(Sources)},
            **{f"entropy/{s}": 1 / i for s in Sources},
        }
        for i in (1, 2, 3)
    ]
    RunTable(run.pseudo_labels).add(rows)
    return run


def test_curves_of_the_sources_are_read_by_name(tmp_path: Path) -> None:
    curves = read_sources(sources(tmp_path))
    assert curves["dice/student"][0] == [1, 2, 3]
    assert curves["dice/student"][1] == pytest.approx([0.15, 0.25, 0.35])
    assert read_sources(RunFolder(tmp_path / "none")) == {}


@pytest.mark.parametrize("has_sources", [True, False])
def test_picture_can_be_drawn_with_and_without_validation(tmp_path: Path, has_sources: bool) -> None:
    train(tmp_path)
    run = sources(tmp_path) if has_sources else RunFolder(tmp_path)
    save_figure(draw_curves(run), run.progress)
    pixels = imread(run.progress)
    assert pixels.shape[:2] == (800, 1200)
    colors = {tuple(color) for color in np.round(255 * pixels[..., :3]).astype(int).reshape(-1, 3)}
    student = tuple(int(STYLES[Sources.STUDENT][0][i : i + 2], 16) for i in (1, 3, 5))
    assert (student in colors) == has_sources


def test_every_source_has_a_color_and_a_mark_of_its_own() -> None:
    assert set(STYLES) == set(Sources)
    assert len({color for color, _ in STYLES.values()}) == len({mark for _, mark in STYLES.values()}) == len(Sources)


def test_resumed_run_has_its_rows_once(tmp_path: Path) -> None:
    train(tmp_path, epochs=2)
    trainer = Engine(lambda engine, batch: {"loss": 0.0})

    @trainer.on(Events.STARTED)
    def resume() -> None:
        trainer.state.epoch, trainer.state.iteration = 1, 5

    TrainingCurves(str(tmp_path), lambda output: output, 2, 1).attach(trainer)
    trainer.run([0] * 5, max_epochs=2)
    assert read_losses(RunFolder(tmp_path))["loss"] == ([2, 4, 6, 8, 10], [20, 40, 0, 0, 0])
