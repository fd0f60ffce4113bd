# SPDX-License-Identifier: Apache-2.0
"""What a training recorded of its settings, taken by whoever uses its weights, and compared with what is given."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..key_table import model_keys
from ..run_folder import RunFolder, read_record

__all__ = ["TrainedSettings", "record_problems"]

LOGGER = logging.getLogger("dtlp")


class TrainedSettings:
    """
    For the keys of ``evaluate.json`` and ``inference.json`` that have to be what they were in training::

        "features": "$@trained('features', 32)"

    is what the record beside the weights says, and 32, the bundle's own, if it says nothing. A value on the command line
    takes the place of the expression; one that contradicts the record is refused by :py:class:`InputChecks`.

    Args:
        model_file: weights in a run's ``models/``.
    """

    def __init__(self, model_file: str) -> None:
        self.file = RunFolder.of_weights(model_file).model_settings

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """
        Values by key; empty without a record, as of a deployed bundle, whose configuration has them.

        Raises:
            InputError: if the record is damaged or holds anything but settings.
        """
        return read_record(self.file) if self.file.exists() else {}

    def __call__(self, name: str, configured: Any) -> Any:
        """The recorded value of a key, or ``configured`` if there is none."""
        value = self.record.get(name, configured)
        if value != configured:
            LOGGER.info(f"{name} {value}, from {self.file} (the bundle's own: {configured}).")
        return value


def record_problems(model_file: str, values: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per value that contradicts what weights were trained with; without a record, the log says so."""
    file = RunFolder.of_weights(model_file).model_settings
    if not file.exists():
        named = ", ".join(f"{name} {values[name]}" for name in model_keys() if name in values)
        LOGGER.info(f"{file} is not there, so that these are the configuration's: {named}.")
        return
    record = read_record(file)
    for name in model_keys():
        if name in record and name in values and record[name] != values[name]:
            yield _contradiction(name, values[name], record[name], model_file, file)


def _contradiction(name: str, value: Any, recorded: Any, model_file: str, file: Path) -> str:
    sentence = (
        f"--{name}: expected {recorded!r}, which {model_file} was trained with (recorded in {file}), got {value!r}."
    )
    if name == "preprocessing_variant":
        published = "published" in (recorded, value)
        verb = "Add" if recorded == "published" else "Leave out"
        return f"{sentence} {verb} the overlay published.json in --config_file." if published else sentence
    return f"{sentence} Leave it out: it is taken from there."
