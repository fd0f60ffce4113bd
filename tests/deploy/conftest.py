# SPDX-License-Identifier: Apache-2.0
"""What a training leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dtlp_components.networks.vnet import VNet

SETTINGS = {"num_classes": 7, "features": 2, "spacing_mm": [1.0, 1.0, 1.0], "patch_size": [16, 32, 48]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training leaves: random weights of a tiny student, their settings, and scores."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network = VNet(num_classes=SETTINGS["num_classes"], features=SETTINGS["features"])
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models/model.pt")
    (folder / "logs").mkdir()
    (folder / "logs/model_settings.json").write_text(json.dumps(SETTINGS))
    (folder / "evaluation").mkdir()
    scores = {"section": "testing", "convention": "native: mm", "units": {"dice": "%", "asd": "mm"}, "cases": 8}
    scores |= {"mean": {"dice": 61.256, "asd": None}, "std": {"dice": 2.5, "asd": None}}
    (folder / "evaluation/testing_native_summary.json").write_text(json.dumps(scores))
    return folder
