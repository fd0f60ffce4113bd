# SPDX-License-Identifier: Apache-2.0
"""Configurations of a packed bundle name the package's copy, and metadata what is imported."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

from dtlp_components.deploy.packed_config import vendored

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles/phantom_10"
# names under which packages are installed, where those of their modules differ
INSTALLED_AS = {"ignite": "pytorch-ignite", "skimage": "scikit-image"}


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_targets_at_any_depth_are_rewritten_and_texts_are_not() -> None:
    config = {
        "a": [{"_target_": "dtlp_components.VNet", "note": "dtlp_components.VNet"}],
        "train::x::_target_": "dtlp_components.DualTeacher",
        "b": {"_target_": "monai.networks.nets.VNet"},
    }
    assert vendored(config) == {
        "a": [{"_target_": "scripts.dtlp_components.VNet", "note": "dtlp_components.VNet"}],
        "train::x::_target_": "scripts.dtlp_components.DualTeacher",
        "b": {"_target_": "monai.networks.nets.VNet"},
    }


def test_metadata_requires_every_package_that_is_imported() -> None:
    # the Model Zoo installs nothing else
    metadata = load(BUNDLE / "configs/metadata.json")
    required = {"monai", "torch", "numpy", *metadata["required_packages_version"]}
    imported = set()
    for file in (ROOT / "dtlp_components").rglob("*.py"):
        if file.name == "server.py":  # which a MONAI Label server imports, in its own environment
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:  # optional ones are imported in functions
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").partition(".")[0])
    others = imported - set(sys.stdlib_module_names)
    assert "tqdm" in others
    assert {INSTALLED_AS.get(name, name) for name in others} <= required
