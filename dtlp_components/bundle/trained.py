# SPDX-License-Identifier: Apache-2.0
"""A bundle together with weights that were trained with it, and the settings they need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from ..errors import InputError
from ..files import read_object
from ..networks.weights import load_weights
from ..run_folder import model_settings_file
from .render import METADATA_FACTS

__all__ = ["TrainedBundle", "find_trained"]


@dataclass(frozen=True)
class TrainedBundle:
    """
    Where a trained model is.

    Args:
        folder: of the bundle.
        run: ``output_dir`` of the training.
        weights: the student's state dict.
        settings: values of the configuration's root keys that the weights were trained with; empty if the run has no
            record, which means those of the configuration.
    """

    folder: Path
    run: Path
    weights: Path
    settings: dict[str, Any]

    @property
    def metadata_settings(self) -> dict[str, Any]:
        """What the settings say of ``metadata.json``: values by id."""
        return {id: self.settings[fact] for id, fact in METADATA_FACTS.items() if fact in self.settings}

    @property
    def changed_settings(self) -> dict[str, Any]:
        """The settings that differ from the configuration's."""
        config = read_object(self.folder / "configs" / "inference.json")
        return {name: value for name, value in self.settings.items() if config.get(name) != value}

    def parser(self, workflow: str = "inference") -> ConfigParser:
        """Configuration of a workflow with the settings of the training in it."""
        config = read_object(self.folder / "configs" / f"{workflow}.json")
        unknown = sorted(set(self.settings) - set(config))
        if unknown:
            raise InputError(
                f"{model_settings_file(self.run)}: trained with {unknown}, which {self.folder}/configs/{workflow}.json "
                "does not have; is this the bundle that was trained?"
            )
        return ConfigParser(config | self.settings)

    def load_student(self) -> nn.Module:
        """
        The student with its weights, on the CPU, in eval mode.

        Raises:
            InputError: if the weights do not fit the network.
        """
        network: nn.Module = self.parser().get_parsed_content("network_def")
        return load_weights(network, str(self.weights))


def find_trained(bundle: str, run_dir: str = "") -> TrainedBundle:
    """
    Find a bundle's files and the weights of a training.

    Args:
        bundle: folder of the bundle.
        run_dir: ``output_dir`` of the training; the bundle's folder if empty.

    Raises:
        InputError: if there is no such bundle, or no weights.
    """
    folder, run = Path(bundle), Path(run_dir or bundle)
    missing = [name for name in ("inference", "metadata") if not (folder / "configs" / f"{name}.json").is_file()]
    if missing:
        raise InputError(f"{folder.absolute()}: no bundle, since configs/{missing[0]}.json is not in it.")
    weights = run / "models" / "model.pt"
    if not weights.is_file():
        raise InputError(
            f"No weights at {weights.absolute()}. Train first (python -m monai.bundle run training --config_file "
            f"{folder}/configs/train.json), or give --run_dir, the output_dir of the training."
        )
    record = model_settings_file(run)
    return TrainedBundle(folder, run, weights, read_object(record) if record.is_file() else {})
