# SPDX-License-Identifier: Apache-2.0
"""Sums over batches: of all gradients and scalars, in the order of the batches."""

from __future__ import annotations

import torch
from torch import nn

from dtlp_components.engines.batch_sums import BatchSums, scalars_of


def test_batches_begin_with_nothing_and_end_with_the_sum() -> None:
    used, unused = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.ones(3))
    sums, output = BatchSums([used, unused]), {"image": torch.zeros(1, 2), "ramp_up": 0.5}
    for factor in (1.0, 10.0):
        assert used.grad is None
        loss = factor * used.sum()
        loss.backward()
        output["loss"] = loss.detach()
        sums.take(output)
        assert set(output) == {"image", "ramp_up"}
    sums.give(output)
    assert used.grad is not None
    assert used.grad.tolist() == [11.0, 11.0]
    assert unused.grad is None
    assert (output["loss"].item(), output["ramp_up"]) == (33.0, 0.5)


def test_streams_of_a_batch_add_up_before_batches_do() -> None:
    weight = nn.Parameter(torch.tensor(1.0))
    streams = [[1e8, 1.0], [-1e8, 1.0]]  # float32 loses the 1 beside 1e8
    sums, output = BatchSums([weight]), {}  # type: tuple[BatchSums, dict[str, Any]]
    for batch in streams:
        for factor in batch:
            (factor * weight).backward()
        sums.take(output)
    sums.give(output)
    assert weight.grad is not None
    expected = (torch.tensor(1e8) + 1.0) + (torch.tensor(-1e8) + 1.0)
    assert weight.grad == expected
    assert weight.grad != ((torch.tensor(1e8) + 1.0) - 1e8) + 1.0


def test_term_that_only_some_batches_have_counts_as_nothing_in_the_others() -> None:
    sums, output = BatchSums([]), {"u": torch.tensor(2.0)}
    sums.take(output)
    output["kd"] = torch.tensor(3.0)
    sums.take(output)
    sums.give(output)
    assert {name: value.item() for name, value in scalars_of(output).items()} == {"u": 2.0, "kd": 3.0}
