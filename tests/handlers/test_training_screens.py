# SPDX-License-Identifier: Apache-2.0
"""What a training says first, after each validation and last: every line true, every command to be pasted."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ignite.engine import Engine, Events
from torch import nn

from dtlp_components.handlers import training_screens
from dtlp_components.handlers.run_record import RunRecord
from dtlp_components.handlers.training_screens import TrainingScreens

SETTINGS = {
    "method": "dtlp", "features": 8, "patch_size": [16, 32, 48], "spacing_mm": [1.0, 1.5, 2.0], "num_classes": 3,
    "label_names": ["background", "liver", "left kidney"], "val_interval": 2, "amp": False,
}  # fmt: skip
SCANS = {
    "labeled": [{"image": "/data/labeled/l.nii.gz"}] * 3,
    "unlabeled": [{"image": "/data/u.nii.gz"}] * 5,
    "validation": [{"image": "/data/it's v.nii.gz"}] * 2,
}


class Validator:
    """Gives a Dice per validation, as MONAI's evaluator keeps them."""

    def __init__(self, dice: Mapping[int, float], best: tuple[float, int] = (-1.0, -1)) -> None:
        self.dice = dice
        self.state = SimpleNamespace(metrics={}, best_metric=best[0], best_metric_epoch=best[1])

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.validate)

    def validate(self, engine: Engine) -> None:
        if (epoch := engine.state.epoch) in self.dice:
            self.state.metrics["val_mean_dice"] = self.dice[epoch]
            if self.dice[epoch] > self.state.best_metric:
                self.state.best_metric, self.state.best_metric_epoch = self.dice[epoch], epoch


@pytest.fixture
def say(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Train six epochs of five iterations; what is said, a text for each time."""
    ticks = iter(range(0, 100000, 250))  # the clock is looked at twice, at the start and the end
    monkeypatch.setattr(training_screens.time, "monotonic", lambda: next(ticks))

    def say(
        validator: Validator | None = None,
        start: int = 0,
        testing: bool = True,
        page: list[str] | None = None,
        settings: Mapping[str, Any] = SETTINGS,
        scans: Mapping[str, Any] = SCANS,
        **options: Any,
    ) -> list[str]:
        datalist = tmp_path / "lists of mine.json"
        datalist.write_text(json.dumps({"testing": [{}] if testing else [], "validation": [{}]}))
        overrides = {"datalist": str(datalist), "output_dir": "$'a\\x20run'", "features": 8}
        record = RunRecord(str(tmp_path), "r", settings, overrides, "", {}, "cpu")
        engine = Engine(lambda *_: None)
        if validator is not None:
            validator.attach(engine)
        TrainingScreens(
            record, str(tmp_path / "a run"), "bundles/it", nn.Linear(999, 2000), scans, str(datalist), "/data",
            validator=validator, **options,
        ).attach(engine)  # fmt: skip

        @engine.on(Events.STARTED)  # last, as in a bundle's configuration
        def resume(engine: Engine) -> None:
            engine.state.epoch, engine.state.iteration = start, start * 5
            if page:
                engine.state.mlflow_page = page

        with caplog.at_level(logging.INFO, logger="dtlp"):
            engine.run([0] * 5, max_epochs=6)
        return [record.message for record in caplog.records if record.name == "dtlp"]

    return say


def row(text: str, name: str) -> str:
    return next(line.strip()[len(name) :].strip() for line in text.splitlines() if line.startswith(f"  {name} "))


def test_first_screen_says_what_is_trained_on_what_for_how_long_and_where_to_look(
    say: Callable[..., list[str]], tmp_path: Path
) -> None:
    first = say(Validator({}), burn_in=12.4, page=["mlflow ui", "then http://there"])[0]
    assert row(first, "network") == "the student, a V-Net: 8 features, 2 million weights"  # 2000 x 1000
    assert row(first, "patches") == "16 × 32 × 48 voxels of 1 × 1.5 × 2 mm"
    assert row(first, "classes") == "liver, left kidney; background"
    assert row(first, "scans") == "3 labeled, 5 unlabeled, 2 for validation, in /data"
    assert row(first, "computes on").startswith("CPU, ")
    assert row(first, "computes on").endswith(", in float32 (--amp)")
    assert row(first, "length").startswith("30 iterations in 6 epochs; after 13, unlabeled scans are used too")
    assert row(first, "validation") == "every 10 iterations, next after iteration 10"
    run = str(tmp_path / "a run")
    assert row(first, "run folder") == run
    assert shlex.split(row(first, "TensorBoard")) == ["tensorboard", "--logdir", f"{run}/logs/tensorboard"]
    assert [line.strip() for line in first.splitlines() if "http" in line] == ["then http://there"]


def test_resumed_training_says_what_is_done_and_nothing_of_a_burn_in_that_is_over(
    say: Callable[..., list[str]],
) -> None:
    first, *_, last = say(Validator({4: 0.5, 6: 0.6}, best=(0.7, 2)), start=3, burn_in=12.4)
    assert row(first, "length") == "30 iterations in 6 epochs, 15 of them done"
    assert row(first, "validation") == "every 10 iterations, next after iteration 20"
    assert last.startswith("Done: 15 iterations in ")
    # the best one was before the stop
    assert row(last, "mean Dice") == "best 0.700 at iteration 10, last 0.600 at iteration 30"


def test_half_precision_is_told(say: Callable[..., list[str]]) -> None:
    first = say(Validator({}), settings={**SETTINGS, "amp": True})[0]
    assert row(first, "computes on").endswith(", in half precision (--amp)")


def test_labeled_only_is_called_that(say: Callable[..., list[str]]) -> None:
    first = say(scans={**SCANS, "unlabeled": []}, burn_in=12.0)[0]
    assert row(first, "method") == "supervised, on the labeled scans alone"
    assert row(first, "network").startswith("a V-Net: ")
    assert row(first, "length") == "30 iterations in 6 epochs"


def test_validations_are_told_with_the_best_one(say: Callable[..., list[str]]) -> None:
    said = say(Validator({2: 0.25, 4: 0.5, 6: 0.4}))
    assert said[1:4] == [
        "Validation after iteration 10: mean Dice 0.250, the best so far.",
        "Validation after iteration 20: mean Dice 0.500, the best so far.",
        "Validation after iteration 30: mean Dice 0.400, best 0.500 at iteration 20.",
    ]
    assert said[4].startswith("Done: 30 iterations in 4 min 10 s.")
    assert row(said[4], "mean Dice") == "best 0.500 at iteration 20, last 0.400 at iteration 30"
    assert "near 0" not in said[4]


def test_dice_near_zero_comes_with_what_usually_is_the_reason(say: Callable[..., list[str]]) -> None:
    last = say(Validator({2: 0.049}))[-1]
    assert "labels are not aligned with their scans or have other values than the bundle's 3 classes" in last
    assert "--learning_rate" in last


@pytest.mark.parametrize(
    ("validator", "settings", "sentence"),
    [
        (None, SETTINGS, "none: section `validation` of the datalist is empty."),
        (Validator({}), {**SETTINGS, "val_interval": 7}, "none: the training ends before iteration 35."),
    ],
)
def test_training_without_validation_says_so_and_what_to_do(
    say: Callable[..., list[str]], validator: Validator | None, settings: dict[str, Any], sentence: str
) -> None:
    first, last = say(validator, settings=settings)
    assert row(first, "validation").startswith(sentence)
    assert row(last, "mean Dice") == "unknown: there was no validation"


def test_next_commands_are_words_of_a_shell(say: Callable[..., list[str]], tmp_path: Path) -> None:
    last = say()[-1]
    datalist, run = str(tmp_path / "lists of mine.json"), str(tmp_path / "a run")
    expected = ["dtlp", "evaluate", "bundles/it", "--datalist", datalist, "--output_dir", run]
    assert shlex.split(row(last, "evaluate")) == expected
    expected = [
        "dtlp", "segment", "bundles/it", "/data/it's v.nii.gz", f"{run}/predictions",
        "--model_file", f"{run}/models/model.pt",
    ]  # fmt: skip
    assert shlex.split(row(last, "segment")) == expected


def test_without_testing_scans_the_validation_ones_are_to_be_scored(say: Callable[..., list[str]]) -> None:
    assert row(say(testing=False)[-1], "evaluate").endswith(" --eval_section validation")
