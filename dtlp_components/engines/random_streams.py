# SPDX-License-Identifier: Apache-2.0
"""Random numbers of an iteration: a sequence for every batch, wherever it is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..processes import gather, rank

__all__ = ["RandomStreams"]


class _State(NamedTuple):
    """Of torch's generators, as tensors of bytes."""

    cpu: Tensor
    cuda: Tensor | None


class RandomStreams:
    """
    One sequence of torch's random numbers for each batch of an iteration, batch ``j`` of process ``r`` having number
    ``r * count + j`` of all.

    So ``W`` processes draw what one process draws that accumulates ``W`` batches, and a training may go on with fewer
    processes that accumulate more. Sequence 0 is the one that was seeded before; with one batch in one process nothing
    is changed.

    Args:
        device: whose generator is used beside the CPU's.
        count: batches that this process accumulates in an iteration.

    Example:
        >>> streams = RandomStreams(torch.device("cpu"), count=2)
        >>> streams.start()
        >>> with streams.use(1):
        ...     noise = torch.randn(3)
    """

    def __init__(self, device: torch.device, count: int) -> None:
        self.device, self.count = device, count
        self.states: list[_State] = []

    def start(self) -> None:
        """Begin all sequences from the present seed, unless those of a checkpoint have been loaded."""
        if self.states:
            return
        first, seed = rank() * self.count, torch.initial_seed()
        for number in range(first, first + self.count):
            if number > 0:
                torch.manual_seed(seed + number)
            self.states.append(self._get())
        self._set(self.states[0])

    @contextmanager
    def use(self, batch: int) -> Iterator[None]:
        """A block that draws from the sequence of one of this process's batches."""
        if self.count == 1:  # the generators hold the only one
            yield
            return
        self._set(self.states[batch])
        yield
        self.states[batch] = self._get()

    def state_dict(self) -> dict[str, Any]:
        """States of all sequences, of all processes, which all have to ask for them."""
        own = [self._get()] if self.count == 1 else self.states
        states = [state for several in gather(own) for state in several]
        return {"cpu": [s.cpu for s in states], "cuda": [s.cuda for s in states if s.cuda is not None]}

    def load_state_dict(self, state: Mapping[str, Sequence[Tensor]]) -> None:
        """Go on with the sequences of this process, among those of all."""
        first = rank() * self.count
        cpu, cuda = state["cpu"], state["cuda"]
        if isinstance(cpu, Tensor):  # of a version that had one sequence
            cpu = [cpu]
        self.states = [
            _State(cpu[i].cpu(), cuda[i].cpu() if i < len(cuda) else None) for i in range(first, first + self.count)
        ]
        self._set(self.states[0])

    def _get(self) -> _State:
        on_gpu = self.device.type == "cuda"
        return _State(torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if on_gpu else None)

    def _set(self, state: _State) -> None:
        torch.set_rng_state(state.cpu)
        if state.cuda is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state.cuda, self.device)
