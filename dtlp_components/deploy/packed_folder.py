# SPDX-License-Identifier: Apache-2.0
"""The files of a packed bundle: what is copied, what is written anew, and what must not be named in them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ..bundle.format_json import format_json
from ..bundle.trained import TrainedBundle
from ..files import read_json, write_json, write_text
from ..metrics.calibration import load_calibration
from ..run_folder import RunFolder
from .packed_config import NAME, vendored
from .packed_readme import packed_readme
from .path_leaks import deep_paths

__all__ = ["COPIED", "files_of", "text_problems", "write_folder"]

PACKAGE = Path(__file__).parents[1]
COPIED = ("LICENSE", "configs/logging.conf", "docs/data_license.txt")
PICTURES = (".png", ".jpg", ".jpeg", ".svg")


def write_folder(trained: TrainedBundle, folder: Path, configs: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """
    Write everything that a packed folder holds but its checksums.

    Args:
        trained: the bundle and its weights.
        folder: to write to.
        configs: packed, by workflow.
        metadata: packed.
    """
    for path in COPIED:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained.folder / path, folder / path)
    for name, content in {**configs, "metadata": metadata}.items():
        write_text(folder / f"configs/{name}.json", format_json(content) + "\n")
    readme = (trained.folder / "docs/README.md").read_text(encoding="utf-8")
    write_text(
        folder / "docs/README.md", packed_readme(readme, trained, _copy_pictures(readme, trained.folder, folder))
    )
    run = RunFolder(folder)
    run.models.mkdir()
    shutil.copyfile(trained.weights, run.model)
    if calibration := load_calibration(str(trained.weights)):
        write_json(run.calibration, calibration.content())
    copy = folder / "scripts" / NAME
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    write_text(folder / "scripts/__init__.py", "# SPDX-License-Identifier: Apache-2.0\n")
    for recipe in copy.rglob("*.json"):  # so that `new` makes bundles that run from this folder
        before = read_json(recipe, "a recipe, part of this package")
        after = vendored(deepcopy(before))
        if after != before:
            write_text(recipe, format_json(after) + "\n")


def _copy_pictures(readme: str, bundle: Path, folder: Path) -> dict[str, str]:
    """Copy pictures that a README shows and that lie outside of its bundle into ``docs/``; new target by old one."""
    pictures = {}
    for target in re.findall(r"!\[[^\]]*\]\((\.\./\.\./[^)]*)\)", readme):
        picture = bundle / "docs" / target
        if picture.suffix in PICTURES and picture.is_file():
            shutil.copyfile(picture, folder / "docs" / picture.name)
            pictures[target] = picture.name
    return pictures


def text_problems(folder: Path) -> list[str]:
    """
    Absolute paths in the texts of a packed folder; the package's copy is as it was, the configurations were checked.
    """
    problems = []
    for name, file in files_of(folder).items():
        if name.startswith(("scripts/", "models/")) or (name.startswith("configs/") and name.endswith(".json")):
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        problems += [
            f"{name} in the packed folder contains {path}, a path on this machine." for path in deep_paths(text)
        ]
    return problems


def files_of(folder: Path) -> dict[str, Path]:
    """Files of a folder by relative path, sorted; compiled Python, which appears by itself, is left out."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(folder).as_posix(): file for file in files}
