# SPDX-License-Identifier: Apache-2.0
"""The one tiny bundle: numbers with which a bundle of the project trains and segments in a second."""

from __future__ import annotations

from typing import Any

# unequal sides, so that swapped axes show; the smallest patch that the network takes with instance norm
NETWORK: dict[str, Any] = {"device": "cpu", "patch_size": [16, 32, 32], "features": 4}

# the three classes of the fixture `tiny_dataset`
CLASSES: dict[str, Any] = {"num_classes": 3, "label_names": ["background", "first", "second"]}

FACTS: dict[str, Any] = {**NETWORK, **CLASSES, "spacing_mm": [1.0, 1.0, 1.0]}

TRAINING: dict[str, Any] = {
    "ddim_steps": 1,
    "max_iterations": 1,
    "iterations_per_epoch": 1,
    "val_interval": 1,
    "monitor_cases": 1,
    "log_interval": 1,
    "mlflow": False,  # its data base takes seconds to make; test_commands has a run with it
}
