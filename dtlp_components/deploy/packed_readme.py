# SPDX-License-Identifier: Apache-2.0
"""The README of a packed bundle: its commands and links as they are in the folder, and what is known of the weights."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from ..bundle.readme import COMMANDS_FROM, ORIGIN
from ..bundle.trained import TrainedBundle
from ..files import read_object
from ..tables import markdown
from .packed_config import NAME, VENDORED, names_folders

__all__ = ["packed_readme"]


def packed_readme(text: str, trained: TrainedBundle, pictures: Mapping[str, str] | None = None) -> str:
    """
    A bundle's README as it is in a packed folder, with a part on the weights under Performance.

    Args:
        text: README of the bundle, with commands from the root of the repository and links into it.
        trained: the bundle and its weights.
        pictures: new target by old one, of pictures that were copied into the folder.
    """
    hint = trained.parser("train").get("prepare_hint")
    if isinstance(hint, str) and names_folders(hint):
        text = text.replace(hint, "(by the command that created the bundle, from folders that are not part of it)")
    text = text.replace(ORIGIN, f"Packed by `pack`; `scripts/{NAME}` is a copy of the project's package.")
    text = text.replace(COMMANDS_FROM, "From this bundle's folder, the one that holds `configs`.")
    text = text.replace(f"python -m {NAME}", f"python -m {VENDORED}")
    named = re.search(r"--config_file ([^\"].*?)/configs/", text)
    # the bundle's folder, as the commands name it: as a word of a shell, and between double quotes
    for folder in dict.fromkeys([named[1], *shlex.split(named[1])]) if named else ():
        text = re.sub(rf"(?<![\w.-]){re.escape(folder)}/", "", text)
        text = re.sub(rf"(?<![\w./-]){re.escape(folder)}(?![\w./-])", ".", text)
    text = re.sub(
        r"(!?)\[([^\]]*)\]\((\.\./\.\./[^)]*)\)",  # what leads out of the bundle's folder
        lambda m: _link(m[1], m[2], m[3], pictures or {}),
        text,
    )
    head, performance, rest = text.partition("\n## Performance\n")
    section = _weights_section(trained)
    if not performance:
        return f"{head.rstrip()}\n\n{section}"
    own, heading, others = rest.partition("\n## ")
    return f"{head}{performance}{own.rstrip()}\n\n{section}{heading}{others}"


def _link(mark: str, text: str, target: str, pictures: Mapping[str, str]) -> str:
    if mark:
        return f"![{text}]({pictures[target]})" if target in pictures else ""
    return f"{text} of the project"


def _weights_section(trained: TrainedBundle) -> str:
    """What is known of the weights: their settings where the text above has others, and their scores."""
    written, changed = read_object(trained.folder / "configs" / "train.json"), trained.changed_settings
    lines = ["### The weights in this folder", ""]
    if changed:
        lines += [
            "Trained with settings that differ from those given elsewhere in this text; the configurations here use "
            "them:",
            "",
            markdown(
                [
                    ["key", "trained with", "the project's"],
                    *([f"`{name}`", json.dumps(value), json.dumps(written[name])] for name, value in changed.items()),
                ]
            ),
            "",
        ]
    scores = [
        read_object(file)
        for file in sorted(trained.run.evaluation.glob("*_summary.json"))
        if file.stat().st_mtime >= trained.weights.stat().st_mtime  # else they are of other weights
    ]
    if scores:
        lines += ["Measured with them, mean ± standard deviation over cases:", ""]
    for convention in dict.fromkeys(score["convention"] for score in scores):
        alike = [score for score in scores if score["convention"] == convention]
        units = alike[0]["units"]
        rows = [["section", "cases", *(f"{name} [{unit}]" for name, unit in units.items())]]
        rows += [[score["section"], str(score["cases"]), *(_score(score, name) for name in units)] for score in alike]
        lines += [markdown(rows), "", f"Convention {convention}", ""]
    if not scores:
        lines += ["These weights were not evaluated.", ""]
    return "\n".join(lines)


def _score(summary: Mapping[str, Any], name: str) -> str:
    mean, std = summary["mean"].get(name), summary["std"].get(name)
    return "–" if mean is None or std is None else f"{mean:.2f} ± {std:.2f}"
