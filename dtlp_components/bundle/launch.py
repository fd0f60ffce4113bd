# SPDX-License-Identifier: Apache-2.0
"""``torchrun`` in the place of this process: several copies of a command, of which the first speaks for all."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence

from ..errors import InputError

__all__ = ["become_torchrun", "count_processes"]


def count_processes(gpus: str | int) -> int:
    """
    How many processes ``--gpus`` asks for; without any GPU they share the CPU.

    Raises:
        InputError: if it is no number from 1, or more than the GPUs that are there.
    """
    count = int(gpus) if str(gpus).strip().isdecimal() else 0
    if count < 1:
        raise InputError(f"--gpus: expected an integer from 1, got {gpus!r}.")
    import torch  # here, since other commands start without

    there = torch.cuda.device_count()
    if there and count > there:
        raise InputError(f"--gpus: expected at most {there}, the number of GPUs here, got {count}.")
    if count > 1 and not there:
        print(f"No GPU is here: {count} processes share the CPU.", file=sys.stderr, flush=True)
    return count


def become_torchrun(count: int, words: Sequence[str]) -> None:
    """
    Print a command of ``torchrun`` on this machine and go on as that command.

    Unlike ``torchrun`` itself, it ends with what ended the processes: their exit code, or 128 and the number of the
    signal, without the launcher's own traceback below the message of the one that failed.

    Args:
        count: of processes.
        words: what follows ``python``, such as ``-m monai.bundle run …``.

    Raises:
        SystemExit: whatever the processes end with, if that is not 0.
    """
    words = ["--standalone", "--nproc_per_node", str(count), *words]
    print(f"\n$ {shlex.join(['torchrun', *words])}", flush=True)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        main(words)
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from None
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        raise SystemExit(code if code > 0 else 128 - code) from None
