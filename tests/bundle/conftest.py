# SPDX-License-Identifier: Apache-2.0
"""A data set of two bundles over the base of the project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.bundle.recipes import RECIPES

HEART: dict[str, Any] = {
    "modality": "MR",
    "image": "cine MR",
    "structures": "the heart in cine MR",
    "source": "a hospital",
    "intensity": "z-score of the volume",
    "labels": ["background", "left atrium"],
    "common": {"spacing_mm": [2.0, 2.0, 2.0], "patch_size": [32, 48, 64], "prepare_hint": "prepare heart"},
    "readme": {"summary": "Segmentiert Herz größer.", "data": "Scans.", "limits": "- few", "memory": "took 1 GB"},
}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def change(path: Path, **entries: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | entries)


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """One data set with two bundles; base, data set and second bundle each set ``spacing_mm``."""
    folder = tmp_path / "recipes"
    shutil.copytree(RECIPES / "base", folder / "base")
    write_json(folder / "datasets/heart.json", HEART)
    (folder / "datasets/heart.license.txt").write_text("research use\n")
    first = {"dataset": "heart", "list": "5", "title": "Heart, 5 %", "split": "Few."}
    second = {"common": {"spacing_mm": [3.0, 3.0, 3.0]}, "train": {"amp": True}, "max_iterations": 70}
    write_json(folder / "index.json", {"heart_5": first, "heart_10": {**first, **second}})
    return folder
