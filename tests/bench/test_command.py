# SPDX-License-Identifier: Apache-2.0
"""The bench command on a network of four features: its numbers belong together, its inputs never change."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.utils import set_determinism

from dtlp_components.bench import command as bench
from dtlp_components.bench.command import run_bench
from dtlp_components.cli import main
from dtlp_components.errors import InputError

CONFIG = "bundles/hippocampus_5/configs/train.json"
TINY = {"patch_size": [16, 32, 32], "features": 4, "ddim_steps": 2}
ALL_TERMS = {"weights::kd": 0.1, "weights::rec": 0.1, "weights::corr": 1.0}
STREAMS = {
    "labeled: diffusion",
    "labeled: recycling",
    "labeled: difficulty",
    "teachers: DDIM",
    "teachers: difficulty",
    "teachers: mean teacher",
    "teachers: fusion",
    "student: mixed",
    "student: masked",
    "student: masked, labeled",
    "student: unlabeled",
    "optimizer and moving average",
    "rest",
}


@pytest.fixture(scope="module", autouse=True)
def random_state_is_given_back() -> Iterator[None]:
    yield
    set_determinism(None)  # the bundle's `initialize`, which the command runs, sets it


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """JSON and printed text of one comparison, started as a user would."""
    file, text = tmp_path_factory.mktemp("bench") / "bench.json", io.StringIO()
    words = ["bench", "--config_file", CONFIG, "--patch_size", "[16,32,32]", "--features", "4", "--repeats", "1"]
    words += ["--overrides", json.dumps({"ddim_steps": 2, **ALL_TERMS})]
    words += ["--compare", json.dumps({"ddim_steps": 6, "channels_last": False, **ALL_TERMS})]
    words += ["--memory", "False", "--inference_size", "[24,40,36]", "--output", str(file)]
    with contextlib.redirect_stdout(text):
        main(words)
    return json.loads(file.read_text(encoding="utf-8")), text.getvalue()


@pytest.mark.slow
def test_every_stream_takes_time_and_together_they_are_the_iteration(run: tuple[dict[str, Any], str]) -> None:
    for variant in run[0]["variants"].values():
        seconds = {name: row["all_seconds"][0] for name, row in variant["streams"].items()}
        assert set(seconds) == STREAMS
        assert all(value > 0 for value in seconds.values())
        assert sum(seconds.values()) == pytest.approx(variant["iteration"]["all_seconds"][0], rel=0.03)
        assert seconds["rest"] < 0.1 * sum(seconds.values())
        within = {name: row["seconds"] for name, row in variant["of_which"].items()}
        assert set(within) == {"losses", "propagation", "moving average"}
        assert 0 < within["moving average"] < seconds["optimizer and moving average"]
        assert 0 < sum(within.values()) < 0.5 * sum(seconds.values())


@pytest.mark.slow
def test_units_and_ratio_are_quotients_of_the_seconds(run: tuple[dict[str, Any], str]) -> None:
    report, text = run
    a, b = (report["variants"][name]["iteration"]["seconds"] for name in "AB")
    assert report["variants"]["A"]["iteration"]["units"] == pytest.approx(a / report["unit"]["seconds"])
    assert report["ratios"]["iteration"] == pytest.approx(b / a)
    last = text.split("B / A")[1].splitlines()[-1].split()
    assert last == ["iteration", f"{b / a:.3f}"]


@pytest.mark.slow
def test_overrides_take_effect_and_json_words_are_read(run: tuple[dict[str, Any], str]) -> None:
    a, b = (run[0]["variants"][name] for name in "AB")
    expected = {"patch_size": [16, 32, 32], "features": 4, "ddim_steps": 6, "channels_last": False, **ALL_TERMS}
    assert b["overrides"] == expected
    ratio = {name: b["streams"][name]["flop"] / a["streams"][name]["flop"] for name in STREAMS if "DDIM" in name}
    assert ratio == {"teachers: DDIM": pytest.approx(6 / 2)}
    for name in ("labeled: diffusion", "student: mixed"):
        assert b["streams"][name]["flop"] == a["streams"][name]["flop"] > 0


@pytest.mark.slow
def test_inference_ways_agree_and_loading_has_its_share(run: tuple[dict[str, Any], str]) -> None:
    for variant in run[0]["variants"].values():
        assert variant["inference"]["equal_labels"] > 0.999
        assert variant["inference"]["num_windows"] == 2 * 2 * 2
        assert 0 < variant["loading"]["share"] < 1
        assert variant["loading"]["wait"] > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overrides": {"ddim_stps": 2}}, "Did you mean --ddim_steps"),
        ({"compare": {"batch_size": 2}}, "--batch_size .*no such key"),
        ({"patch_size": [16, 17, 32]}, r"--patch_size: expected multiples of 16, got \[16, 17, 32\]"),
        ({"overrides": {"ddim_steps": 0}}, "--ddim_steps: expected an integer from 1 to 1000, got 0"),
        ({"overrides": {"patch_size": 16}}, "--patch_size: "),
        ({"patch_size": [16, 32, 32], "inference_size": [16, 16, 31]}, "none smaller than the patch"),
        ({"config_file": "nothing.json"}, "--config_file nothing.json: "),
        ({"overrides": "ddim_steps"}, "expected keys and values, .*, got 'ddim_steps'"),
        ({"repeats": 0}, "--repeats: expected an integer of at least 1, got 0"),
        ({"threads": 0}, "--threads: expected an integer of at least 1, got 0"),
    ],
)
def test_bad_input_is_told_before_anything_is_measured(
    given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_peaks", lambda *args: pytest.fail("measured"))
    with pytest.raises(InputError, match=message):
        run_bench(**{"config_file": CONFIG, **given})


@pytest.mark.slow
def test_value_that_a_component_refuses_is_told_with_its_reason() -> None:
    # of a key inside, which no table knows
    with pytest.raises(InputError, match="cannot be measured: ValueError: period must be a positive number of iter"):
        bench._measure_peak("iteration", str(Path(CONFIG).absolute()), {**TINY, "mean_teacher::period": 0}, [])


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_in_bytes() -> None:
    grown = torch.ones(4 * 10**8, dtype=torch.float64)  # the parent's 3.2 GB are not the child's
    peak = bench._measure_peak("iteration", str(Path(CONFIG).absolute()), TINY, [])
    assert 200e6 < peak < 3e9 < grown.nbytes  # interpreter and libraries are most of it
