# SPDX-License-Identifier: Apache-2.0
"""Several processes that train, score or segment together (``torchrun``): who is who, and what they tell each other."""

# torch.distributed and Ignite do the work. No DistributedDataParallel: it wants one forward pass before one backward
# pass of one wrapped module, and an iteration here has several of each, of parts of the network.

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor

from .errors import InputError, ask_before_telling

__all__ = [
    "average_tensors",
    "copy_from_first",
    "first_process_first",
    "gather",
    "highest",
    "is_first",
    "join_processes",
    "leave_processes",
    "my_share",
    "num_processes",
    "rank",
    "same_for_all",
]

T = TypeVar("T")

EXCHANGE_TIME = timedelta(minutes=30)  # what a message may take; a process that died ends it sooner
WAITING_TIME = timedelta(days=2)  # for what one process does alone, such as reading thousands of scans
STORE_TIME = timedelta(seconds=5)

# of launchers that start copies of a command and give each a number, without what torch wants to know
TASK_COUNTS = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec"}

_waiting: dist.ProcessGroup | None = None  # a group of its own, whose messages may take long


def rank() -> int:
    """Number of this process, from 0; 0 also where there is one alone."""
    return dist.get_rank() if _are_several() else 0


def num_processes() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _are_several() else 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return rank() == 0


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized()


def join_processes(device: str | torch.device = "cpu", environment: Mapping[str, str] = os.environ) -> None:
    """
    Join the other processes that ``torchrun`` has started; nothing happens in a process that was started alone.

    From then on the processes that are not the first keep silent, but for an error that none has told before: the first
    process to fail tells it, and ``torchrun`` ends the others.

    Args:
        device: where this process computes. NCCL carries what is on GPUs if each process has one of its own, else Gloo.
        environment: variables by name.

    Raises:
        InputError: if several tasks were started without ``torchrun``, which would all write into one folder.
    """
    if _are_several():
        return
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        _refuse_copies(environment)
        return
    if int(environment["WORLD_SIZE"]) == 1 and "TORCHELASTIC_RUN_ID" not in environment:
        return
    local_rank = int(environment.get("LOCAL_RANK", 0))
    if "SLURM_JOB_ID" in environment:
        # Ignite takes SLURM's number of the task, which is the launcher's, for the process's
        os.environ["SLURM_LOCALID"] = str(local_rank)
    backend = "gloo"
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.device_count() >= int(environment.get("LOCAL_WORLD_SIZE", 1)):
        torch.cuda.set_device(local_rank if device.index is None else device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=EXCHANGE_TIME)
    global _waiting
    _waiting = dist.new_group(backend="gloo", timeout=WAITING_TIME)
    idist.get_rank()  # Ignite finds out about the group by messages, which all have to send at the same time
    ask_before_telling(_FirstToTell(environment))
    if rank() > 0:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)


def leave_processes() -> None:
    """The end of what processes do together, if it ended well; else torch ends the group with the process."""
    if _are_several():
        dist.destroy_process_group()


def _refuse_copies(environment: Mapping[str, str]) -> None:
    for name, launcher in TASK_COUNTS.items():
        count = environment.get(name, "1")
        if count.isdecimal() and int(count) > 1:
            raise InputError(
                f"expected one copy of this command per node, which starts torchrun, got {count} started by {launcher} "
                f"({name}). Use {launcher} torchrun --nproc_per_node GPUS -m monai.bundle run … "
                "(docs/how-to/cluster.md)."
            )


class _FirstToTell:
    """True for the process that asks first, of all of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.answer: bool | None = None
        place = (environment.get("MASTER_ADDR", "127.0.0.1"), int(environment.get("MASTER_PORT", 29500)))
        # the launcher holds the store, so that it outlives every process
        self.store = dist.TCPStore(*place, is_master=False, wait_for_workers=False, timeout=STORE_TIME)
        self.name = f"told/{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}"

    def __call__(self) -> bool:
        if self.answer is None:
            try:
                self.answer = self.store.add(self.name, 1) == 1
            except RuntimeError:  # nobody is left to ask
                self.answer = True
        return self.answer


def average_tensors(tensors: Sequence[Tensor], count: int = 1) -> None:
    """
    Replace tensors, each a sum over the same number of batches, by the mean over the batches of all processes, in place
    and in one message.

    ``W`` processes then hold what one holds that sums up ``W`` batches, to the last bit where ``W`` is 2.

    Args:
        tensors: of one data type and device, the same number and shapes in every process.
        count: batches that each is a sum of.
    """
    if num_processes() * count == 1 or not tensors:
        return
    if num_processes() == 1:
        for tensor in tensors:
            tensor /= count
        return
    message = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(message)
    message /= num_processes() * count
    for tensor, part in zip(tensors, message.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Give tensors the values that they have in the first process, in place."""
    if num_processes() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def gather(item: T) -> list[T]:
    """What every process gives, in their order; in each of them."""
    if num_processes() == 1:
        return [item]
    items: list[Any] = [None] * num_processes()
    dist.all_gather_object(items, item, group=_waiting)
    return items


def highest(value: int) -> int:
    """The largest of what the processes give; cheap enough for every iteration."""
    if num_processes() == 1:
        return value
    number = torch.tensor(value)
    dist.all_reduce(number, op=dist.ReduceOp.MAX, group=_waiting)
    return int(number)


def same_for_all(make: Callable[[], T]) -> T:
    """
    What the first process makes, in every process.

    An error there ends the others as well, since the launcher does.
    """
    if num_processes() == 1:
        return make()
    box = [make() if is_first() else None]
    dist.broadcast_object_list(box, src=0, group=_waiting)
    return box[0]  # type: ignore[return-value]


@contextmanager
def first_process_first() -> Iterator[None]:
    """A block that the other processes enter when the first one has left it."""
    if not is_first():
        same_for_all(bool)
    yield
    if is_first():
        same_for_all(bool)


def my_share(items: Sized) -> range:
    """
    Numbers of the items that fall to this process: every ``W``-th, so that long lists are spread evenly.

    Fewer items than processes are not shared out: everybody has all of them, since nobody may have none.
    """
    if len(items) < num_processes():
        return range(len(items))
    return range(rank(), len(items), num_processes())
