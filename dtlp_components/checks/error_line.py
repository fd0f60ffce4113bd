# SPDX-License-Identifier: Apache-2.0
"""An error that nobody has foreseen, in one line: what is behind it, and which key it is of."""

# MONAI runs a bundle in its own process and wraps every error of a component several times: the sentence that the
# component says stands above a hundred lines. The traceback goes into a file, for whoever wants to report it.

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch

from ..errors import PIPE_CLOSED, cause_of, first_line, is_closed_pipe, may_tell
from ..files import write_text

__all__ = ["error_line", "show_errors_in_one_line"]

RESOLVER = "_resolve_one_item"  # MONAI's function that makes a part of a configuration, whose name is in `id`
STEPS = ("run", "training", "evaluating", "initialize", "finalize")

# torch has a class of its own for its allocator alone; CUDA, cuDNN and cuBLAS say it in words
GPU_WORDS = ("CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
CPU_WORDS = "DefaultCPUAllocator: can't allocate memory"
LOADER_WORDS = (
    ") is killed by signal",
    ") exited unexpectedly",
    "unable to write to file </torch_",
    "shared memory(shm)",
)
TRAINING_WAYS = (
    "this training",
    "Try, in this order: --amp True; --gradient_checkpointing True; --batch_size_labeled 1 --batch_size_unlabeled 1 "
    "with --accumulation_steps 2; a smaller --patch_size; fewer --features.",
)
SEGMENTING_WAYS = ("a scan of this size", "Try --window_batch_size 1 or --device cpu.")


def show_errors_in_one_line(error_file: str | os.PathLike[str], trains: bool = True) -> None:
    """
    From now on, an exception that ends this process is told in one line.

    Args:
        error_file: where the traceback goes.
        trains: see :py:func:`error_line`.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            print("\nInterrupted.", file=sys.stderr)
            return
        if is_closed_pipe(error):
            raise SystemExit(PIPE_CLOSED)
        place = Path(error_file).absolute()
        try:
            if not may_tell():  # of several processes, the first to fail does
                return
            write_text(place, "".join(traceback.format_exception(error)))
            print(f"{error_line(error, trains)} The traceback is in {place}", file=sys.stderr)
        except OSError:
            sys.__excepthook__(kind, error, trace)
            print(error_line(error, trains), file=sys.stderr)

    sys.excepthook = hook


def error_line(error: BaseException, trains: bool = True) -> str:
    """
    The cause of an exception, after the key of the configuration that it was raised for, if there is one; or what to
    change if memory was short.

    Args:
        error: that nobody has foreseen.
        trains: whether it ended a training; else scans were segmented or scored.
    """
    if advice := _memory_advice(error, trains):
        return advice
    keys = [key for key in _keys(error) if key.partition("::")[0] not in STEPS]
    of_key = f"--{keys[-1]}: " if keys else ""
    return f"Cannot continue: {of_key}{cause_of(error)}."


def _memory_advice(error: BaseException, trains: bool) -> str:
    """A sentence if the memory that computes, or that of processes which load, was short; else an empty text."""
    chain: BaseException | None = error
    while chain is not None:
        text, said = str(chain), first_line(chain)
        if isinstance(chain, RuntimeError) and any(words in text for words in LOADER_WORDS):
            return (
                f"A process that loads scans was killed ({said}) because memory or shared memory ran out "
                "(/dev/shm; docker run --shm-size 8g). Use fewer --num_workers or a --cache_dir."
            )
        on_gpu = isinstance(chain, RuntimeError) and any(words in text for words in GPU_WORDS)
        if on_gpu or isinstance(chain, (torch.OutOfMemoryError, MemoryError)) or CPU_WORDS in text:
            whose = "GPU" if on_gpu or isinstance(chain, torch.OutOfMemoryError) else "computer"
            # what is too large, and what needs less
            need, ways = TRAINING_WAYS if trains else SEGMENTING_WAYS
            return f"The {whose}'s memory is too small for {need} ({said or type(chain).__name__}). {ways}"
        chain = chain.__cause__ or chain.__context__
    return ""


def _keys(error: BaseException) -> Iterator[str]:
    """Parts of the configuration that were being made, the one that failed last."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == RESOLVER:
            yield str(frame.f_locals.get("id", ""))
