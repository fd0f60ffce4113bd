# SPDX-License-Identifier: Apache-2.0
"""The README of a packed bundle speaks of its own folder and of its weights."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from dtlp_components.bundle.trained import find_trained
from dtlp_components.deploy.packed_readme import packed_readme

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles/phantom_10"


def test_readme_of_a_packed_bundle_speaks_of_its_own_folder(run: Path) -> None:
    text = (BUNDLE / "docs/README.md").read_text(encoding="utf-8")
    readme = packed_readme(text, find_trained(str(BUNDLE), str(run)), {"../../../docs/images/demo.png": "demo.png"})
    assert "../../.." not in readme
    assert "bundles/phantom_10" not in readme
    assert "repository" not in readme
    assert "python -m scripts.dtlp_components phantom" in readme
    assert "](demo.png)" in readme
    assert "--config_file configs/inference.json" in readme
    assert "$PWD/mlruns.db" in readme
    assert "| `features` | 2 | 8 |" in readme  # as trained, and as in the project
    assert "| testing | 8 | 61.26 ± 2.50 | – |" in readme
    assert readme.index("### The weights in this folder") < readme.index("## MONAI Bundle Commands")


def test_scores_older_than_the_weights_are_not_theirs(run: Path) -> None:
    summary = run / "evaluation/testing_native_summary.json"
    before = summary.stat()
    os.utime(summary, (0, 0))
    try:
        readme = packed_readme("# Title\n", find_trained(str(BUNDLE), str(run)))
    finally:
        os.utime(summary, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "These weights were not evaluated." in readme


def test_readme_of_a_folder_with_spaces_and_an_apostrophe_speaks_of_its_own_folder_too(run: Path) -> None:
    text = (BUNDLE / "docs/README.md").read_text(encoding="utf-8")
    text = text.replace("\"['bundles/phantom_10", "\"['it's a/b").replace("$PWD/bundles/phantom_10", "$PWD/it's a/b")
    text = text.replace("bundles/phantom_10", shlex.quote("it's a/b"))
    readme = packed_readme(text, find_trained(str(BUNDLE), str(run)))
    assert "it'" not in readme
    assert "--config_file configs/inference.json" in readme
    assert "$PWD/mlruns.db" in readme
