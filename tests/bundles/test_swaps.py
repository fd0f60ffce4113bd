# SPDX-License-Identifier: Apache-2.0
"""The parts that docs/reference/bundles.md swaps, as they stand there, and the network that it says is refused."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from dtlp_components.errors import InputError
from tests.bundles.test_workflows import PHANTOM, losses_of, workflow

DOCS = Path("docs/reference/bundles.md").read_text(encoding="utf-8")
SECTION = DOCS.partition("## What can be swapped")[2].partition("\n## ")[0]
SWAPS = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)]


@pytest.fixture(autouse=True)
def my_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    (tmp_path / "my_parts.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_parts", None)


def test_each_kind_of_part_is_swapped_once() -> None:
    assert [list(swap) for swap in SWAPS] == [
        ["loss"], ["train::trainer::cutmix"], ["pseudo_labeler"], ["network_def::_target_"]
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("swap", SWAPS, ids=lambda swap: next(iter(swap)))
def test_swapped_part_is_the_one_that_trains(swap: dict[str, Any], tiny_dataset: Path, tmp_path: Path) -> None:
    def train(name: str, **overrides: Any) -> tuple[ConfigParser, float]:
        work = workflow(PHANTOM, "train", tiny_dataset, tmp_path / name, ramp_up=0.0, burn_in=0.0, **overrides)
        return work.parser, losses_of(work)[1]

    _, usual = train("usual")
    parser, swapped = train("swapped", **swap)
    ((id, value),) = swap.items()
    target = value if isinstance(value, str) else value["_target_"]
    part = parser.get_parsed_content(id.removesuffix("::_target_"))
    assert (part.__name__ if hasattr(part, "__name__") else type(part).__name__) == target.rpartition(".")[2]
    assert math.isfinite(swapped)
    assert swapped != usual


def test_network_of_another_kind_is_refused_before_scans_are_read(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtlp_components.checks.input_checks.list_volume_problems", lambda *_: pytest.fail("read"))
    network = {"_target_": "SwinUNETR", "in_channels": 1, "out_channels": 3, "feature_size": 12}
    work = workflow(PHANTOM, "train", tiny_dataset, tmp_path, network_def=network)
    work.initialize()
    with pytest.raises(InputError, match=r"network_def: expected .*dtlp_components.VNet.*got SwinUNETR, which lacks"):
        work.run()
    assert not (tmp_path / "models").exists()
