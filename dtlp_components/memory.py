# SPDX-License-Identifier: Apache-2.0
"""How much memory a training takes: an estimate, and the measurement it was fitted to (docs/memory.md)."""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from .errors import InputError
from .make_bundle import RECIPES

__all__ = ["estimate_bytes", "main", "measure_bytes", "parse_memory", "peak_bytes"]

COMMAND = "python -m dtlp_components.memory"
UNITS = {"MB": 10**6, "GB": 10**9}

# fitted to POINTS so that the largest relative error is smallest; docs/memory.md has the numbers
PROCESS = 700e6  # interpreter, torch, MONAI
PER_SQUARED_FEATURE = 1.12e6  # weights of all networks, their gradients and momentum
PER_FEATURE_VOXEL = 172.0  # what a convolution needs for one volume of the batch after the other
PER_FEATURE_VOXEL_OF_BATCH = 85.5  # what a stream keeps for its backward pass
PER_CLASS_VOXEL_OF_BATCH = 52.0  # logits, probabilities, noised label maps
MARGIN = 1.09  # no measured point is further above the fit

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


def parse_memory(text: str) -> int:
    """
    Bytes of a text like ``8GB`` (10^9 bytes each) or ``800MB``.

    Raises:
        InputError: if it is no positive number with one of these units.
    """
    number, unit = text.strip()[:-2].strip(), text.strip()[-2:].upper()
    try:
        size = float(number)
    except ValueError:
        size = math.nan
    if unit not in UNITS or not math.isfinite(size) or size <= 0:
        raise InputError(f"--memory: found {text!r}, wanted a number with its unit, such as 8GB or 800MB.")
    return int(size * UNITS[unit])


def estimate_bytes(patch_size: Sequence[int], features: int, batch_size: int, num_classes: int) -> int:
    """
    Peak memory of a training, without scans kept in memory::

        1.09 * (P + a F^2 + max(b, c B) F V + d B C V)

    with ``F`` features, ``V`` voxels of a patch, ``B`` patches of each kind in a batch and ``C`` classes.

    Args:
        patch_size: sides in voxels.
        features: channels at full resolution.
        batch_size: patches, the larger of the labelled and the unlabelled batch.
        num_classes: with the background.

    Returns:
        Bytes, on CPU in float32; what a GPU takes is not measured.
    """
    voxels = math.prod(patch_size)
    fitted = (
        PROCESS
        + PER_SQUARED_FEATURE * features**2
        + max(PER_FEATURE_VOXEL, PER_FEATURE_VOXEL_OF_BATCH * batch_size) * features * voxels
        + PER_CLASS_VOXEL_OF_BATCH * batch_size * num_classes * voxels
    )
    return int(MARGIN * fitted)


def measure_bytes(patch_size: Sequence[int], features: int, batch_size: int, num_classes: int) -> int:
    """
    Peak memory of a process that does two training iterations on noise, on one thread, in bytes.

    The iterations are those of ``recipes/base`` with every stream switched on, on CPU in float32; it is the second one
    that has the optimiser's momentum beside its activations. They run in a process of their own, whose largest resident
    set is what is returned: interpreter and libraries are in it, scans are not.

    Raises:
        RuntimeError: if the process fails.
    """
    point = json.dumps([list(patch_size), features, batch_size, num_classes])
    command = [sys.executable, "-m", "dtlp_components.memory", "--point", point]
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
    base = [json.loads((RECIPES / "base" / f"{name}.json").read_text(encoding="utf-8")) for name in ("common", "train")]
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
            "ramp_up": 0.0,
            "recycling": 1.0,
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
