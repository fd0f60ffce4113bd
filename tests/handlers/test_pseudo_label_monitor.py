# SPDX-License-Identifier: Apache-2.0
"""The monitor of pseudo-label sources: what it measures, where it writes, and what it leaves alone."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import Tensor, nn

from dtlp_components.handlers.pseudo_label_monitor import PseudoLabelMonitor, predict_sources
from dtlp_components.keys import PseudoLabelSources as Sources
from dtlp_components.pseudo_labels.dual_teacher import DualTeacher, PseudoLabels
from tests.together import together

CPU = torch.device("cpu")
SHAPE = (4, 5, 6)


def onehot_logits(index: Tensor, sharpness: float = 50.0) -> Tensor:
    """Class indices (B, 1, D, H, W) -> logits (B, 3, D, H, W) of a network that is sure of them."""
    return sharpness * nn.functional.one_hot(index[:, 0].long(), 3).movedim(-1, 1).float()


class Reader(nn.Module):
    """A student that reads the classes off an image whose intensities they are."""

    def forward(self, image: Tensor) -> Tensor:
        return onehot_logits(image)


def blind(image: Tensor) -> Tensor:
    """Background everywhere, but undecided between all classes as far as entropy goes."""
    logits = torch.zeros(len(image), 3, *image.shape[2:])
    logits[:, 0] = 1e-4
    return logits


def half_blind(image: Tensor) -> Tensor:
    """Sees class 1 and takes class 2 for background."""
    return onehot_logits(torch.where(image == 2, 0, image))


def labeler() -> DualTeacher:
    return DualTeacher(diffusion=blind, difficulty=half_blind, mean_teacher=onehot_logits, blur_sigma=0)


def case(first: int = 1, second: int = 2) -> dict[str, Tensor]:
    """A volume (1, 4, 5, 6) with a box of each of two classes; the image holds the class indices."""
    label = torch.zeros(1, *SHAPE)
    label[:, :2, :3, :2] = first
    label[:, 2:, 3:, 3:] = second
    return {"image": label.clone(), "label": label}


def make_monitor(folder: Path, dataset: Any, pseudo_labeler: Any = None, **kwargs: Any) -> PseudoLabelMonitor:
    settings = {"inferer": SimpleInferer(), "interval": 1, "max_cases": 4, **kwargs}
    student = settings.pop("student", Reader())
    return PseudoLabelMonitor(
        dataset,
        network=settings.pop("network", nn.Identity()),
        student=student,
        pseudo_labeler=pseudo_labeler or labeler(),
        device=CPU,
        num_classes=3,
        output_dir=str(folder),
        **settings,
    )


def run(monitor: PseudoLabelMonitor, epochs: int = 1) -> list[dict[str, float]]:
    """Train without training, but draw random numbers; the metrics as they stand at the end of each epoch."""
    engine = Engine(lambda _engine, _batch: torch.rand(1))
    metrics = []
    monitor.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: metrics.append(dict(engine.state.metrics)))
    engine.run([0] * 2, max_epochs=epochs)
    return metrics


def test_windows_of_all_sources_come_back_as_whole_maps() -> None:
    image = case()["image"][None]
    inferer = SlidingWindowInferer(roi_size=(3, 3, 3), overlap=0.5)
    windows = predict_sources(image, Reader(), labeler(), inferer)
    at_once = predict_sources(image, Reader(), labeler(), SimpleInferer())
    assert list(windows) == list(Sources)
    for name in Sources:
        assert windows[name].shape == (1, 3, *SHAPE)
        torch.testing.assert_close(windows[name], at_once[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(windows[Sources.STUDENT], torch.softmax(onehot_logits(image), dim=1))


def test_dice_and_entropy_of_every_source_by_hand(tmp_path: Path) -> None:
    (metrics,) = run(make_monitor(tmp_path, [case()]))
    # blind finds neither class, half blind one of two, the mean teacher and the student both
    expected = {Sources.DIFFUSION: 0.0, Sources.DIFFICULTY: 0.5, Sources.MEAN_TEACHER: 1.0, Sources.STUDENT: 1.0}
    for name, dice in expected.items():
        assert metrics[f"dice/{name}"] == pytest.approx(dice)
    assert metrics["entropy/diffusion"] == pytest.approx(math.log2(3), rel=1e-4)
    assert metrics["entropy/student"] == pytest.approx(0, abs=1e-6)
    assert set(metrics) == {f"{kind}/{name}" for kind in ("dice", "entropy") for name in Sources}


def test_dice_is_the_mean_over_volumes_of_the_classes_that_are_there(tmp_path: Path) -> None:
    # half blind: 1 of 2 classes, 1 of 1, and 0 of 1; a volume of background alone has no Dice
    dataset = [case(), case(second=0), case(first=2), case(first=0, second=0)]
    (metrics,) = run(make_monitor(tmp_path, dataset))
    assert metrics["dice/difficulty"] == pytest.approx((0.5 + 1 + 0) / 3)


def test_no_more_volumes_are_loaded_than_asked_for(tmp_path: Path) -> None:
    loaded = []

    class Cases(list[dict[str, Tensor]]):
        def __getitem__(self, number: Any) -> Any:
            loaded.append(number)
            return super().__getitem__(number)

    run(make_monitor(tmp_path, Cases(case() for _ in range(9)), max_cases=2))
    assert loaded == [0, 1]


def _look(folder: Path) -> list[list[str]]:
    def noisy(image: Tensor) -> Tensor:
        return torch.randn(len(image), 3, *image.shape[2:])

    teachers = DualTeacher(diffusion=noisy, difficulty=half_blind, mean_teacher=onehot_logits, blur_sigma=0)
    metrics = run(make_monitor(folder, [case(), case(2, 1), case()], teachers, max_cases=3))
    return [[name, repr(value)] for name, value in sorted(metrics[-1].items())]


def test_values_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    alone = _look(tmp_path / "alone")
    zero, one = together(_look, tmp_path / "two", folder=tmp_path)
    assert zero == one == alone
    assert len(alone) > 6
    rows = (tmp_path / "two" / "logs" / "pseudo_labels.csv").read_text()
    assert rows == (tmp_path / "alone" / "logs" / "pseudo_labels.csv").read_text()


def test_table_has_a_row_per_look_and_metrics_stand_for_their_own_epoch_alone(tmp_path: Path) -> None:
    metrics = run(make_monitor(tmp_path, [case()], interval=2), epochs=5)
    assert [bool(m) for m in metrics] == [False, True, False, True, False]
    with open(tmp_path / "logs" / "pseudo_labels.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["iteration"] for row in rows] == ["4", "8"]
    assert float(rows[1]["dice/difficulty"]) == pytest.approx(0.5)


def test_log_names_every_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        run(make_monitor(tmp_path, [case()]))
    (line,) = [record.message for record in caplog.records if record.name == "dtlp"]
    assert all(f"{name} " in line for name in Sources)
    assert "difficulty 0.500 (0.000)" in line


def test_noise_is_the_same_at_every_look_and_training_s_random_state_stays(tmp_path: Path, seed: int) -> None:
    drawn = []

    def noisy(image: Tensor) -> PseudoLabels:
        drawn.append(torch.rand(3))
        return labeler()(image)

    run(make_monitor(tmp_path, [case()], pseudo_labeler=noisy), epochs=2)
    next_number = torch.rand(1)
    torch.manual_seed(seed)
    assert torch.equal(torch.stack([torch.rand(1) for _ in range(2 * 2 + 1)])[-1], next_number)
    assert len(drawn) == 2
    assert torch.equal(drawn[0], drawn[1])


def test_networks_are_in_eval_mode_meanwhile_and_back_in_training_after(tmp_path: Path) -> None:
    network, student, modes = nn.Dropout(0.5), Reader(), []

    def watching(image: Tensor) -> PseudoLabels:
        modes.append((network.training, student.training, torch.is_grad_enabled()))
        return labeler()(image)

    run(make_monitor(tmp_path, [case()], pseudo_labeler=watching, network=network, student=student))
    assert modes == [(False, False, False)]
    assert network.training
    assert student.training


def looks(folder: Path, start: int, stop: int) -> list[float]:
    """Iterations in the table after a training that goes on after ``start``."""
    monitor, trainer = make_monitor(folder, [case()]), Engine(lambda engine, batch: None)
    monitor.attach(trainer)

    @trainer.on(Events.STARTED)
    def resume() -> None:
        trainer.state.iteration = trainer.state.epoch = start

    trainer.run([0], max_epochs=stop)
    with open(monitor.table.file) as file:
        return [float(row["iteration"]) for row in csv.DictReader(file)]


def test_table_has_the_rows_of_its_run_once(tmp_path: Path) -> None:
    assert looks(tmp_path, 0, 3) == [1, 2, 3]
    assert looks(tmp_path, 2, 4) == [1, 2, 3, 4]  # killed after 3, resumed after 2
    assert looks(tmp_path, 0, 2) == [1, 2]  # another run
    (kept,) = (tmp_path / "logs").glob("pseudo_labels-*.csv")
    with open(kept) as file:
        assert [float(row["iteration"]) for row in csv.DictReader(file)] == [1, 2, 3, 4]
