# SPDX-License-Identifier: Apache-2.0
"""What follows from the device that trains: precision, loading processes, cuDNN and TF32."""

from __future__ import annotations

from pathlib import Path

import torch

from ..data.resources import usable_cores

__all__ = ["checkpoint_minutes", "half_precision", "half_precision_pays", "loading_processes", "set_up_device"]

BFLOAT16_SINCE = (8, 0)  # compute capability: Ampere
MOST_LOADERS = 8


def half_precision(device: str | torch.device) -> torch.dtype:
    """
    The type that ``amp`` computes in: bfloat16 where the device has it, else float16, which needs a scaler.

    Not ``torch.cuda.is_bf16_supported()``, which is true where bfloat16 is emulated (V100, T4, RTX 20xx), slowly.
    """
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < BFLOAT16_SINCE:
        return torch.float16
    return torch.bfloat16


def half_precision_pays(device: str | torch.device, cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """
    Whether ``amp`` saves time: on a CPU with AMX. On others it costs time, and on the one GPU that was tried it saved
    memory alone (docs/reference/performance.md).

    Args:
        device: that trains.
        cpu_info: what Linux says of the processor; without it, there is no AMX.
    """
    if torch.device(device).type != "cpu":
        return False
    try:
        return "amx_bf16" in cpu_info.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False


def loading_processes(device: str | torch.device, augment_on_device: bool = False) -> int:
    """
    Processes that load and augment for each of the two loaders, of labeled and of unlabeled scans: none on a CPU, whose
    cores all train; on a GPU, where an iteration takes less time than its draws, half of the cores that the process may
    use, 8 at most. None where the device augments: a process that was forked cannot use the GPU.
    """
    if torch.device(device).type != "cuda" or augment_on_device:
        return 0
    return min(MOST_LOADERS, usable_cores() // 2)


def checkpoint_minutes(device: str | torch.device) -> float:
    """Minutes that ``last.pt`` may be old: on a GPU, where an epoch takes seconds, five; on a CPU none."""
    return 5.0 if torch.device(device).type == "cuda" else 0.0


def set_up_device(device: str | torch.device, cudnn_benchmark: bool, tf32: bool) -> None:
    """
    Choose how CUDA computes; nothing happens on another device. Call it after MONAI's ``set_determinism``, which turns
    both of cuDNN's switches to what repeats.

    Args:
        device: that trains.
        cudnn_benchmark: let cuDNN try its algorithms and take the fastest, so that runs repeat to rounding alone.
        tf32: let products of float32 matrices and convolutions round to TF32 (Ampere and later).
    """
    if torch.device(device).type != "cuda":
        return
    torch.backends.cudnn.benchmark = cudnn_benchmark
    torch.backends.cudnn.deterministic = not cudnn_benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
