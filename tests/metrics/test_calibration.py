# SPDX-License-Identifier: Apache-2.0
"""Temperature and conformal interval: they keep what they promise, and refuse what they cannot."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dtlp_components.errors import InputError
from dtlp_components.files import sha256, write_json
from dtlp_components.metrics.calibration import (
    Calibration,
    calibrated_run,
    checksum_of_weights,
    conformal_margins,
    fit_temperature,
    load_calibration,
    tempered,
)
from dtlp_components.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("seed")


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_temperature_that_made_the_logits_is_found(true: float) -> None:
    logits = 2 * torch.randn(50_000, 3)
    label = torch.multinomial(torch.softmax(logits, dim=1), 1)[:, 0]
    assert fit_temperature(true * logits, label) == pytest.approx(true, rel=0.04)


def test_tempered_probabilities_are_those_of_tempered_logits_and_keep_the_class() -> None:
    logits = 3 * torch.randn(4, 5, 6, 7)
    given = tempered(torch.softmax(logits, dim=0), 1.7)
    torch.testing.assert_close(given, torch.softmax(logits / 1.7, dim=0), rtol=1e-4, atol=1e-6)
    assert torch.equal(given.argmax(dim=0), logits.argmax(dim=0))


def drawn(rng: np.random.Generator, count: int) -> tuple[list[float], list[float]]:
    """What a network that is too sure expects, and what it reaches, with a long tail of failures."""
    expected = rng.uniform(0.8, 0.95, count)
    return expected.tolist(), (expected - rng.exponential(0.06, count)).tolist()


@pytest.mark.parametrize(("count", "coverage"), [(20, 0.9), (50, 0.9), (30, 0.8)])
def test_interval_keeps_its_promise_on_average(count: int, coverage: float) -> None:
    rng, inside = np.random.default_rng(0), []
    for _ in range(400):
        below, above = conformal_margins(*drawn(rng, count), coverage)
        expected, dice = (np.array(values) for values in drawn(rng, 50))
        inside.append(np.mean((dice >= expected - below) & (dice <= expected + above)))
    assert coverage - 0.01 <= np.mean(inside) <= coverage + 2 / count + 0.01


def test_margins_are_ordered_differences() -> None:
    expected, dice = [0.9] * 20, [0.9 - 0.01 * i for i in range(20)]
    below, above = conformal_margins(expected, dice, 0.9)  # the 20th smallest of 20 on each side
    assert below == pytest.approx(0.19)
    assert above == pytest.approx(0.0)


@pytest.mark.parametrize(("count", "coverage", "least"), [(19, 0.9, 20), (0, 0.5, 20), (30, 0.95, 39)])
def test_too_few_scans_are_refused_with_the_number_that_is_needed(count: int, coverage: float, least: int) -> None:
    with pytest.raises(InputError, match=rf"needs at least {least} labeled scans .*, got {count}\."):
        conformal_margins([0.9] * count, [0.8] * count, coverage)
    conformal_margins([0.9] * least, [0.8] * least, coverage)


def test_interval_stays_within_0_and_1() -> None:
    calibration = Calibration(1.0, "", "validation", 30, below=0.3, above=0.2)
    assert calibration.interval(0.9) == pytest.approx((0.6, 1.0))
    assert calibration.interval(0.1) == pytest.approx((0.0, 0.3))
    assert Calibration(1.0, "", "validation", 10).interval(0.9) is None


def test_content_comes_back_the_same() -> None:
    for calibration in (Calibration(0.7, "abc", "validation", 30, 0.1, -0.02, 0.8), Calibration(2.0, "abc", "s", 3)):
        assert Calibration.of(json.loads(json.dumps(calibration.content())), "file") == calibration


@pytest.mark.parametrize(
    "change",
    [{"temperature": "$os.system('true')"}, {"temperature": 0}, {"temperature": None}, {"below": True},
     {"above": math.inf}, {"coverage": None}],
    ids=str,
)  # fmt: skip
def test_other_content_is_refused(change: dict[str, object]) -> None:
    content = {**Calibration(1.0, "", "validation", 30, 0.1, 0.1).content(), **change}
    with pytest.raises(InputError, match=r"somewhere: expected a file written by `dtlp calibrate`"):
        Calibration.of(content, "somewhere")


def test_calibration_of_other_weights_does_not_count_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path)
    run.models.mkdir()
    run.logs.mkdir()
    run.model.write_bytes(b"weights")
    assert load_calibration(str(run.model)) is None
    calibration = Calibration(0.7, sha256(run.model), "validation", 30, 0.1, 0.05)
    run.calibration.write_text(json.dumps(calibration.content()))
    assert load_calibration(str(run.model)) == calibration
    run.model.write_bytes(b"weights of the next training")
    with caplog.at_level(logging.WARNING, "dtlp"):
        assert load_calibration(str(run.model)) is None
    assert "belongs to other weights than" in caplog.text


def test_calibration_of_a_cross_validation_is_that_of_the_average_alone(tmp_path: Path) -> None:
    folds = [RunFolder(tmp_path / f"fold_{i}") for i in (1, 2)]
    for number, fold in enumerate(folds):
        fold.models.mkdir(parents=True)
        fold.model.write_bytes(bytes([number]))
    first, other = (str(fold.model) for fold in folds)
    calibration = Calibration(0.7, checksum_of_weights(first, [other]), "validation", 30, 0.1, 0.05)
    write_json(calibrated_run(first, [other]).calibration, calibration.content())
    assert (tmp_path / "logs/calibration.json").is_file()
    assert load_calibration(first, [other]) == calibration
    assert load_calibration(first) is None
    assert load_calibration(other, [first]) is None
    own = Calibration(0.9, checksum_of_weights(first), "validation", 30)
    write_json(folds[0].calibration, own.content())
    assert load_calibration(first) == own
    assert load_calibration(first, [other]) == calibration
