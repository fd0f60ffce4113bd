# SPDX-License-Identifier: Apache-2.0
"""``dtlp label-app``: a MONAI Label app of trained bundles."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path

import torch

from ..bundle.find import find_bundle
from ..bundle.format_json import format_json
from ..bundle.trained import TrainedBundle, find_trained
from ..errors import InputError
from ..files import read_object, write_json, write_text
from ..run_folder import RunFolder

__all__ = ["write_label_app"]

MAIN = '''# SPDX-License-Identifier: Apache-2.0
"""MONAI Label starts the class that it finds here, one whose direct base is its own `MONAILabelApp`."""

from dtlp_components.labeling.server import DTLPApp  # noqa: F401
'''


def write_label_app(output: str, *bundles: str) -> Path:
    """
    Write a MONAI Label app: bundles with a choice of the next study to label, scores, and proposals to correct.

    The server needs this package in its environment (docs/how-to/monai-label.md). An untrained bundle starts with
    random weights, so the first labels have to be drawn by hand.

    Args:
        output: folder of the app; it must not exist yet.
        bundles: folders or names of bundles; if the training run is elsewhere, NAME=OUTPUT_DIR.

    Returns:
        Folder of the app.

    Raises:
        InputError: if the folder exists, or there is no such bundle or training.
    """
    folder = Path(output)
    if folder.exists():
        raise InputError(f"{folder.absolute()}: already exists; expected a new folder for the app.")
    if not bundles:
        raise InputError("dtlp label-app: expected at least one bundle after the folder, got none.")
    found = [(find_bundle(name), run) for name, _, run in (word.partition("=") for word in bundles)]
    names = [bundle.name for bundle, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{twice[0]}: expected every bundle only once, got it several times.")
    for bundle, _ in found:
        if (count := read_object(bundle / "configs" / "train.json", "a configuration").get("in_channels", 1)) != 1:
            raise InputError(
                f"{bundle.name}: expected a bundle with one channel, because MONAI Label shows and sends single "
                f"volumes, got {count} channels. Use `dtlp segment` instead."
            )
    trained = [_trained(bundle, run) for bundle, run in found]

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        write_text(staging / "main.py", MAIN)
        for (bundle, _), training in zip(found, trained, strict=True):
            _write_bundle(bundle, training, staging / "model" / bundle.name)
        staging.chmod(0o755)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(f"{folder.absolute()}: {', '.join(names)}")
    for (bundle, _), training in zip(found, trained, strict=True):
        if training is None:
            print(f"{bundle.name}: no trained weights found, so it starts with random weights.")
        elif not training.run.last.is_file():
            print(
                f"{bundle.name}: {training.run.last} does not exist; the strategies disagreement and mixed become "
                "available after the first training here."
            )
    command = ["monailabel", "start_server", "--app", str(folder), "--studies", "STUDIES_OR_DICOMWEB"]
    print(f"Start: {shlex.join([*command, '--host', '127.0.0.1'])}")
    return folder


def _trained(bundle: Path, run: str) -> TrainedBundle | None:
    """The training to begin with; ``None`` if none is named and the bundle has none of its own."""
    if not run and not RunFolder(bundle).model.is_file():
        return None
    return find_trained(str(bundle), run)


def _write_bundle(bundle: Path, trained: TrainedBundle | None, target: Path) -> None:
    """A copy of a bundle with the settings, weights and teachers of a training in it."""
    shutil.copytree(bundle / "configs", target / "configs")
    if (bundle / "docs").is_dir():
        shutil.copytree(bundle / "docs", target / "docs")
    if (bundle / "LICENSE").is_file():
        shutil.copy(bundle / "LICENSE", target / "LICENSE")
    run = RunFolder(target)
    run.models.mkdir(parents=True)
    if trained is None:
        torch.manual_seed(0)
        untrained = TrainedBundle(bundle, RunFolder(bundle), RunFolder(bundle).model, {})
        network = untrained.parser().get_parsed_content("network_def")
        torch.save(network.state_dict(), run.model)
        return
    # the server gives a workflow no flags: what was trained with others has to stand in the files
    for workflow in ("inference", "train"):
        write_text(target / "configs" / f"{workflow}.json", format_json(trained.config(workflow)) + "\n")
    shutil.copy(trained.weights, run.model)
    run.logs.mkdir()
    write_json(run.model_settings, trained.settings)
    if trained.run.last.is_file():
        run.checkpoints.mkdir()
        shutil.copy(trained.run.last, run.last)
    for file in (trained.run.calibration, trained.run.record):
        if file.is_file():
            shutil.copy(file, run.logs / file.name)
