# SPDX-License-Identifier: Apache-2.0
"""A function in several processes that know of each other, as ``torchrun`` starts them, without its seconds."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dtlp_components.processes import join_processes


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _process(rank: int, count: int, port: int, folder: Path, work: Callable[..., Any], words: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    join_processes("cpu")
    result = work(*words)
    torch.save(result, folder / f"result-{rank}.pt")
    dist.destroy_process_group()


def together(work: Callable[..., Any], *words: Any, folder: Path, count: int = 2) -> list[Any]:
    """
    What ``work(*words)`` returns in each of ``count`` processes, by rank: tensors, numbers, texts, lists and dicts.

    The processes are forks, since importing MONAI takes nine seconds.
    """
    torch.multiprocessing.start_processes(
        _process, (count, free_port(), folder, work, words), nprocs=count, start_method="fork"
    )
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(count)]
