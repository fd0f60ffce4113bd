# SPDX-License-Identifier: Apache-2.0
"""Endless, seeded draws from a data set: draw number ``i`` is the same in every run, also after a resume."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.utils import list_data_collate
from monai.transforms import Randomizable
from torch.utils.data import DataLoader, Dataset, Sampler

from ..processes import num_processes, rank

__all__ = ["EndlessDataLoader", "RandomDraws"]


class RandomDraws(Dataset[Any]):
    """
    Draw ``i`` of an endless sequence: a case of a shuffled order, randomly transformed.

    Random transforms keep private random states, which no checkpoint could carry. Here every draw reseeds them from
    ``(seed, i)``, so an item depends on nothing but its number: not on the worker process that makes it, and not on
    whether the run was interrupted before.

    Args:
        dataset: cases after their deterministic transforms.
        transform: random transforms.
        seed: of order and transforms.
        weights: how often each case is drawn, relative to the others; ``None`` draws every case once before any twice.

    Example:
        >>> draws = RandomDraws(["a", "b", "c"], str.upper, seed=0)
        >>> sorted(draws[i] for i in range(3))  # each once before any twice
        ['A', 'B', 'C']
        >>> draws[7] == draws[7]
        True
    """

    def __init__(
        self,
        dataset: Sequence[Any],
        transform: Callable[[Any], Any],
        seed: int = 0,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.shares = None if weights is None else np.asarray(weights, float) / np.sum(weights)

    def __getitem__(self, draw: int) -> Any:
        num_cases = len(self.dataset)
        if self.shares is None:
            order = np.random.default_rng((self.seed, draw // num_cases)).permutation(num_cases)
            case = order[draw % num_cases]
        else:
            case = np.random.default_rng((self.seed, draw, 2)).choice(num_cases, p=self.shares)
        item = self.dataset[int(case)]
        if isinstance(self.transform, Randomizable):
            seed = np.random.default_rng((self.seed, draw, 1)).integers(2**32, dtype=np.uint32)
            self.transform.set_random_state(seed=int(seed))
        return self.transform(item)

    def __len__(self) -> int:
        return len(self.dataset)


class _CountFrom(Sampler[int]):
    """
    0, 1, 2, … without an end, or from the batch that it is told; of several processes, each takes its own batches of
    the one sequence: together they draw what one would draw that takes as many batches.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.start = batch_size, 0

    def __iter__(self) -> Iterator[int]:
        for iteration in itertools.count(self.start):
            first = (iteration * num_processes() + rank()) * self.batch_size
            yield from range(first, first + self.batch_size)


def _leave_signals_to_the_main_process(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal; the main one finishes its iteration, for which it needs the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class EndlessDataLoader(DataLoader[Any]):
    """
    Batches of random draws without an end; a data set smaller than a batch is drawn from more than once.

    Args:
        dataset: cases after their deterministic transforms, at least one.
        transform: random transforms, a MONAI ``Compose``.
        batch_size: draws in a batch.
        seed: of order and transforms; labeled and unlabeled loaders may share it.
        num_workers: processes that make the draws; 0 makes them in the main process.
        weights: how often each case is drawn, relative to the others; ``None`` draws every case once before any twice.
        pin_memory: where there is CUDA, put batches where a GPU copies from; not those that lie on one already.

    Raises:
        ValueError: if there is nothing to draw from.

    Example:
        >>> loader = EndlessDataLoader([{"number": i} for i in range(3)], dict, batch_size=2)
        >>> batches = iter(loader)
        >>> [next(batches)["number"].shape for _ in range(4)]
        [torch.Size([2]), torch.Size([2]), torch.Size([2]), torch.Size([2])]
    """

    def __init__(
        self,
        dataset: Sequence[Any],
        transform: Callable[[Any], Any],
        batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = True,
        weights: Sequence[float] | None = None,
    ) -> None:
        if len(dataset) == 0 or batch_size < 1:
            raise ValueError(f"nothing to draw: {len(dataset)} cases, batch size {batch_size}.")
        if num_workers > 0 and torch.multiprocessing.get_start_method() != "fork":
            # each cached tensor would travel to each worker as an open file, of which there may be some hundred
            torch.multiprocessing.set_sharing_strategy("file_system")
        super().__init__(
            RandomDraws(dataset, transform, seed, weights),
            batch_size=batch_size,
            sampler=_CountFrom(batch_size),
            num_workers=num_workers,
            collate_fn=list_data_collate,
            pin_memory=pin_memory and torch.cuda.is_available(),
            # a generator of its own: creating an iterator must not move the global random state
            generator=torch.Generator().manual_seed(seed),
            persistent_workers=num_workers > 0,
            worker_init_fn=_leave_signals_to_the_main_process,
        )

    def start_at(self, iteration: int) -> None:
        """Let the next iterator begin with the batch of ``iteration`` (from 0)."""
        assert isinstance(self.sampler, _CountFrom)
        self.sampler.start = iteration
