# SPDX-License-Identifier: Apache-2.0
"""Commands that start what a bundle says: training and evaluation, as MONAI's command does; and render."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checks.trained_settings import record_of
from ..errors import InputError
from ..files import read_object
from ..run_folder import RunFolder
from .find import find_bundle
from .launch import count_processes
from .run_monai import become_monai

__all__ = ["config_word", "evaluate_bundle", "render_bundles", "take_flag", "train_bundle", "workflow_files"]

VARIANT = "preprocessing_variant"
WORKFLOWS = {"train", "multi_gpu_train", "evaluate", "inference", "metadata"}  # files that are no variants


def train_bundle(bundle: str, *words: str) -> None:
    """
    Train a bundle, with MONAI's command, which is printed.

    Every key of the bundle's train.json is a flag: --max_iterations 500 --patch_size "[64,64,48]". `dtlp keys BUNDLE`,
    and the README of the bundle, list them. --variant paper (or published) adds the bundle's file of that name,
    --method uamt (or another one of configs/methods) trains by that method instead of DTLP's. --gpus 4 trains with four
    processes, each on a GPU, whose batches make one step. --hours 8 measures a few iterations and sets max_iterations
    so that the training ends when the time is over.

    Args:
        bundle: folder of the bundle, or its name as `dtlp list` shows it.
        words: keys and values, handed on as they are.

    Raises:
        InputError: if there is no such bundle or variant.
    """
    variant, rest = take_flag(words, "variant")
    method, rest = take_flag(rest, "method")
    gpus, rest = take_flag(rest, "gpus")
    hours, rest = take_flag(rest, "hours")
    folder = find_bundle(bundle)
    files = workflow_files(folder, "train", [variant], method)
    if hours:
        rest = _with_length(hours, folder, files, rest, count_processes(gpus or 1))
    _start("training", files, rest, gpus)


def evaluate_bundle(bundle: str, *words: str) -> None:
    """
    Score a trained bundle, with MONAI's command, which is printed.

    Every key of the bundle's evaluate.json is a flag: --output_dir runs/mine --eval_section validation. What was
    trained as a variant of preprocessing is evaluated as that variant. --gpus 4 shares the scans out among four
    processes.

    Args:
        bundle: folder of the bundle, or its name as `dtlp list` shows it.
        words: keys and values, handed on as they are.

    Raises:
        InputError: if there is no such bundle or variant.
    """
    variant, rest = take_flag(words, "variant")
    gpus, rest = take_flag(rest, "gpus")
    folder = find_bundle(bundle)
    files = workflow_files(folder, "evaluate", [variant or _trained_variant(folder, rest)])
    _start("evaluating", files, rest, gpus)


def workflow_files(folder: Path, workflow: str, variants: Sequence[str] = (), method: str = "") -> list[Path]:
    """
    A bundle's file of a workflow, and those that are laid over it.

    Args:
        folder: of the bundle.
        workflow: ``train`` or ``evaluate``.
        variants: names of files in ``configs/``; an empty one is none.
        method: name of a file in ``configs/methods/``; empty or ``dtlp`` for none.

    Raises:
        InputError: if one of them is not there; says which are.
    """
    file = folder / "configs" / f"{workflow}.json"
    if not file.is_file():
        raise InputError(f"{folder.absolute()}: found no configs/{file.name}, expected the folder of a bundle.")
    overlays = [overlay for variant in variants for overlay in _overlay(folder, variant)]
    return [file, *overlays, *_overlay(folder, "" if method == "dtlp" else method, "method")]


def config_word(files: Sequence[Path]) -> str:
    """Configurations as a word of MONAI's command, which reads several as a list."""
    return str(files[0]) if len(files) == 1 else "[" + ",".join(repr(str(file)) for file in files) + "]"


def render_bundles(*names: str, output: str = "bundles", check: bool = False) -> None:
    """
    Write bundles from the recipes, or compare them.

    Args:
        names: of the bundles; all of the recipes if none is given.
        output: folder of the bundles.
        check: write nothing; print what differs, and fail if anything does.

    Raises:
        InputError: if there is no such recipe, or if anything differs.
    """
    from .render import check_bundles, write_bundles  # here, since they import MONAI, and other commands start without

    if not check:
        for path in write_bundles(names or None, output):
            print(path)
        return
    diffs = check_bundles(output, names or None)
    if diffs:
        print("\n".join(diffs))
        raise InputError(f"{len(diffs)} files differ: edit dtlp_components/recipes/, then run dtlp render")
    print(f"{output}: current")


def take_flag(words: Sequence[str], key: str) -> tuple[str, list[str]]:
    """The value that words give a key, empty if none, and the other words."""
    for i, word in enumerate(words):
        if word == f"--{key}":
            return "".join(words[i + 1 : i + 2]), [*words[:i], *words[i + 2 :]]
        if word.startswith(f"--{key}="):
            return word.partition("=")[2], [*words[:i], *words[i + 1 :]]
    return "", list(words)


def _overlay(folder: Path, name: str, kind: str = "variant") -> list[Path]:
    """The file of a bundle's variant or method; none for an empty name."""
    if not name:
        return []
    configs = folder / "configs" / ("methods" if kind == "method" else "")
    there = sorted(file.stem for file in configs.glob("*.json") if kind == "method" or file.stem not in WORKFLOWS)
    if name not in there:
        raise InputError(
            f"--{kind} {name}: found no {configs / f'{name}.json'}, expected one of: "
            f"{', '.join(there) or f'none, this bundle has no {kind}s'}."
        )
    return [configs / f"{name}.json"]


def _start(run_id: str, files: Sequence[Path], words: Sequence[str], gpus: str = "") -> None:
    """Become the command of MONAI that runs a file of the bundle, with others laid over it if there are any."""
    if _value(words, "config_file"):
        raise InputError(
            f"--config_file: expected none, since the bundle says {files[0]}; --variant NAME and --method NAME add "
            "files."
        )
    become_monai(["run", run_id, "--config_file", config_word(files), *words], count_processes(gpus or 1))


def _with_length(hours: str, folder: Path, files: Sequence[Path], words: Sequence[str], processes: int) -> list[str]:
    """The words of a training, with the number of its iterations."""
    if _value(words, "max_iterations"):
        raise InputError("--hours: expected no --max_iterations beside it, since it sets them. Leave one of them out.")
    from .time_budget import choose_length  # here, since it imports MONAI, and others start without

    config: dict[str, Any] = {}
    for file in files:
        config |= read_object(file, "a bundle's configuration")
    given, rest = {}, list(words)
    for key in ("burn_in", "iterations_per_epoch", "val_interval", "resume"):
        value, rest = take_flag(rest, key)
        given[key] = value or config[key]
    given["resume"] = str(given["resume"]) in ("True", "auto")
    kept = [
        word for key in given if (v := _value(words, key)) for word in (f"--{key}", v) if key != "iterations_per_epoch"
    ]
    output_dir, measured = take_flag(rest, "output_dir")
    run = RunFolder(output_dir or folder)
    return [*rest, *kept, *choose_length(hours, files, given, measured, run, processes)]


def _trained_variant(folder: Path, words: Sequence[str]) -> str:
    """The variant, among the bundle's, that the run which is evaluated says it was trained as; empty if none."""
    weights, output_dir = _value(words, "model_file"), _value(words, "output_dir")
    run = RunFolder.of_weights(weights) if weights else RunFolder(output_dir or folder)
    trained = str(record_of(run).get(VARIANT, ""))
    return trained if (folder / "configs" / f"{trained}.json").is_file() and trained not in WORKFLOWS else ""


def _value(words: Sequence[str], key: str) -> str:
    """Value of a key among words, the last one; empty if it is not there."""
    found = ""
    for i, word in enumerate(words):
        if word.startswith(f"--{key}="):
            found = word.partition("=")[2]
        elif word == f"--{key}":
            found = "".join(words[i + 1 : i + 2])
    return found
