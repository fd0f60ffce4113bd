# SPDX-License-Identifier: Apache-2.0
"""A training of a given time: what is measured, how many iterations follow, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.bundle import start, time_budget
from dtlp_components.bundle.start import train_bundle
from dtlp_components.bundle.time_budget import Measured, choose_length, iterations_within, measure, parse_hours
from dtlp_components.errors import InputError
from dtlp_components.run_folder import RunFolder
from tests import tiny

ROOT = Path(__file__).parents[2]
FREE = Measured(start=0.0, before=1.0, after=1.0, epoch=0.0, validation=0.0)
GIVEN = {"burn_in": 0.4, "iterations_per_epoch": 50, "val_interval": 4, "resume": False}


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "two", "8h"])
def test_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"--hours: expected a number above 0, such as 8 or 0.5, got '{text}'"):
        parse_hours(text)


def test_hours_are_hours() -> None:
    assert parse_hours("0.5") == 1800


@pytest.mark.parametrize("seconds", [3, 40, 100, 1000, 5000])
@pytest.mark.parametrize("burn_in", [0.0, 0.4])
def test_time_is_used_up_and_not_exceeded(seconds: float, burn_in: float) -> None:
    measured = Measured(start=1.0, before=0.1, after=0.4, epoch=0.05, validation=0.2)
    epochs, length = iterations_within(seconds, measured, burn_in, epoch_length=50, val_interval=4)
    count = epochs * length
    spent = 1.0 + count * (burn_in * 0.1 + (1 - burn_in) * 0.4) + epochs * 0.05 + epochs / 4 * 0.2
    assert spent <= seconds
    if seconds >= 100:
        assert spent >= 0.95 * seconds
        assert 25 <= length <= 75


def test_burn_in_makes_room_for_more_iterations() -> None:
    measured = Measured(start=0.0, before=0.1, after=1.0, epoch=0.0, validation=0.0)
    few, many = (
        epochs * length for epochs, length in (iterations_within(1000, measured, b, 10, 1) for b in (0.0, 0.5))
    )
    assert many / few == pytest.approx(1 / 0.55, rel=0.02)


def test_too_little_time_is_refused() -> None:
    measured = Measured(start=20.0, before=1.0, after=3.0, epoch=0.0, validation=0.0)
    with pytest.raises(InputError, match=r"the start takes 20 s and an iteration 3.0 s here, got 18 s that are left"):
        iterations_within(18, measured, 0.0, 50, 1)


def test_choice_is_said_and_becomes_words(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    asked: list[Any] = []

    def pretend(*words: Any) -> Measured:
        asked.append(words)
        return FREE

    monkeypatch.setattr(time_budget, "measure", pretend)
    words = choose_length("0.1", [Path("train.json")], GIVEN, ["--features", "4"], RunFolder(tmp_path), processes=2)
    assert words == ["--max_iterations", "350", "--iterations_per_epoch", "50"]
    assert asked == [([Path("train.json")], ["--features", "4"], True, RunFolder(tmp_path).checked_inputs, 2)]
    said = capsys.readouterr().out
    assert "350 iterations (7 epochs of 50) in the 6 min 00 s that are left." in said


def test_training_that_goes_on_keeps_its_length(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(time_budget, "measure", lambda *_: pytest.fail("measured again"))
    run = RunFolder(tmp_path)
    for file in (run.last, run.record):
        file.parent.mkdir(parents=True, exist_ok=True)
    run.last.touch()
    run.record.write_text(json.dumps({"settings": {"max_iterations": 240, "iterations_per_epoch": 48}}))
    words = choose_length("1", [], {**GIVEN, "resume": True}, [], run, processes=1)
    assert words == ["--max_iterations", "240", "--iterations_per_epoch", "48"]
    assert "goes on with the 240 iterations that it began with" in capsys.readouterr().out


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What MONAI's command is given; the measurement is pretended."""
    given: list[list[str]] = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(start, "become_monai", lambda words, processes: given.append(words))
    monkeypatch.setattr(time_budget, "measure", lambda *_: FREE)
    return given


def test_training_is_started_with_the_number_of_iterations(commands: list[list[str]], tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    train_bundle("la_5", "--hours", "0.1", "--seed", "1", "--burn_in", "0.2", "--output_dir", run)
    ((_, _, _, config, *words),) = commands
    assert config.endswith("la_5/configs/train.json")
    kept = ["--seed", "1", "--output_dir", run, "--burn_in", "0.2"]
    assert words == [*kept, "--max_iterations", "350", "--iterations_per_epoch", "50"]


def test_number_of_iterations_beside_a_time_is_refused(commands: list[list[str]]) -> None:
    with pytest.raises(InputError, match="--hours: expected no --max_iterations beside it"):
        train_bundle("la_5", "--hours", "1", "--max_iterations", "100")
    assert commands == []


@pytest.mark.slow
def test_measurement_trains_both_phases_and_leaves_nothing(tmp_path: Path, tiny_dataset: Path) -> None:
    own = ("max_iterations", "iterations_per_epoch", "val_interval")  # which the measurement sets
    settings = {key: value for key, value in {**tiny.FACTS, **tiny.TRAINING}.items() if key not in own}
    settings |= {"dataset_dir": tiny_dataset, "datalist": tiny_dataset / "datalist.json"}
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    checked = tmp_path / "checked_inputs.json"
    measured = measure([ROOT / "bundles/la_5/configs/train.json"], words, True, checked)
    assert measured.before > 0  # how much less than after the burn-in is a matter of the machine's load
    assert measured.after > 0
    assert measured.start > 1
    assert measured.validation > 0
    assert [file.name for file in tmp_path.iterdir()] == ["checked_inputs.json"]


@pytest.mark.slow
def test_measurement_that_fails_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        measure([ROOT / "bundles/la_5/configs/train.json"], ["--dataset_dir", str(tmp_path)], True, tmp_path / "c.json")
    assert end.value.code == 1
    assert "datalist_5.json" in capfd.readouterr().err
