# SPDX-License-Identifier: Apache-2.0
"""A profile's shares belong together, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from monai.utils import set_determinism

from dtlp_components.bench import profiling
from dtlp_components.bench.profiling import FORMAT_KERNELS, busy_microseconds, main

CONFIG = "bundles/hippocampus_5/configs/train.json"


@pytest.fixture(autouse=True)
def global_state() -> Iterator[None]:
    yield
    set_determinism(None)  # the bundle's `initialize` seeds everything


def test_profile_names_what_takes_the_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(profiling, "WARM_UP", 1)
    monkeypatch.setattr(profiling, "REPEATS", 1)
    tiny = '{"patch_size": [16, 32, 32], "features": 4, "ddim_steps": 1, "device": "cpu"}'
    main(["--config_file", CONFIG, "--overrides", tiny])
    head, *table = capsys.readouterr().out.splitlines()
    assert "s an iteration" in head
    assert "busy" not in head  # of a GPU
    shares = {line.split()[-2]: float(line.split()[-1].rstrip("%")) for line in table if line.endswith("%")}
    assert any("conv" in name for name in shares)
    operations = [value for name, value in shares.items() if "::" in name]
    assert operations == sorted(operations, reverse=True)
    assert 50 < sum(operations) <= 100.5
    assert 0 < shares["copies"] < 100
    assert shares["formats"] == 0


def test_time_that_several_kernels_share_counts_once() -> None:
    assert busy_microseconds([(5.0, 7.0), (0.0, 2.0), (1.0, 4.0), (2.0, 3.0)]) == 6
    assert busy_microseconds([]) == 0


@pytest.mark.parametrize(
    "name", ["void cudnn::ops::nchwToNhwcKernel<float>", "nhwcToNchwKernel", "void transpose_readWrite_alignment"]
)
def test_kernels_that_change_the_memory_format_are_known(name: str) -> None:
    assert FORMAT_KERNELS.search(name)
    assert not FORMAT_KERNELS.search("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc")
