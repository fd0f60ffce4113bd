# SPDX-License-Identifier: Apache-2.0
"""A bundle together with weights that were trained with it, and the settings they need."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from ..checks.key_table import model_keys
from ..checks.trained_settings import record_of
from ..errors import InputError
from ..files import read_object
from ..networks.weights import load_weights
from ..run_folder import RunFolder
from .metadata import METADATA_FACTS

__all__ = ["FOLDS", "TrainedBundle", "find_trained", "fold_models"]

FOLDS = "folds.json"  # in the output folder of a cross-validation


@dataclass(frozen=True)
class TrainedBundle:
    """
    Where a trained model is.

    Args:
        folder: of the bundle.
        run: folder of the training.
        weights: the student's state dict.
        settings: values of the configuration's root keys that the weights were trained with; empty if the run has no
            record, which means those of the configuration.
    """

    folder: Path
    run: RunFolder
    weights: Path
    settings: dict[str, Any]

    @property
    def metadata_settings(self) -> dict[str, Any]:
        """What the settings say of ``metadata.json``: values by id."""
        return {id: self.settings[fact] for id, fact in METADATA_FACTS.items() if fact in self.settings}

    @property
    def changed_settings(self) -> dict[str, Any]:
        """The student's settings that differ from the bundle's own, which ``train.json`` has as they are."""
        config = read_object(self.folder / "configs" / "train.json")
        return {
            name: self.settings[name]
            for name in model_keys()
            if name in self.settings and config.get(name) != self.settings[name]
        }

    def config(self, workflow: str = "inference") -> dict[str, Any]:
        """Configuration of a workflow with the settings of the training in it, and the overlays it was trained with."""
        files = [self.folder / "configs" / f"{workflow}.json"]
        if self.settings.get("preprocessing_variant") == "published":
            files.append(self.folder / "configs" / "published.json")
        method = self.settings.get("method", "dtlp")
        if workflow == "train" and method != "dtlp":
            files.append(self.folder / "configs" / "methods" / f"{method}.json")
        for file in files[1:]:
            if not file.is_file():
                raise InputError(
                    f"{file}: no such file, but {self.weights} was trained with it. Is this the bundle that was "
                    "trained?"
                )
        config: dict[str, Any] = ConfigParser.load_config_files([str(file) for file in files])
        # the bundle's own values are literals in train.json alone; the others ask the record, which is not packed
        own = read_object(self.folder / "configs" / "train.json")
        literals = {name: own[name] for name in model_keys() if name in own and name != "preprocessing_variant"}
        return config | {name: value for name, value in (literals | self.settings).items() if name in config}

    @property
    def channels(self) -> list[str]:
        """Endings of the files of a scan's channels (:py:class:`dtlp_components.ScanReader`)."""
        return [str(ending) for ending in self.config("train").get("channels", [])]

    def parser(self, workflow: str = "inference") -> ConfigParser:
        """:py:meth:`config`, to take components from."""
        return ConfigParser(self.config(workflow))

    def load_student(self) -> nn.Module:
        """
        The student with its weights, on the CPU, in eval mode.

        Raises:
            InputError: if the weights do not fit the network.
        """
        network: nn.Module = self.parser().get_parsed_content("network_def")
        return load_weights(network, str(self.weights))


def find_trained(bundle: str, run_dir: str = "", model_file: str = "") -> TrainedBundle:
    """
    Find a bundle's files and the weights of a training.

    Args:
        bundle: folder of the bundle.
        run_dir: ``output_dir`` of the training; the bundle's folder if empty.
        model_file: weights in a run's ``models/``; those of `run_dir` if empty.

    Raises:
        InputError: if there is no such bundle, no weights, or a record that is damaged.
    """
    folder = Path(bundle)
    missing = [name for name in ("inference", "metadata") if not (folder / "configs" / f"{name}.json").is_file()]
    if missing:
        raise InputError(
            f"{folder.absolute()}: expected the folder of a bundle, got one without configs/{missing[0]}.json."
        )
    run = RunFolder.of_weights(model_file) if model_file else RunFolder(run_dir or bundle)
    weights = Path(model_file) if model_file else run.model
    if not weights.is_file():
        raise InputError(
            f"No weights at {weights.absolute()}. Train first ({shlex.join(['dtlp', 'train', str(folder)])}), or "
            "pass --run_dir, the output_dir of the training run."
        )
    return TrainedBundle(folder, run, weights, record_of(run))


def fold_models(folder: str | Path) -> list[str]:
    """
    Weights of all models of a cross-validation, in the order of the folds.

    Args:
        folder: what ``dtlp folds`` wrote into.

    Raises:
        InputError: if it is no such folder, or a fold has no weights yet.
    """
    file = Path(folder) / FOLDS
    if not file.is_file():
        raise InputError(
            f"{Path(folder).absolute()}: expected a weights file, or the output folder of dtlp folds, got a folder "
            f"without {FOLDS}."
        )
    names = read_object(file, "a file written by dtlp folds").get("folds")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file}: expected the names of the folds, got {str(names)[:80]}.")
    weights = [RunFolder(Path(folder) / Path(name).name).model for name in names]
    if missing := [str(path) for path in weights if not path.is_file()]:
        raise InputError(f"{missing[0]}: no such file; expected the weights of every fold. Let dtlp folds finish.")
    return [str(path) for path in weights]
