# SPDX-License-Identifier: Apache-2.0
"""Everything a user gives, checked before training or evaluation starts."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ..data.datalists import section_sizes
from ..data.segmentations import LABEL_MAP_ENDING, TABLE, PredictionNames, printable, read_table
from ..errors import first_line, raise_if_any
from ..keys import DatalistKeys
from ..run_folder import settings_of_weights
from .overrides import override_problems
from .settings import TWO_VOXELS, has_two_voxels, is_number, is_whole, nearest_multiples
from .volume_cache import list_volume_problems

__all__ = ["InputChecks"]


class InputChecks:
    """
    Check everything a user gives before the first iteration, and tell all that is wrong at once.

    Meant as first entry of a bundle's ``run`` list. The constructor only stores its arguments. Calling the object
    first checks what takes no time (command line, settings, lists, whether files exist); if that is all right it reads
    every volume to its last byte. Volumes smaller than the patch are fine, they get padded. A label file of an
    unlabeled item is never opened.

    Volumes are judged as everywhere (:py:mod:`dtlp_components.data.volumes`, docs/inference.md); labels are below
    `num_classes`, and not all of them are empty.

    Args:
        labeled: items ``{"image": path, "label": path}`` to train on, or to evaluate; must not be empty.
        unlabeled: items ``{"image": path}``.
        validation: items like `labeled`.
        num_classes: number of classes, the background included.
        patch_size: sides of the patch in voxels, each a positive multiple of `divisor`.
        divisor: what the network needs the sides of a patch to be a multiple of.
        norm: of the network that is to be trained; ``instance`` needs more than two voxels at the deepest stage.
        flags: names of command line keys and their values, which must be booleans.
        positive: names of command line keys and their values, which must be positive numbers or lists of them.
        choices: names of command line keys, each with its value and the values it may have.
        arguments: ``sys.argv``. If it is a ``python -m monai.bundle run`` command, every key on it (and in its
            ``args_file``) must exist in the config file: MONAI adds a mistyped key silently.
        require_labels: whether items of `labeled` and `validation` must have a label.
        cache_file: JSON file that keeps what was read, by path, size and time of change, so that a second start
            is instant; none if None.
        section: section of the datalist that `labeled` comes from, named in messages.
        datalist: the file, whose sections are told if that one is empty.
        studies_dir: the studies of a MONAI Label server, which then gives the lists instead of `datalist`.
        model_settings: names of command line keys that must be what they were in training, and their values.
        needs_published_box: whether preprocessing crops every scan to its item's ``published_box``.
        model_file: weights in a training run's ``models/``, whose ``logs/`` tell what the settings were; without such a
            record (a deployed bundle) they are not compared.
        read_volumes: whether to look for the files and read them here; without, whoever uses them has to
            (:py:func:`scan_problems`).
        prediction_dir: folder that has to take files; it is made.
        input: what :py:func:`find_images` was given; with it, label maps of other scans in `prediction_dir` are not
            overwritten.
        device: that torch has to know and this machine to have.

    Raises:
        InputError: when called, if anything is wrong, with up to 20 problems.
    """

    def __init__(
        self,
        *,
        labeled: Sequence[Mapping[str, str]],
        unlabeled: Sequence[Mapping[str, str]] = (),
        validation: Sequence[Mapping[str, str]] = (),
        num_classes: int,
        patch_size: Sequence[int],
        divisor: int = 16,
        norm: str | None = None,
        flags: Mapping[str, Any] | None = None,
        positive: Mapping[str, Any] | None = None,
        choices: Mapping[str, tuple[Any, Sequence[Any]]] | None = None,
        arguments: Sequence[str] = (),
        require_labels: bool = True,
        cache_file: str | None = None,
        section: str = DatalistKeys.TRAINING,
        datalist: str | None = None,
        model_settings: Mapping[str, Any] | None = None,
        model_file: str | None = None,
        needs_published_box: bool = False,
        read_volumes: bool = True,
        prediction_dir: str | None = None,
        input: str | None = None,
        device: str | torch.device = "cpu",
        studies_dir: str | None = None,
    ) -> None:
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.validation = validation
        self.num_classes = num_classes
        self.patch_size = patch_size
        self.divisor = divisor
        self.norm = norm
        self.flags = flags or {}
        self.positive = positive or {}
        self.choices = choices or {}
        self.arguments = arguments
        self.require_labels = require_labels
        self.cache_file = cache_file
        self.section = str(section)
        self.datalist = datalist
        self.model_settings = model_settings or {}
        self.model_file = model_file
        self.needs_published_box = needs_published_box
        self.read_volumes = read_volumes
        self.prediction_dir = prediction_dir
        self.input = input
        self.device = device
        self.studies_dir = studies_dir

    def __call__(self) -> None:
        raise_if_any(
            [
                *override_problems(self.arguments),
                *self._setting_problems(),
                *self._model_setting_problems(),
                *self._list_problems(),
                *self._output_problems(),
                *(f"{path}: no such file." for path in self._paths() if self.read_volumes and not os.path.exists(path)),
            ]
        )
        if not self.read_volumes:
            return
        raise_if_any(self._volume_problems())

    def _setting_problems(self) -> Iterator[str]:
        for name, value in self.flags.items():
            if not isinstance(value, bool):
                yield f"--{name} is {value!r}; expected True or False with a capital letter: --{name} True"
        for name, value in self.positive.items():
            numbers = list(value) if isinstance(value, (list, tuple)) else [value]
            if not numbers or not all(is_number(n) and math.isfinite(n) and n > 0 for n in numbers):
                yield f"--{name} is {value!r}; expected {'positive numbers' if len(numbers) > 1 else 'a positive number'}."
        for name, (value, allowed) in self.choices.items():
            if value not in allowed:
                yield f"--{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}."
        try:
            torch.empty(0, device=self.device)
        except (AssertionError, RuntimeError, TypeError) as error:
            there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
            yield f"--device is {str(self.device)!r} ({first_line(error)}); this machine has {', '.join(there)}."
        if not is_whole(self.num_classes) or self.num_classes < 2:
            yield f"--num_classes is {self.num_classes!r}; expected a whole number from 2 on, the background included."
        sides = self.patch_size
        if not isinstance(sides, (list, tuple)) or len(sides) != 3 or not all(is_whole(side) for side in sides):
            yield f'--patch_size is {sides!r}; expected three whole numbers: --patch_size "[32, 48, 32]"'
        elif any(side <= 0 or side % self.divisor for side in sides):
            nearest = ", ".join(nearest_multiples(side, self.divisor) for side in sides)
            yield (
                f"--patch_size is {list(sides)}; every side must be a positive multiple of {self.divisor}. "
                f"Nearest: [{nearest}]."
            )
        elif all(side == self.divisor for side in sides):
            yield (
                f"--patch_size is {list(sides)}, which leaves one voxel at the deepest stage, too few to normalize; "
                f"expected at least one side of {2 * self.divisor} or more."
            )
        elif self.norm == "instance" and has_two_voxels(sides, self.divisor):
            expected = [2 * self.divisor if side == self.divisor else side for side in sides]
            yield f"--patch_size is {list(sides)}, which {TWO_VOXELS}; expected more, such as {expected}, or --norm group."

    def _model_setting_problems(self) -> Iterator[str]:
        if self.model_file is None:
            return
        file = settings_of_weights(self.model_file)
        if not file.is_file():
            values = ", ".join(f"{name} {value}" for name, value in self.model_settings.items())
            logging.getLogger("dtlp").info(f"{file} is not there, so that these are the configuration's: {values}.")
            return
        trained = json.loads(file.read_text(encoding="utf-8"))
        for name, value in self.model_settings.items():
            if name in trained and trained[name] != value:
                expected = f'"{trained[name]}"' if isinstance(trained[name], list) else trained[name]
                yield (
                    f"--{name} is {value!r}, but {self.model_file} was trained with {trained[name]!r} (recorded in {file}). "
                    f"Add --{name} {expected}"
                )

    def _list_problems(self) -> Iterator[str]:
        if not self.labeled and self.studies_dir is not None:
            yield (
                f"MONAI Label has no study to train on in {self.studies_dir}; expected at least one with a submitted (final) "
                "label that is not set aside for validation."
            )
        elif not self.labeled:
            sizes = {} if self.datalist is None else section_sizes(self.datalist)
            there = ", ".join(f"{name} ({count})" for name, count in sizes.items())
            found = "" if self.datalist is None else f" {self.datalist} has items in: {there or 'no section'}."
            yield f"section `{self.section}` of the datalist has no items; at least one is needed.{found}"
        if self.require_labels:
            for section, items in ((self.section, self.labeled), (str(DatalistKeys.VALIDATION), self.validation)):
                for item in items:
                    if DatalistKeys.LABEL not in item:
                        yield f"{item[DatalistKeys.IMAGE]}: has no label, but is in section `{section}`."
        if self.needs_published_box:
            for item in chain(self.labeled, self.unlabeled, self.validation):
                if DatalistKeys.PUBLISHED_BOX not in item:
                    yield (
                        f"{item[DatalistKeys.IMAGE]}: its item has no `{DatalistKeys.PUBLISHED_BOX}`, which "
                        "--preprocessing_variant published crops to. For a prepared data set, run `prepare` again; a new "
                        "scan cannot have one: --preprocessing_variant native"
                    )
        labeled, unlabeled, validation = (
            {os.path.realpath(item[DatalistKeys.IMAGE]) for item in items}
            for items in (self.labeled, self.unlabeled, self.validation)
        )
        for path in sorted(labeled & validation):
            yield f"{path}: is in `{self.section}` and in `{DatalistKeys.VALIDATION}`, which would score what was learned."
        for path in sorted(labeled & unlabeled):
            yield f"{path}: is in `{self.section}` and in `{DatalistKeys.UNLABELED}`."

    def _output_problems(self) -> Iterator[str]:
        if self.prediction_dir is None:
            return
        place = os.path.abspath(self.prediction_dir)
        try:
            os.makedirs(place, exist_ok=True)
            # also where the permissions do not tell: a full or read-only disk
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"0")
        except OSError as error:
            yield f"{place}: cannot be written to ({error.strerror}); expected a folder for the label maps."
        images = [item[DatalistKeys.IMAGE] for item in self.labeled]
        taken = {os.path.realpath(folder) for image in images for folder in (image, os.path.dirname(image))}
        if self.input is not None:
            taken.add(os.path.realpath(self.input))
        if os.path.realpath(place) in taken:
            yield f"{place}: is where the scans are, expected another folder: the next run would take label maps for scans."
        yield from self._overwriting_problems(Path(place), images)

    def _overwriting_problems(self, place: Path, images: Sequence[str]) -> Iterator[str]:
        """Label maps of other scans that an earlier run has left under the names of those that are to be written."""
        if self.input is None:
            return
        names = PredictionNames(self.input)
        scans = {names.name_of(image) + LABEL_MAP_ENDING: printable(image) for image in images}
        for row in read_table(place):
            name = os.path.basename(row["label_map"])
            if name in scans and scans[name] != row["scan"] and (place / name).is_file():
                yield (
                    f"{place / name}: is the label map of {row['scan']} (says {TABLE} there), and would be replaced by that of "
                    f"{scans[name]}; expected another --prediction_dir, or that file moved away."
                )

    def _paths(self) -> list[str]:
        """Every file to read, once, in the order of the lists."""
        with_label = chain.from_iterable(
            (item[key] for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL) if key in item)
            for item in chain(self.labeled, self.validation)
        )
        return list(dict.fromkeys([*with_label, *(item[DatalistKeys.IMAGE] for item in self.unlabeled)]))

    def _volume_problems(self) -> list[str]:
        pairs = [*self.labeled, *self.validation]
        images = [item[DatalistKeys.IMAGE] for item in self.unlabeled]
        volumes, problems = list_volume_problems(pairs, images, self.num_classes, self.cache_file)
        named = [item[DatalistKeys.LABEL] for item in self.labeled if DatalistKeys.LABEL in item]
        if named and all(path in volumes and volumes[path].maximum <= 0 for path in named):
            problems.append(f"none of the {len(named)} labels of section `{self.section}` has a voxel above 0.")
        return problems
