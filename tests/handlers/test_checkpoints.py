# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a small run: whole or not there, everything in them, and never another run's."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from dtlp_components.engines.random_streams import RandomStreams
from dtlp_components.errors import InputError
from dtlp_components.handlers.checkpoints import TrainingCheckpoint, run_name
from dtlp_components.networks.mean_teacher import MeanTeacher

EPOCHS, ITERATIONS = 4, 3


class Loader:
    """Remembers where it was told to begin."""

    started_at: int | None = None

    def start_at(self, iteration: int) -> None:
        self.started_at = iteration


class Run:
    """
    A training run of a small network with everything that has a state: momentum, schedule, dropout, a moving average.

    Args:
        folder: ``output_dir``.
        scores: validation metric of each epoch; ``None`` means no validation.
        stop_after: iteration at which the process dies.
        init: seed of the first weights.
        kwargs: of the handler.
    """

    def __init__(
        self,
        folder: Path,
        scores: list[float] | None = None,
        stop_after: int | None = None,
        epochs: int = EPOCHS,
        init: int = 0,
        **kwargs: Any,
    ) -> None:
        self.epochs, self.stop_after, self.scores = epochs, stop_after, scores
        torch.manual_seed(init)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.teacher = MeanTeacher(self.net)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.PolynomialLR(self.optimizer, EPOCHS * ITERATIONS, power=0.9)
        self.losses: list[float] = []
        self.weights: list[dict[str, torch.Tensor]] = []  # at the end of each epoch
        self.loader = Loader()
        self.engine: Any = Engine(self.step)
        self.engine.grad_scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.engine.random_streams = RandomStreams(torch.device("cpu"), count=1)
        self.validator = None
        if scores is not None:
            self.validator = SimpleNamespace(state=SimpleNamespace(best_metric=-1, best_metric_epoch=-1))
            self.engine.add_event_handler(Events.EPOCH_COMPLETED, self.validate)
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, self.remember)
        self.checkpoint = TrainingCheckpoint(
            str(folder),
            objects={
                "network": self.net,
                "mean_teacher": self.teacher,
                "optimizer": self.optimizer,
                "scheduler": self.scheduler,
            },
            exported_model=self.net,
            trainer_loaders=(self.loader, None),
            validator=self.validator,
            **kwargs,
        )
        self.checkpoint.attach(self.engine)

    def step(self, engine: Engine, _: Any) -> None:
        loss = (self.net(torch.rand(5, 3)) - 1).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.teacher.update(self.net, engine.state.iteration)
        self.losses.append(loss.item())
        if engine.state.iteration == self.stop_after:
            raise KeyboardInterrupt

    def validate(self, engine: Engine) -> None:
        assert self.scores is not None
        assert self.validator is not None
        score = self.scores[engine.state.epoch - 1]
        if score > self.validator.state.best_metric:
            self.validator.state.best_metric, self.validator.state.best_metric_epoch = score, engine.state.epoch

    def remember(self, engine: Engine) -> None:
        self.weights.append({name: value.clone() for name, value in self.net.state_dict().items()})

    def run(self) -> Run:
        if self.stop_after is None:
            self.engine.run([0] * ITERATIONS, max_epochs=self.epochs)
        else:
            with pytest.raises(KeyboardInterrupt):
                self.engine.run([0] * ITERATIONS, max_epochs=self.epochs)
        return self


def load(file: Path) -> Any:
    return torch.load(file, weights_only=True)


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_files_can_be_loaded_without_pickled_objects_and_models_holds_weights_alone(tmp_path: Path) -> None:
    run = Run(tmp_path, scores=[0.1, 0.2, 0.3, 0.4]).run()
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*.pt")) == [
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "models/model.pt",
    ]
    assert [f.name for f in (tmp_path / "models").iterdir()] == ["model.pt"]
    assert are_equal(load(tmp_path / "models/model.pt"), run.weights[-1])
    assert {"network", "mean_teacher", "optimizer", "scheduler", "random", "scaler", "progress"} == set(
        load(run.checkpoint.run.last)
    )


@pytest.mark.parametrize("stop_after", [7, 9, 11])
def test_killed_run_goes_on_with_the_losses_and_weights_of_an_uninterrupted_one(
    tmp_path: Path, stop_after: int
) -> None:
    whole = Run(tmp_path / "whole").run()
    Run(tmp_path / "killed", stop_after=stop_after).run()
    done = ITERATIONS * ((stop_after - 1) // ITERATIONS)  # whole epochs: the last iteration's own epoch is lost
    resumed = Run(tmp_path / "killed", resume=True, init=99).run()
    assert resumed.losses == whole.losses[done:]
    assert are_equal(resumed.net.state_dict(), whole.net.state_dict())
    assert are_equal(resumed.teacher.state_dict(), whole.teacher.state_dict())
    assert resumed.scheduler.get_last_lr() == whole.scheduler.get_last_lr()
    assert resumed.loader.started_at == done
    assert whole.loader.started_at is None


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
@pytest.mark.parametrize("after", [1, 5, 6, 11])
def test_signal_ends_the_run_after_the_iteration_and_nothing_of_it_is_lost(
    tmp_path: Path, name: str, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Run(tmp_path / "whole").run()
    number = getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler)
    stopped = Run(tmp_path / "stopped")
    stopped.engine.add_event_handler(Events.ITERATION_STARTED(once=after), lambda: os.kill(os.getpid(), number))
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as end:
        stopped.run()
    stopped.engine.logger.disabled = False  # of all engines; the process would be gone
    assert end.value.code == 128 + number
    assert caplog.messages[-1] == f"Stopped by {name} after iteration {after}; --resume True goes on from here."
    assert signal.signal(number, before) == signal.default_int_handler
    assert stopped.losses == whole.losses[:after]
    resumed = Run(tmp_path / "stopped", resume=True, init=99).run()
    assert stopped.losses + resumed.losses == whole.losses
    assert are_equal(resumed.net.state_dict(), whole.net.state_dict())
    assert are_equal(resumed.teacher.state_dict(), whole.teacher.state_dict())
    assert resumed.loader.started_at == after


def test_signal_in_the_last_iteration_leaves_the_run_finished(tmp_path: Path) -> None:
    run = Run(tmp_path, scores=[0.1, 0.2, 0.3, 0.4])
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    last = EPOCHS * ITERATIONS
    run.engine.add_event_handler(Events.ITERATION_STARTED(once=last), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        run.run()
    run.engine.logger.disabled = False
    signal.signal(signal.SIGTERM, earlier)
    assert are_equal(load(tmp_path / "models/model.pt"), run.weights[-1])
    assert are_equal(load(tmp_path / "checkpoints/best.pt"), run.weights[-1])


def test_signals_have_their_usual_effect_again_after_the_run(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    Run(tmp_path).run()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[: len(content) // 2]])
def test_damaged_checkpoint_is_named_with_what_can_be_loaded(tmp_path: Path, damage: Any) -> None:
    Run(tmp_path, epochs=3).run()
    last, previous = tmp_path / "checkpoints/last.pt", tmp_path / "checkpoints/previous.pt"
    last.write_bytes(damage(last.read_bytes()))
    with pytest.raises(InputError) as error:
        Run(tmp_path, resume=True, epochs=3).run()
    size = last.stat().st_size
    found = f"a truncated file of {size} bytes" if size else "an empty file"
    assert f"{last}: expected a checkpoint, got {found}" in str(error.value)
    assert f"{previous} (the checkpoint before it), {tmp_path / 'models/model.pt'} (weights alone)" in str(error.value)
    assert str(error.value).endswith(f"mv {previous} {last}")
    assert "weights_only" not in str(error.value)
    os.replace(previous, last)
    assert len(Run(tmp_path, resume=True, epochs=3).run().losses) == ITERATIONS


def test_run_that_was_killed_between_two_renames_goes_on_from_the_previous_checkpoint(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole").run()
    Run(tmp_path / "killed", stop_after=10).run()
    os.replace(tmp_path / "killed/checkpoints/last.pt", tmp_path / "killed/checkpoints/previous.pt")
    resumed = Run(tmp_path / "killed", resume=True, init=99).run()
    assert resumed.losses == whole.losses[9:]


def test_resume_without_a_checkpoint_keeps_weights_that_are_there(tmp_path: Path) -> None:
    Run(tmp_path, epochs=1).run()
    content = (tmp_path / "models/model.pt").read_bytes()
    for name in ("last", "previous"):
        (tmp_path / f"checkpoints/{name}.pt").unlink(missing_ok=True)
    Run(tmp_path, resume=True, init=99).run()
    (kept,) = (tmp_path / "checkpoints").glob("model-*.pt")
    assert kept.read_bytes() == content


def test_finished_run_resumes_to_nothing(tmp_path: Path) -> None:
    finished = Run(tmp_path).run()
    resumed = Run(tmp_path, resume=True, init=99).run()
    assert resumed.losses == []
    assert are_equal(resumed.net.state_dict(), finished.net.state_dict())


def test_nothing_to_resume_is_said_and_training_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, resume=True).run()
    assert len(run.losses) == EPOCHS * ITERATIONS
    assert f"Nothing to resume: {tmp_path / 'checkpoints' / 'last.pt'} does not exist" in caplog.text


def test_write_that_fails_midway_leaves_the_old_files_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(tmp_path, epochs=1).run()
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}

    def full_disk(_content: Any, file: Any, *_args: Any, **_kwargs: Any) -> None:
        file.write(b"half of a file")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            Run(tmp_path, resume=True, epochs=2).run()
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before
    assert load(tmp_path / "checkpoints/last.pt")["progress"]["epoch"] == 1


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_umask_decides_who_may_read_what_is_written(tmp_path: Path, umask: int) -> None:
    earlier = os.umask(umask)
    try:
        Run(tmp_path, epochs=1).run()
    finally:
        os.umask(earlier)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"model.pt", "last.pt", "model_settings.json"} <= {file.name for file in files}
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {oct(0o666 & ~umask)}


def test_earlier_run_is_put_aside_on_a_fresh_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Run(tmp_path, scores=[0.1, 0.2, 0.3, 0.4]).run()
    places = ("checkpoints/last.pt", "checkpoints/best.pt", "models/model.pt")
    old = {Path(place).stem: (tmp_path / place).read_bytes() for place in places}
    Run(tmp_path, stop_after=1, init=99).run()
    for name, content in old.items():
        (kept,) = (tmp_path / "checkpoints").glob(f"{name}-*.pt")
        assert kept.read_bytes() == content
    assert not any((tmp_path / place).exists() for place in places)
    assert "held an earlier run" in caplog.text
    assert "--resume True" in caplog.text


def test_weights_without_a_checkpoint_are_kept_as_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/model.pt").write_bytes(b"downloaded")
    Run(tmp_path, epochs=1).run()
    (kept,) = (tmp_path / "checkpoints").glob("model-*.pt")
    assert kept.read_bytes() == b"downloaded"
    assert kept.name in caplog.text


def test_model_in_use_stays_until_there_is_a_newer_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tmp_path / "models/model.pt"
    Run(tmp_path, epochs=1).run()
    old = model.read_bytes()
    Run(tmp_path, stop_after=1, init=99, in_use=True).run()
    (kept,) = (tmp_path / "checkpoints").glob("model-*.pt")
    assert model.read_bytes() == kept.read_bytes() == old
    assert len(list((tmp_path / "checkpoints").glob("last-*.pt"))) == 1
    assert "--resume" not in caplog.text  # nobody can say that to a server
    new = Run(tmp_path, epochs=1, init=99, in_use=True).run()
    assert are_equal(load(model), new.weights[0])


def test_model_settings_are_recorded_for_evaluation_and_must_not_change_on_resume(tmp_path: Path) -> None:
    Run(tmp_path, model_settings={"features": 16, "spacing_mm": [1.0, 1.0, 2.5]}, epochs=1).run()
    recorded = json.loads((tmp_path / "logs" / "model_settings.json").read_text())
    assert recorded == {"features": 16, "spacing_mm": [1.0, 1.0, 2.5]}
    with pytest.raises(InputError, match="features was 16, is 32"):
        Run(tmp_path, model_settings={"features": 32, "spacing_mm": [1.0, 1.0, 2.5]}, resume=True).run()
    assert json.loads((tmp_path / "logs" / "model_settings.json").read_text()) == recorded


def test_changed_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    Run(tmp_path, settings={"seed": 0, "patch_size": [32, 48, 32]}, epochs=1).run()
    changed = Run(tmp_path, settings={"seed": 1, "patch_size": [32, 48, 32]}, resume=True)
    with pytest.raises(InputError, match="seed was 0, is 1") as error:
        changed.run()
    assert "last.pt" in str(error.value)
    assert "patch_size" not in str(error.value)
    assert changed.losses == []


def test_changed_keys_are_refused_but_for_those_that_change_nothing_learned(tmp_path: Path) -> None:
    values = {"learning_rate": 0.01, "weights": {"mix": 1.0}, "num_workers": 0, "resume": False}
    Run(tmp_path, values=values, epochs=1).run()
    other = {"learning_rate": 0.1, "weights": {"mix": 0.5}, "num_workers": 4, "resume": True}
    with pytest.raises(InputError) as error:
        Run(tmp_path, values=other, resume=True).run()
    assert "learning_rate was 0.01, is 0.1; weights was {'mix': 1.0}, is {'mix': 0.5}." in str(error.value)
    Run(tmp_path, values={**values, "num_workers": 4, "resume": True}, resume=True, epochs=2).run()


def test_scan_that_changed_sides_is_refused(tmp_path: Path) -> None:
    def lists(*sections: str, place: str = "/data") -> dict[str, list[dict[str, str]]]:
        names = ("labeled", "unlabeled", "validation")
        return {
            n: [{"image": f"{place}/t/{s}.nii.gz"} for s in scans] for n, scans in zip(names, sections, strict=True)
        }

    Run(tmp_path, scans=lists("ab", "cd", "e"), epochs=1).run()
    with pytest.raises(InputError) as error:
        Run(tmp_path, scans=lists("ae", "cd", "b"), resume=True).run()
    assert "labeled scans were 2, are 2: 1 gone (t/b.nii.gz), 1 new (t/e.nii.gz); validation scans were 1" in str(
        error.value
    )
    Run(tmp_path, scans=lists("ba", "dc", "e", place="/elsewhere"), resume=True, epochs=2).run()


def test_best_epoch_is_kept_and_the_last_one_exported(tmp_path: Path) -> None:
    run = Run(tmp_path, scores=[0.2, 0.6, 0.4, 0.5]).run()
    assert are_equal(load(tmp_path / "checkpoints/best.pt"), run.weights[1])
    assert are_equal(load(tmp_path / "models/model.pt"), run.weights[3])


def test_best_epoch_is_exported_where_it_is_selected(tmp_path: Path) -> None:
    run = Run(tmp_path, scores=[0.2, 0.6, 0.4, 0.5], selection="best").run()
    assert are_equal(load(tmp_path / "models/model.pt"), run.weights[1])


def test_without_validation_the_last_weights_are_exported_whatever_is_selected(tmp_path: Path) -> None:
    run = Run(tmp_path, selection="best").run()
    assert are_equal(load(tmp_path / "models/model.pt"), run.weights[3])
    assert not (tmp_path / "checkpoints/best.pt").exists()


def test_last_weights_are_exported_where_no_validation_came_about(tmp_path: Path) -> None:
    # a training shorter than the interval of validation
    run = Run(tmp_path, scores=[-2.0, -2.0, -2.0, -2.0], selection="best").run()
    assert are_equal(load(tmp_path / "models/model.pt"), run.weights[3])


def test_resumed_run_remembers_the_best_epoch_before(tmp_path: Path) -> None:
    scores = [0.2, 0.6, 0.4, 0.5]
    killed = Run(tmp_path, scores=scores, stop_after=8).run()
    resumed = Run(tmp_path, scores=scores, resume=True, init=99).run()
    assert resumed.validator is not None
    assert (resumed.validator.state.best_metric, resumed.validator.state.best_metric_epoch) == (0.6, 2)
    assert are_equal(load(tmp_path / "checkpoints/best.pt"), killed.weights[1])


def test_checkpoint_comes_every_interval_and_at_the_end(tmp_path: Path) -> None:
    run, written = Run(tmp_path, interval=2, epochs=3), []

    def note(_engine: Engine) -> None:
        written.append(load(run.checkpoint.run.last)["progress"]["epoch"] if run.checkpoint.run.last.exists() else None)

    run.engine.add_event_handler(Events.EPOCH_COMPLETED, note)
    run.run()
    assert written == [None, 2, 3]


def test_place_of_the_weights_is_said_once_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        Run(tmp_path).run()
    assert caplog.text.count(str(tmp_path / "models" / "model.pt")) == 1


def test_unknown_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="selection must be 'last' or 'best', got 'worst'"):
        Run(tmp_path, selection="worst")


def test_name_of_a_run_has_its_start_and_is_kept_for_a_resume_alone(tmp_path: Path) -> None:
    name = run_name("x", str(tmp_path), resume=True)  # nothing is there to resume
    assert re.fullmatch(r"x_\d{8}-\d{6}-[0-9a-f]{4}", name)
    assert name != run_name("x", str(tmp_path), resume=True)  # within the same second
    Run(tmp_path, run_name="x_20250101-000000").run()
    assert run_name("x", str(tmp_path), resume=True) == "x_20250101-000000"
    assert run_name("x", str(tmp_path), resume=False) != "x_20250101-000000"


def test_changes_that_are_allowed_are_logged_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values, scans = {"max_grad_norm": 12.0}, {"labeled": [{"image": "/d/t/a.nii.gz"}], "validation": []}
    Run(tmp_path, values=values, scans=scans, epochs=1).run()
    more: dict[str, Any] = {
        "values": {"max_grad_norm": 1.0},
        "scans": {**scans, "labeled": [*scans["labeled"], {"image": "/d/t/b"}]},
    }
    with pytest.raises(InputError, match="or, to go on all the same, --allow_changes True"):
        Run(tmp_path, **more, resume=True).run()
    resumed = Run(tmp_path, **more, resume=True, allow_changes=True, epochs=2).run()
    assert resumed.losses
    assert "Resuming with changes: max_grad_norm was 12.0, is 1.0; labeled scans were 1, are 2: 1 new" in caplog.text


@pytest.mark.parametrize(("source", "target"), [("labeled", "validation"), ("validation", "unlabeled")])
def test_scan_that_moved_between_training_and_validation_is_refused_whatever_is_allowed(
    tmp_path: Path, source: str, target: str
) -> None:
    scans: dict[str, list[dict[str, str]]] = {
        name: [{"image": f"/d/t/{name}"}] for name in ("labeled", "unlabeled", "validation")
    }
    Run(tmp_path, scans=scans, epochs=1).run()
    moved = {**scans, source: [], target: [*scans[target], *scans[source]]}
    with pytest.raises(InputError, match=rf"1 scan moved from {source} to {target} \(t/{source}\)") as error:
        Run(tmp_path, scans=moved, resume=True, allow_changes=True).run()
    assert "allow_changes" not in str(error.value)


def test_learning_rate_is_the_checkpoint_s_and_another_one_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    Run(tmp_path, values={"learning_rate": 0.01}, epochs=1).run()
    with pytest.raises(InputError, match=r"learning_rate was 0.01, is 0.1") as error:
        Run(tmp_path, values={"learning_rate": 0.1}, resume=True, allow_changes=True).run()
    assert "allow_changes" not in str(error.value)


def test_what_the_weights_depend_on_is_never_changed(tmp_path: Path) -> None:
    Run(tmp_path, settings={"total_iterations": 10}, epochs=1).run()
    with pytest.raises(InputError, match="total_iterations was 10, is 20"):
        Run(tmp_path, settings={"total_iterations": 20}, resume=True, allow_changes=True).run()


@pytest.mark.parametrize(("selection", "epoch"), [("last", 4), ("best", 2)])
def test_iteration_of_the_exported_weights_is_written_beside_them(tmp_path: Path, selection: str, epoch: int) -> None:
    run = Run(tmp_path, scores=[0.2, 0.6, 0.4, 0.5], selection=selection).run()
    exported = json.loads((tmp_path / "logs/exported.json").read_text())
    assert exported == {"iteration": epoch * run.engine.state.epoch_length}


def test_checkpoint_waits_for_its_time_but_not_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("dtlp_components.handlers.checkpoints.time.monotonic", lambda: now)
    run, written = Run(tmp_path, minutes=5, epochs=8), []

    @run.engine.on(Events.EPOCH_STARTED)
    def pass_time(engine: Engine) -> None:
        nonlocal now
        now += 120.0

    @run.engine.on(Events.EPOCH_COMPLETED)
    def look(engine: Engine) -> None:
        if run.checkpoint.run.last.is_file():
            epoch = load(run.checkpoint.run.last)["progress"]["epoch"]
            written.append(epoch)

    run.run()
    assert list(dict.fromkeys(written)) == [3, 6, 8]
