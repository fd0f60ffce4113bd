# SPDX-License-Identifier: Apache-2.0
"""Training in several processes: W of them step as one that accumulates W batches, stop together and resume."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.transforms import Compose, RandGaussianNoised

from dtlp_components.data.loaders import EndlessDataLoader
from dtlp_components.engines.student_trainer import loss_terms
from dtlp_components.errors import InputError, NonFiniteError
from dtlp_components.handlers.checkpoints import TrainingCheckpoint
from dtlp_components.keys import LossTerms as Terms
from dtlp_components.processes import rank
from tests.engines.test_trainer import labeled_case, make_trainer
from tests.together import together

pytestmark = pytest.mark.usefixtures("seed")


def loaders(batches: int) -> tuple[EndlessDataLoader, EndlessDataLoader]:
    cases = [labeled_case(i) for i in range(7)]
    noise = Compose([RandGaussianNoised("image", prob=0.9)])
    unlabeled = [{"image": case["image"]} for case in cases[3:]]
    return (
        EndlessDataLoader(cases[:3], noise, batch_size=2 * batches, seed=0),
        EndlessDataLoader(unlabeled, noise, batch_size=batches, seed=1),
    )


def terms_of(engine: Any) -> dict[str, float]:
    return {str(name): value for name, value in loss_terms(engine.state.output).items()}


def train(
    accumulation_steps: int,
    folder: Path | None = None,
    resume: bool = False,
    epochs: int = 3,
    hook: Callable[[Any], None] = lambda engine: None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Weights, statistics and the scalars of every iteration of a short training with all terms."""
    labeled, unlabeled = loaders(accumulation_steps)
    trainer = make_trainer(
        labeled=labeled, unlabeled=unlabeled, recycling=0.5, epoch_length=1, max_epochs=3,
        accumulation_steps=accumulation_steps, **kwargs,
    )  # fmt: skip
    objects = {
        "network": trainer.network, "mean_teacher": trainer.mean_teacher, "optimizer": trainer.optimizer,
        "difficulty": trainer.difficulty_loss,
    }  # fmt: skip
    if folder is not None:
        TrainingCheckpoint(
            str(folder), objects=objects, exported_model=trainer.mean_teacher.module,
            trainer_loaders=(labeled, unlabeled), resume=resume,
        ).attach(trainer)  # fmt: skip
        # a configuration's handlers are attached before the trainer's own
        started = trainer._event_handlers[Events.STARTED]
        started.insert(0, started.pop())
    scalars: list[dict[str, float]] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: scalars.append(terms_of(e)))
    trainer.add_event_handler(Events.ITERATION_STARTED, hook)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epochs), lambda e: e.terminate())
    torch.manual_seed(1)
    trainer.run()
    return {
        "network": trainer.network.state_dict(),
        "teacher": trainer.mean_teacher.module.state_dict(),
        "difficulty": trainer.difficulty_loss.state_dict(),
        "scalars": scalars,
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    parts = ("network", "teacher", "difficulty")
    names = [(part, name) for part in parts for name in one[part]]
    return [f"{part}: {name}" for part, name in names if not torch.equal(one[part][name], other[part][name])]


@pytest.mark.slow
def test_two_processes_step_as_one_that_accumulates(tmp_path: Path) -> None:
    accumulated = train(2)
    zero, one = together(train, 1, folder=tmp_path)
    assert differences(zero, one) == []
    assert differences(zero, accumulated) == []
    assert zero["scalars"] == one["scalars"]
    for mine, theirs in zip(zero["scalars"], accumulated["scalars"], strict=True):
        assert set(mine) == {"loss", "ramp_up", "grad_norm", "learning_rate", "difficulty_weight", *map(str, Terms)}
        assert mine == theirs


@pytest.mark.slow
def test_resume_of_two_repeats_the_uninterrupted_run_and_one_can_go_on_for_both(tmp_path: Path) -> None:
    whole, _ = together(train, 1, folder=tmp_path)
    for name in ("two", "one"):
        together(train, 1, tmp_path / name, False, 1, folder=tmp_path)  # stops after the first iteration
    two, other = together(train, 1, tmp_path / "two", True, folder=tmp_path)
    assert differences(two, whole) == differences(other, whole) == []
    assert two["scalars"] == other["scalars"] == whole["scalars"][1:]
    one = train(2, tmp_path / "one", resume=True)
    assert differences(one, whole) == []
    assert one["scalars"] == whole["scalars"][1:]


def test_training_of_two_does_not_go_on_with_one_batch(tmp_path: Path) -> None:
    train(2, tmp_path / "run", epochs=1)
    with pytest.raises(InputError, match="processes × accumulation_steps was 2, is 1"):
        train(1, tmp_path / "run", resume=True)


def _stopped_by_nan(broken: int) -> str:
    if rank() == broken:
        with pytest.raises(NonFiniteError) as error:
            train(1, ramp_up=lambda iteration: float("nan") if iteration == 1 else 1.0)
    else:
        with pytest.raises(NonFiniteError) as error:
            train(1)
    return str(error.value)


def test_a_nan_in_one_stops_all_at_the_same_iteration(tmp_path: Path) -> None:
    messages = together(_stopped_by_nan, 1, folder=tmp_path)
    assert messages[0].startswith("Training stopped at iteration 2: not finite: loss = nan")
    assert messages[1].startswith("Training stopped at iteration 2: not finite: loss = nan")


def _stopped_by_a_signal(folder: Path) -> dict[str, int]:
    def ask(engine: Any) -> None:
        if rank() == 1 and engine.state.iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # by the scheduler
            os.kill(os.getpid(), signal.SIGTERM)  # by torchrun, which was told as well

    with pytest.raises(SystemExit) as end:
        train(1, folder, hook=ask)
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return {"code": int(end.value.code or 0), "iteration": last["progress"]["iteration"]}


def test_signal_to_one_ends_all_after_the_same_iteration(tmp_path: Path) -> None:
    ends = together(_stopped_by_a_signal, tmp_path / "run", folder=tmp_path)
    assert ends == [{"code": 128 + signal.SIGTERM, "iteration": 2}] * 2


def test_scaler_and_random_states_are_kept_where_the_handlers_are_given_to_the_trainer(tmp_path: Path) -> None:
    """As a configuration does it: the handlers are attached before the trainer has made either."""
    handler = TrainingCheckpoint(str(tmp_path), objects={}, exported_model=torch.nn.Linear(1, 1))
    make_trainer(train_handlers=[handler]).run()
    content = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert {"scaler", "random"} <= set(content)
