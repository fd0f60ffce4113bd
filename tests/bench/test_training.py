# SPDX-License-Identifier: Apache-2.0
"""The clock of streams and parts, and iterations that repeat themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from monai.utils import set_determinism
from torch import Tensor

from dtlp_components.bench.training import RECYCLING, StreamClock, TrainingVariant, read_config
from dtlp_components.errors import InputError

CONFIG = "bundles/hippocampus_5/configs/train.json"
TINY = {"patch_size": [16, 32, 32], "features": 4, "ddim_steps": 2}


@pytest.fixture(scope="module", autouse=True)
def random_state_is_given_back() -> Iterator[None]:
    yield
    set_determinism(None)  # the bundle's `initialize`, which the command runs, sets it


@pytest.mark.slow
def test_same_losses_twice() -> None:
    losses = []
    for _ in range(2):
        variant = TrainingVariant(CONFIG, TINY)
        torch.rand(3)  # the global state does not matter
        losses.append([variant.iterate(seed=i).loss for i in range(2)])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


@pytest.mark.slow
def test_recycling_counts_by_its_probability() -> None:
    whole = TrainingVariant(CONFIG, {**TINY, "recycling": 1.0}).count()
    quarter = TrainingVariant(CONFIG, {**TINY, "recycling": 0.25}).count()
    none = TrainingVariant(CONFIG, {**TINY, "recycling": 0.0}).count()
    assert whole.streams[RECYCLING] > 0
    assert quarter.streams[RECYCLING] == 0.25 * whole.streams[RECYCLING]
    assert RECYCLING not in none.streams
    assert quarter.total == none.total + 0.25 * whole.streams[RECYCLING]


@pytest.mark.slow
def test_each_method_takes_its_own_streams() -> None:
    """Of operations: a student on labels alone has the fewest, a mean teacher two passes and a teacher's more."""
    network = {key: TINY[key] for key in ("patch_size", "features")}  # what every method reads
    methods = ("supervised", "mean_teacher")
    counts = {name: TrainingVariant(CONFIG, {**network, "method": name}).count() for name in methods}
    assert set(counts["supervised"].streams) >= {"student: labeled"}
    assert "teachers: mean teacher" in counts["mean_teacher"].streams
    # forward and backward on labels; the same with unlabeled ones beside, and the teacher's forward pass
    assert 2 < counts["mean_teacher"].total / counts["supervised"].total < 3


def test_method_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"--method: expected `dtlp` or one of and, bcp, .*, got 'meanteacher'"):
        read_config(CONFIG, {"method": "meanteacher"})


def test_key_that_the_method_does_not_read_is_refused() -> None:
    with pytest.raises(InputError, match=r"weights::kd: has no effect with method 'fixmatch'"):
        read_config(CONFIG, {"method": "fixmatch", "weights::kd": 0.0})


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
