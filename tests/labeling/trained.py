# SPDX-License-Identifier: Apache-2.0
"""A tiny training with teachers, for what comes after it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtlp_components.labeling.pool import Pool, find_pool
from tests.bundles.test_workflows import PHANTOM, run, workflow
from tests.tiny import CLASSES


@dataclass(frozen=True)
class Trained:
    """Folders of a bundle, its training and its data."""

    bundle: Path
    run: Path
    data: Path

    @classmethod
    def make(cls, folder: Path, data: Path) -> Trained:
        """Train the phantom's bundle on the tiny scans, after which it predicts something."""
        bundle = folder / "bundle"
        shutil.copytree(PHANTOM / "configs", bundle / "configs")
        for file in (bundle / "configs").glob("*.json"):
            content = json.loads(file.read_text())
            if "label_names" in content:
                content |= {"label_names": CLASSES["label_names"], "num_classes": CLASSES["num_classes"]}
                file.write_text(json.dumps(content))
        run(workflow(bundle, "train", data, folder / "run", max_iterations=30, iterations_per_epoch=30))
        return cls(bundle, folder / "run", data)

    def pool(self, **changes: str) -> Pool:
        """The scans around it."""
        places = {"dataset_dir": str(self.data), "datalist": str(self.data / "datalist.json")}
        given: dict[str, Any] = {"bundle": str(self.bundle), "output_dir": str(self.run), **places, "device": "cpu"}
        return find_pool(**{**given, **changes})
