# SPDX-License-Identifier: Apache-2.0
"""How long a training takes on this machine: an estimate from a step of the student, measured."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ..losses.partial import PartialDiceCELoss
from ..networks.vnet import VNet
from ..tables import time_text

__all__ = ["DTLP_STEPS", "duration_sentence", "seconds_of_a_step"]

# An iteration of the default recipe, on average over a training, in steps of the student on true labels: 3.79 s beside
# 0.84 s, on the left atrium (docs/results.md)
DTLP_STEPS = 4.5
LONG = 20.0  # seconds after which one step is enough


def seconds_of_a_step(patch_size: Sequence[int], features: int, batch_size: int, num_classes: int) -> float:
    """
    Seconds of one step of the student alone, forward and backward, on the device that would train.

    Args:
        patch_size: sides in voxels.
        features: channels at full resolution.
        batch_size: labeled patches.
        num_classes: with the background.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        student = VNet(num_classes=num_classes, features=features).to(device)
        student.use_channels_last()
        loss_function = PartialDiceCELoss()
        image = torch.randn(batch_size, 1, *patch_size, device=device)
        label = torch.randint(num_classes, (batch_size, 1, *patch_size), device=device)
        seconds = 0.0
        for _ in range(3):  # the first one is slower
            began = time.monotonic()
            loss_function(student(image), label).backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.monotonic() - began
            if seconds > LONG:
                break
    return seconds


def duration_sentence(iterations: int, step: float, has_unlabeled: bool) -> str:
    """What to expect of a training of a number of iterations, where a step of the student takes ``step`` seconds."""
    each = step * (DTLP_STEPS if has_unlabeled else 1.0)
    how = f"{DTLP_STEPS:g} times a step of the student alone, which" if has_unlabeled else "a step of the student"
    return (
        f"{iterations} iterations will take about {time_text(iterations * each)} on this machine: {each:.2g} s each "
        f"({how} just took {step:.2g} s). This estimate is accurate to within a factor of two."
    )
