# SPDX-License-Identifier: Apache-2.0
"""A run's folder: where training, evaluation and inference put their files, and find each other's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import read_object
from .key_table import key_table, model_keys

__all__ = ["RunFolder", "read_record"]

LARGEST_RECORD = 2**20  # bytes; a record has some hundred


@dataclass(frozen=True)
class RunFolder:
    """
    The files of a run. Bundles spell the same places in their JSON, which a test compares with these.

    Args:
        path: ``output_dir`` of the run.
    """

    path: Path

    def __init__(self, path: str | os.PathLike) -> None:
        object.__setattr__(self, "path", Path(path))

    @classmethod
    def of_weights(cls, model_file: str | os.PathLike) -> RunFolder:
        """The run that has weights in its ``models/``."""
        return cls(Path(os.path.abspath(model_file)).parent.parent)

    @property
    def models(self) -> Path:
        """Folder with nothing but the student's weights."""
        return self.path / "models"

    @property
    def model(self) -> Path:
        """The student's weights, a plain state dict."""
        return self.models / "model.pt"

    @property
    def checkpoints(self) -> Path:
        """Folder of what is needed to resume, and of what earlier runs left."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """All that is needed to resume."""
        return self.checkpoints / "last.pt"

    @property
    def best(self) -> Path:
        """Weights of the best validation, like ``model``."""
        return self.checkpoints / "best.pt"

    @property
    def logs(self) -> Path:
        """Folder of records."""
        return self.path / "logs"

    @property
    def model_settings(self) -> Path:
        """The settings that the weights can only be used with."""
        return self.logs / "model_settings.json"

    @property
    def run_name(self) -> Path:
        """The run's name in MLflow."""
        return self.logs / "run_name.txt"

    @property
    def checked_inputs(self) -> Path:
        """What was found of the scans, so that the next start is instant."""
        return self.logs / "checked_inputs.json"

    @property
    def pseudo_labels(self) -> Path:
        """Dice and entropy of every source of pseudo-labels, a row per validation."""
        return self.logs / "pseudo_labels.csv"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's folder."""
        return self.logs / "tensorboard"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's data base."""
        return self.path / "mlruns.db"

    @property
    def evaluation(self) -> Path:
        """Folder of the tables of scores."""
        return self.path / "evaluation"

    def case_scores(self, section: str) -> Path:
        """Table with a row per case."""
        return self.evaluation / f"{section}_cases.csv"

    def summary(self, section: str, ending: str = ".json") -> Path:
        """Means over cases, as ``.json`` or ``.csv``."""
        return self.evaluation / f"{section}_summary{ending}"

    @property
    def predictions(self) -> Path:
        """Folder of the label maps."""
        return self.path / "predictions"

    @property
    def pictures(self) -> Path:
        """Folder of the pictures."""
        return self.path / "pictures"


def read_record(file: Path) -> dict[str, Any]:
    """
    Settings that a training recorded: the one function that reads them, since weights are handed around with them.

    Only names of settings that weights depend on are taken, and only values that the table of keys allows. Those are
    numbers, lists of numbers, and words of a short list, so that nothing in the file can be evaluated.

    Args:
        file: :py:attr:`RunFolder.model_settings`.

    Raises:
        InputError: if the file holds anything else.
    """
    if file.is_file() and file.stat().st_size > LARGEST_RECORD:
        raise InputError(f"{file}: expected the settings of a training, got a file of {file.stat().st_size} bytes.")
    record = read_object(file)
    known, table = model_keys(teachers=True), key_table()
    for name, value in record.items():
        if name not in known:
            raise InputError(
                f"{file}: expected settings of a training ({', '.join(known)}), got the key {name!r}; the file is damaged "
                "or was not written by a training."
            )
        if not table[name].accepts(value):
            raise InputError(f"{file}: {name}: expected {table[name].expected}, got {str(value)[:80]!r}.")
    return record
