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
from monai.inferers import SlidingWindowInferer
from monai.utils import set_determinism
from torch import Tensor, nn

from dtlp_components.bench import command as bench
from dtlp_components.bench.command import run_bench
from dtlp_components.bench.inference import one_window_at_a_time
from dtlp_components.bench.reference import Convolution, count_flop, synthetic_volume
from dtlp_components.bench.training import RECYCLING, StreamClock, TrainingVariant
from dtlp_components.cli import main
from dtlp_components.errors import InputError
from dtlp_components.inferers.windows import window_slices

CONFIG = "bundles/hippocampus_5/configs/train.json"
TINY = {"patch_size": [16, 16, 32], "features": 4, "ddim_steps": 2}
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
    words = ["bench", "--config_file", CONFIG, "--patch_size", "[16,16,32]", "--features", "4", "--repeats", "1"]
    words += ["--overrides", '{"ddim_steps": 2}', "--compare", '{"ddim_steps": 6, "channels_last": false}']
    words += ["--memory", "False", "--inference_size", "[24,20,40]", "--output", str(file)]
    with contextlib.redirect_stdout(text):
        main(words)
    return json.loads(file.read_text(encoding="utf-8")), text.getvalue()


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


def test_units_and_ratio_are_quotients_of_the_seconds(run: tuple[dict[str, Any], str]) -> None:
    report, text = run
    a, b = (report["variants"][name]["iteration"]["seconds"] for name in "AB")
    assert report["variants"]["A"]["iteration"]["units"] == pytest.approx(a / report["unit"]["seconds"])
    assert report["ratios"]["iteration"] == pytest.approx(b / a)
    last = text.split("B / A")[1].splitlines()[-1].split()
    assert last == ["iteration", f"{b / a:.3f}"]


def test_overrides_take_effect_and_json_words_are_read(run: tuple[dict[str, Any], str]) -> None:
    a, b = (run[0]["variants"][name] for name in "AB")
    assert b["overrides"] == {"patch_size": [16, 16, 32], "features": 4, "ddim_steps": 6, "channels_last": False}
    ratio = {name: b["streams"][name]["flop"] / a["streams"][name]["flop"] for name in STREAMS if "DDIM" in name}
    assert ratio == {"teachers: DDIM": pytest.approx(6 / 2)}
    for name in ("labeled: diffusion", "student: mixed"):
        assert b["streams"][name]["flop"] == a["streams"][name]["flop"] > 0


def test_inference_ways_agree_and_loading_has_its_share(run: tuple[dict[str, Any], str]) -> None:
    for variant in run[0]["variants"].values():
        assert variant["inference"]["equal_labels"] > 0.999
        assert variant["inference"]["num_windows"] == 2 * 2 * 2
        assert 0 < variant["loading"]["share"] < 1
        assert variant["loading"]["wait"] > 0


def test_same_losses_twice() -> None:
    losses = []
    for _ in range(2):
        variant = TrainingVariant(CONFIG, TINY)
        torch.rand(3)  # the global state does not matter
        losses.append([variant.iterate(seed=i).loss for i in range(2)])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


def test_recycling_counts_by_its_probability() -> None:
    whole = TrainingVariant(CONFIG, {**TINY, "recycling": 1.0}).count()
    quarter = TrainingVariant(CONFIG, {**TINY, "recycling": 0.25}).count()
    none = TrainingVariant(CONFIG, {**TINY, "recycling": 0.0}).count()
    assert whole.streams[RECYCLING] > 0
    assert quarter.streams[RECYCLING] == 0.25 * whole.streams[RECYCLING]
    assert RECYCLING not in none.streams
    assert quarter.total == none.total + 0.25 * whole.streams[RECYCLING]


def test_volume_is_that_of_its_seed_and_has_every_class() -> None:
    image, label = synthetic_volume((24, 16, 40), 2, 3, seed=5)
    assert image.shape == (2, 24, 16, 40) and label.shape == (1, 24, 16, 40)
    assert label.unique().tolist() == [0, 1, 2]
    assert torch.equal(image, synthetic_volume((24, 16, 40), 2, 3, seed=5)[0])
    assert not torch.equal(image, synthetic_volume((24, 16, 40), 2, 3, seed=6)[0])


class Worker:
    """Something whose methods take as long as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def slow(self, x: Tensor) -> Tensor:
        worker = self

        class Slow(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                worker.wait(3)
                return x.clone()

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> Tensor:
                worker.wait(5)
                return grad

        result: Tensor = Slow.apply(x)
        return result


def test_time_goes_to_the_stream_that_it_ends_with() -> None:
    worker = Worker()
    clock = StreamClock(lambda: worker.now)
    clock.watch_stream(worker, "wait", lambda seconds: f"{seconds} s", before="before")
    worker.now += 1
    worker.wait(2)
    worker.wait(4)
    worker.now += 8
    clock.give_to("rest")
    assert clock.streams == {"before": 1, "2 s": 2, "4 s": 4, "rest": 8}


def test_part_is_timed_forward_and_backward() -> None:
    worker = Worker()
    clock = StreamClock(lambda: worker.now)
    other = Worker()
    other.wait = worker.wait  # type: ignore[method-assign]
    clock.watch_part(worker, "slow", "slow")
    x = torch.ones(2, requires_grad=True)
    (other.slow(worker.slow(other.slow(x)))).sum().backward()
    assert worker.now == 3 * (3 + 5)
    assert clock.parts == {"slow": 3 + 5}
    assert torch.equal(x.grad, torch.ones(2))
    worker.slow(x.detach())
    assert clock.parts == {"slow": 3 + 5 + 3}


def test_flop_of_convolution_and_attention_are_those_by_hand() -> None:
    layer = Convolution(4, (3, 5, 6), 2, True, {"device_type": "cpu", "enabled": False}, torch.device("cpu"))
    multiplications = 4 * 4 * 27 * 2 * 3 * 5 * 6
    assert count_flop(layer.run) == layer.flop == 3 * 2 * multiplications
    q, k, v = (torch.randn(2, 1, 12, 8, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 12 * 12 * 8  # of a 12 x 8 with an 8 x 12 matrix, two volumes
    attention = nn.functional.scaled_dot_product_attention
    assert count_flop(lambda: attention(q.detach(), k.detach(), v.detach())) == 2 * product
    assert count_flop(lambda: attention(q, k, v).sum().backward()) == (2 + 5) * product


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_one_window_at_a_time_gives_the_logits_of_monai(mode: str, seed: int) -> None:
    network = nn.Conv3d(1, 2, kernel_size=3, padding=1)
    image, patch = torch.randn(1, 1, 9, 14, 8), (4, 6, 8)
    expected = SlidingWindowInferer(roi_size=patch, sw_batch_size=4, overlap=0.5, mode=mode)(image, network)
    torch.testing.assert_close(one_window_at_a_time(network, image, patch, 0.5, mode), expected)
    # 0, 2, 4, 5 along x; 0, 3, 6, 8 along y; one along z
    assert len(window_slices((9, 14, 8), patch, 0.5)) == 4 * 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overrides": {"ddim_stps": 2}}, "Did you mean --ddim_steps"),
        ({"compare": {"batch_size": 2}}, "--batch_size .*no such key"),
        ({"patch_size": [16, 17, 32]}, r"\[16, 17, 32\] does not fit the V-Net"),
        ({"overrides": {"patch_size": 16}}, "--patch_size: "),
        ({"patch_size": [16, 16, 32], "inference_size": [16, 16, 31]}, "none smaller than the patch"),
        ({"config_file": "nothing.json"}, "--config_file nothing.json: "),
        ({"overrides": "ddim_steps"}, "found 'ddim_steps', expected keys and values"),
        ({"repeats": 0}, "--repeats: found 0, expected an integer from 1 on"),
        ({"threads": 0}, "--threads: found 0, expected an integer from 1 on"),
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
    with pytest.raises(InputError, match="cannot be measured: ValueError: ddim_steps must be within 1 and 1000, got 0"):
        bench._measure_peak("iteration", str(Path(CONFIG).absolute()), {**TINY, "ddim_steps": 0}, [])


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_in_bytes() -> None:
    grown = torch.ones(4 * 10**8, dtype=torch.float64)  # the parent's 3.2 GB are not the child's
    peak = bench._measure_peak("iteration", str(Path(CONFIG).absolute()), TINY, [])
    assert 200e6 < peak < 3e9 < grown.nbytes  # interpreter and libraries are most of it
