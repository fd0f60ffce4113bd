# SPDX-License-Identifier: Apache-2.0
"""What a training recorded of its settings, taken by whoever uses its weights, and compared with what is given."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_object
from ..run_folder import RunFolder
from .key_table import key_table, model_keys

__all__ = ["TrainedSettings", "read_record", "record_of", "record_problems"]

LOGGER = logging.getLogger("dtlp")
LARGEST_RECORD = 2**20  # bytes; a record has some hundred


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
        raise InputError(f"{file}: expected the settings of a training run, got a file of {file.stat().st_size} bytes.")
    record = read_object(file, "the settings of a training run")
    known, table = model_keys(teachers=True), key_table()
    for name, value in record.items():
        if name not in known:
            raise InputError(
                f"{file}: expected settings of a training run ({', '.join(known)}), got the key {name!r}; the file is "
                "damaged or was not written by training."
            )
        if not table[name].accepts(value):
            raise InputError(f"{file}: {name}: expected {table[name].expected}, got {str(value)[:80]!r}.")
    return record


def record_of(run: RunFolder) -> dict[str, Any]:
    """:py:func:`read_record` of a run; empty if it has no record."""
    return read_record(run.model_settings) if run.model_settings.exists() else {}


class TrainedSettings:
    """
    For the keys of ``evaluate.json`` and ``inference.json`` that have to be what they were in training::

        "features": "$@trained('features', 32)"

    is what the record beside the weights says, and 32, the bundle's own, if it says nothing. A value on the command
    line takes the place of the expression; one that contradicts the record is refused by :py:class:`InputChecks`.

    Args:
        model_file: weights in a run's ``models/``.

    Example:
        >>> trained = TrainedSettings("nowhere/models/model.pt")
        >>> trained("features", 32)  # no record there: the bundle's own
        32
    """

    def __init__(self, model_file: str) -> None:
        self.run = RunFolder.of_weights(model_file)

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """
        Values by key; empty without a record, as of a deployed bundle, whose configuration has them.

        Raises:
            InputError: if the record is damaged or holds anything but settings.
        """
        return record_of(self.run)

    def __call__(self, name: str, configured: Any) -> Any:
        """The recorded value of a key, or ``configured`` if there is none."""
        value = self.record.get(name, configured)
        if value != configured:
            LOGGER.info(f"{name} {value}, taken from {self.run.model_settings} (the bundle's own value: {configured}).")
        return value


def record_problems(model_file: str, values: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per value that contradicts what weights were trained with; without a record, the log says so."""
    file = RunFolder.of_weights(model_file).model_settings
    if not file.exists():
        named = ", ".join(f"{name} {values[name]}" for name in model_keys() if name in values)
        LOGGER.info(f"{file} does not exist; these values come from the configuration: {named}.")
        return
    record = read_record(file)
    for name in model_keys():
        if name in record and name in values and record[name] != values[name]:
            yield _contradiction(name, values[name], record[name], model_file, file)


def _contradiction(name: str, value: Any, recorded: Any, model_file: str, file: Path) -> str:
    sentence = (
        f"--{name}: expected {recorded!r}, with which {model_file} was trained (recorded in {file}), got {value!r}."
    )
    if name == "preprocessing_variant":
        published = "published" in (recorded, value)
        verb = "Add" if recorded == "published" else "Leave out"
        return f"{sentence} {verb} the overlay published.json in --config_file." if published else sentence
    return f"{sentence} Leave the flag out: the recorded value is used."
