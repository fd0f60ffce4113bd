# SPDX-License-Identifier: Apache-2.0
"""A sequence of random numbers for every batch: apart, kept, and the same wherever the batch is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dtlp_components.engines.random_streams import RandomStreams
from tests.together import together

CPU = torch.device("cpu")


def draws(streams: RandomStreams) -> list[list[float]]:
    """Of every batch in turn."""
    numbers = []
    for batch in range(streams.count):
        with streams.use(batch):
            numbers.append(torch.rand(2).tolist())
    return numbers


def test_one_batch_draws_as_if_there_were_no_streams(seed: int) -> None:
    torch.manual_seed(7)
    expected = [torch.rand(2).tolist() for _ in range(2)]
    torch.manual_seed(7)
    streams = RandomStreams(CPU, count=1)
    streams.start()
    assert draws(streams) + draws(streams) == expected


def test_batches_draw_apart_and_the_first_as_if_alone(seed: int) -> None:
    torch.manual_seed(7)
    expected = [torch.rand(2).tolist() for _ in range(2)]
    torch.manual_seed(7)
    streams = RandomStreams(CPU, count=3)
    streams.start()
    first, second = draws(streams), draws(streams)
    assert [first[0], second[0]] == expected
    assert len({tuple(numbers) for numbers in first + second}) == 6


@pytest.mark.parametrize("count", [1, 2])
def test_states_come_back(seed: int, count: int) -> None:
    streams = RandomStreams(CPU, count)
    streams.start()
    draws(streams)
    state = streams.state_dict()
    expected = draws(streams)
    torch.rand(5)
    other = RandomStreams(CPU, count)
    other.load_state_dict(state)
    assert draws(other) == expected


def test_state_of_a_version_with_one_sequence_is_taken(seed: int) -> None:
    state = {"cpu": torch.get_rng_state(), "cuda": []}
    expected = torch.rand(2).tolist()
    streams = RandomStreams(CPU, count=1)
    streams.load_state_dict(state)
    assert draws(streams) == [expected]


def _draw_and_keep(state: dict[str, list[torch.Tensor]] | None = None) -> dict[str, object]:
    torch.manual_seed(7)
    streams = RandomStreams(CPU, count=1)
    streams.start()
    if state is not None:
        streams.load_state_dict(state)
    return {"first": draws(streams), "state": streams.state_dict(), "then": draws(streams)}


def test_two_processes_draw_what_one_draws_for_two_batches(tmp_path: Path, seed: int) -> None:
    zero, one = together(_draw_and_keep, folder=tmp_path)
    torch.manual_seed(7)
    streams = RandomStreams(CPU, count=2)
    streams.start()
    assert [*zero["first"], *one["first"]] == draws(streams)
    assert [*zero["then"], *one["then"]] == draws(streams)
    # and one goes on for both, or both for one
    streams.load_state_dict(zero["state"])
    assert [*zero["then"], *one["then"]] == draws(streams)
    streams.load_state_dict(one["state"])
    kept = streams.state_dict()
    again = together(_draw_and_keep, kept, folder=tmp_path)
    assert [*again[0]["first"], *again[1]["first"]] == draws(streams)
