# SPDX-License-Identifier: Apache-2.0
"""A run's folder: where training, evaluation and inference put their files, and find each other's."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["model_settings_file", "run_name_file", "settings_of_weights"]


def model_settings_file(output_dir: str | os.PathLike) -> Path:
    """Where a training run keeps the numbers that evaluation and inference have to share with it."""
    return Path(output_dir, "logs", "model_settings.json")


def settings_of_weights(model_file: str | os.PathLike) -> Path:
    """The :py:func:`model_settings_file` of the run that has weights in its ``models/``."""
    return model_settings_file(Path(os.path.abspath(model_file)).parent.parent)


def run_name_file(output_dir: str | os.PathLike) -> Path:
    """Where a training run keeps its name in MLflow."""
    return Path(output_dir, "logs", "run_name.txt")
