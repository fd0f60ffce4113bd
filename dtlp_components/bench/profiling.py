# SPDX-License-Identifier: Apache-2.0
"""What a training iteration does with its time, by torch's profiler: operations, copies, how long a GPU is busy."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ..tables import align
from .reference import seconds_on
from .training import TrainingVariant

__all__ = ["busy_microseconds", "main", "profile_iteration"]

COMMAND = "python -m dtlp_components.bench.profiling"
WARM_UP, REPEATS, ROWS = 3, 5, 12
COPIES = ("aten::copy_", "aten::clone", "aten::contiguous", "aten::_to_copy")
# kernels with which cuDNN takes a volume to the memory format that its convolution wants
FORMAT_KERNELS = re.compile(r"nchw\w*nhwc|nhwc\w*nchw|transpose", re.IGNORECASE)


def profile_iteration(config_file: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """
    Time a bundle's training iteration, all streams on and without waiting for the device between them, and profile one.

    Args:
        config_file: the bundle's ``train.json``.
        overrides: values by key.

    Returns:
        ``seconds`` of an iteration; ``peak_bytes`` that torch had allocated, ``None`` on a CPU; ``operations``, name to
        the share of the time that the device was computing (a CPU: of all operations), the largest first; ``copies``,
        the share of copies among them, and ``format_kernels``, that of cuDNN's changes of memory format; ``busy``, the
        seconds of an iteration in which a GPU computes, ``None`` on a CPU. Where ``seconds`` is much longer, the
        processor does not hand out the work fast enough.

    Raises:
        InputError: see :py:func:`dtlp_components.bench.training.read_config`.
    """
    variant = TrainingVariant(config_file, overrides)
    device: torch.device = variant.settings["device"]
    on_gpu = device.type == "cuda"
    variant.clock.read = time.perf_counter  # which does not wait
    wait = seconds_on(device)
    for i in range(WARM_UP):
        variant.iterate(seed=i)
    began = wait()
    for i in range(REPEATS):
        variant.iterate(seed=i)
    seconds = (wait() - began) / REPEATS

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        variant.iterate(seed=0)
        wait()
    # an operation of the processor has the time of the kernels that it started
    times = {
        item.key: float(item.self_device_time_total if on_gpu else item.self_cpu_time_total)
        for item in profiler.key_averages()
        if item.device_type == DeviceType.CPU and item.key.startswith(("aten::", "_", "autograd::"))
    }
    total = max(sum(times.values()), 1e-9)
    kernels = [event for event in profiler.events() or [] if event.device_type == DeviceType.CUDA]
    changes = sum(event.time_range.elapsed_us() for event in kernels if FORMAT_KERNELS.search(event.name))
    busy = busy_microseconds((event.time_range.start, event.time_range.end) for event in kernels)
    largest = sorted(times.items(), key=lambda item: -item[1])[:ROWS]
    return {
        "seconds": seconds,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
        "operations": {name: value / total for name, value in largest},
        "copies": sum(times.get(name, 0.0) for name in COPIES) / total,
        "format_kernels": changes / total,
        "busy": busy / 1e6 if on_gpu else None,
    }


def busy_microseconds(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans of time, from start to end."""
    busy, last = 0.0, float("-inf")
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    return busy


def main(args: Sequence[str] | None = None) -> None:
    """Command line: profile a bundle's iteration and print what it found."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Profile a training iteration.")
    parser.add_argument("--config_file", required=True, help="a bundle's train.json")
    parser.add_argument("--overrides", type=json.loads, default={}, help="keys and values, such as '{\"amp\": true}'")
    options = parser.parse_args(args)
    found = profile_iteration(options.config_file, options.overrides)
    memory = "" if found["peak_bytes"] is None else f", {found['peak_bytes'] / 1e6:.0f} MB"
    busy = "" if found["busy"] is None else f", in {found['busy']:.4f} s of it the GPU is busy"
    print(f"{options.config_file} {options.overrides}: {found['seconds']:.4f} s an iteration{memory}{busy}")
    rows = [["operation", "share"], *([name, f"{share:.1%}"] for name, share in found["operations"].items())]
    print(align([*rows, ["all copies", f"{found['copies']:.1%}"], ["formats", f"{found['format_kernels']:.1%}"]]))


if __name__ == "__main__":
    main()
