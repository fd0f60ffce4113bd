# SPDX-License-Identifier: Apache-2.0
"""A scan that fails leaves a sentence, and the next one is segmented."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor

from dtlp_components.engines.scan_evaluator import ScanEvaluator
from dtlp_components.errors import InputError
from dtlp_components.keys import ScanEvents


def image(name: str) -> dict[str, Any]:
    return {"image": MetaTensor(torch.zeros(1, 4, 5, 6), meta={"filename_or_obj": f"/scans/{name}.nii"})}


def outputs(segmenter: Any, items: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """What every scan leaves, and what was told of the windows."""
    found: list[dict[str, Any]] = []
    windows: list[tuple[int, int]] = []
    network = torch.nn.Identity()
    evaluator = ScanEvaluator(
        segmenter=segmenter, device=torch.device("cpu"), val_data_loader=[[item] for item in items], network=network
    )
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: found.extend(engine.state.output))
    evaluator.add_event_handler(ScanEvents.WINDOWS_COMPLETED, lambda engine: windows.append(engine.state.windows))
    network.train()
    evaluator.run()
    return found, windows


@pytest.mark.parametrize("error", [RuntimeError("no memory"), InputError("no memory")], ids=["error", "refusal"])
def test_scan_that_fails_is_a_sentence_and_the_next_is_segmented(error: BaseException) -> None:
    def segmenter(volume: MetaTensor, network: torch.nn.Module, device: torch.device, progress: Any) -> dict[str, Any]:
        assert not network.training
        progress(3, 8)
        if "bad" in volume.meta["filename_or_obj"]:
            raise error
        return {"pred": volume}

    unread = {"image": "/scans/unread.nii", "problem": "/scans/unread.nii: cannot be read."}
    (first, second, third), windows = outputs(segmenter, [image("bad"), unread, image("good")])
    assert first["problem"].startswith("/scans/bad.nii: cannot be predicted (")
    assert "no memory" in first["problem"]
    assert "pred" not in first
    assert second == unread
    assert third["image"] == "/scans/good.nii"
    assert third["pred"].shape == (1, 4, 5, 6)
    assert "problem" not in third
    assert windows == [(3, 8), (3, 8)]  # of the two that could be read


def test_scan_that_is_too_large_for_a_gpu_is_named_with_the_way_out() -> None:
    def segmenter(*words: Any) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    ((found,), _) = outputs(segmenter, [image("large")])
    assert found["problem"] == (
        "/scans/large.nii: cannot be predicted (OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB). "
        "--window_batch_size 1 or --device cpu need less of the GPU's memory."
    )
