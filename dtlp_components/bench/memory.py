# SPDX-License-Identifier: Apache-2.0
"""How much memory a training takes, measured (docs/reference/memory.md)."""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from ..bundle.recipes import RECIPES
from ..files import read_object
from ..own_data.memory import estimate_bytes

__all__ = ["main", "measure_bytes", "peak_bytes"]

COMMAND = "python -m dtlp_components.bench.memory"

# patch, features, volumes of each kind in a batch, classes
POINTS = (
    ((16, 16, 32), 4, 1, 2),
    ((16, 16, 32), 32, 1, 2),
    ((32, 32, 32), 8, 2, 2),
    ((32, 32, 48), 16, 2, 2),
    ((48, 48, 48), 8, 2, 8),
    ((48, 48, 48), 16, 4, 2),
    ((48, 48, 48), 32, 2, 2),
    ((48, 48, 64), 8, 2, 2),
    ((64, 64, 48), 16, 1, 2),
    ((64, 64, 48), 16, 1, 4),
    ((64, 64, 48), 16, 2, 4),
    ((80, 80, 80), 16, 2, 2),
    # the bundles
    ((32, 32, 32), 8, 2, 7),
    ((32, 48, 32), 32, 2, 3),
    ((128, 128, 32), 32, 2, 4),
    ((112, 112, 80), 32, 2, 2),
    ((128, 128, 64), 32, 2, 14),
    ((128, 128, 64), 32, 2, 16),
    ((128, 128, 128), 32, 2, 5),
)


def measure_bytes(patch_size: Sequence[int], features: int, batch_size: int, num_classes: int) -> int:
    """
    Peak memory of a process that does two training iterations on noise, on one thread, in bytes.

    The iterations are those of ``recipes/base`` with every stream switched on, on CPU in float32; it is the second one
    that has the optimizer's momentum beside its activations. They run in a process of their own, whose largest resident
    set is what is returned: interpreter and libraries are in it, scans are not.

    Raises:
        RuntimeError: if the process fails.
    """
    point = json.dumps([list(patch_size), features, batch_size, num_classes])
    command = [sys.executable, "-m", "dtlp_components.bench.memory", "--point", point]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {result.returncode}:\n{result.stderr}")
    return int(result.stdout.split()[-1])


def peak_bytes() -> int:
    """Largest resident set that this process has had, in bytes; interpreter and libraries are in it."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands the parent's peak on in ``ru_maxrss``; this one begins with the program that the process runs
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(encoding="ascii"), flags=re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _run_two_iterations(patch_size: list[int], features: int, batch_size: int, num_classes: int) -> int:
    """What the child process of :py:func:`measure_bytes` does."""
    torch.set_num_threads(1)
    base = [read_object(RECIPES / "base" / f"{name}.json") for name in ("common", "train")]
    parser = ConfigParser(base[0] | base[1])
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 1, *patch_size)
    batch = {
        "image": torch.randn(shape, generator=generator),
        "label": torch.randint(num_classes, shape, generator=generator).float(),
    }
    parser.update(
        {
            "device": "cpu",
            "patch_size": patch_size,
            "features": features,
            "num_classes": num_classes,
            "max_iterations": 2,
            "burn_in": 0.0,
            "ramp_up": 0.0,
            "recycling": 1.0,
            "weights": dict.fromkeys(base[1]["weights"], 1.0),
            "train::dataloader": [batch, batch],
            "unlabeled::dataloader": [batch, batch],
            "train::handlers": [],
        }
    )
    parser.get_parsed_content("train::trainer").run()
    return peak_bytes()


def main(args: Sequence[str] | None = None) -> None:
    """Command line: measure ``POINTS`` and compare them with the estimate."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure the memory of a training iteration.")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.point:
        print(_run_two_iterations(*json.loads(options.point)))
        return
    print("patch, features, patches, classes: measured MB, estimated MB")
    for point in POINTS:
        print(*point, f"{measure_bytes(*point) / 1e6:.0f}", f"{estimate_bytes(*point) / 1e6:.0f}", flush=True)


if __name__ == "__main__":
    main()
