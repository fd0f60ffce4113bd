# SPDX-License-Identifier: Apache-2.0
"""What follows from the device, on a CPU and on GPUs that are pretended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dtlp_components.engines import devices
from dtlp_components.engines.devices import (
    checkpoint_minutes,
    half_precision,
    half_precision_pays,
    loading_processes,
    set_up_device,
)


@pytest.mark.parametrize(
    ("capability", "kind"),
    [
        ((7, 0), torch.float16),  # V100
        ((7, 5), torch.float16),  # T4, RTX 20xx
        ((8, 0), torch.bfloat16),  # A100
        ((8, 9), torch.bfloat16),
        ((9, 0), torch.bfloat16),  # H100
    ],
)
def test_precision_follows_the_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kind: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # which counts emulation
    assert half_precision("cuda:1") == kind
    assert half_precision("cpu") == torch.bfloat16


def test_half_precision_pays_on_a_processor_with_amx(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    assert not half_precision_pays("cpu", info)  # not Linux
    info.write_text("model name : Xeon\nflags\t\t: avx512f avx512_bf16\n\nflags\t\t: avx512f avx512_bf16\n")
    assert not half_precision_pays("cpu", info)
    info.write_text("model name : Xeon\nflags\t\t: avx512f amx_bf16 avx512_bf16 amx_tile\n")
    assert half_precision_pays(torch.device("cpu"), info)
    assert not half_precision_pays("cuda:0", info)


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (2, 1), (5, 2), (16, 8), (64, 8)])
def test_loading_processes_of_both_loaders_fit_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: cores)
    assert loading_processes("cuda") == expected
    assert loading_processes("cuda", augment_on_device=True) == 0
    assert loading_processes(torch.device("cpu")) == 0


def test_checkpoints_are_rarer_on_a_gpu() -> None:
    assert (checkpoint_minutes("cpu"), checkpoint_minutes("cuda:0")) == (0, 5)


@pytest.fixture
def switches() -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32)
    yield
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize("benchmark", [True, False])
@pytest.mark.parametrize("tf32", [True, False])
def test_switches_of_cuda(benchmark: bool, tf32: bool) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    set_up_device("cuda:0", benchmark, tf32)
    assert (cudnn.benchmark, cudnn.deterministic) == (benchmark, not benchmark)
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (tf32, tf32)
    set_up_device("cpu", not benchmark, not tf32)
    assert (cudnn.benchmark, cudnn.allow_tf32) == (benchmark, tf32)
