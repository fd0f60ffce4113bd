# SPDX-License-Identifier: Apache-2.0
"""Everything a user gives, checked before training or evaluation starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from ..data.channel_files import channel_files
from ..errors import raise_if_any
from ..keys import DatalistKeys
from ..processes import same_for_all
from .lists import (
    box_problems,
    channel_name_problems,
    copy_problems,
    empty_problem,
    label_item_problems,
    overlap_problems,
    patient_problems,
    repeated_problems,
    section_warnings,
)
from .outputs import output_problems, run_folder_problems
from .scan_files import list_volume_problems
from .settings import Settings
from .trained_settings import record_problems

__all__ = ["InputChecks"]

LOGGER = logging.getLogger("dtlp")


class InputChecks:
    """
    Check everything a user gives before the first iteration, and tell all that is wrong at once.

    Meant as first entry of a bundle's ``run`` list. The constructor only stores its arguments. Calling the object
    first checks what takes no time (command line, settings, lists, whether files exist); if that is all right it reads
    every volume to its last byte. Volumes smaller than the patch are fine, they get padded. A label file of an
    unlabeled item is never opened. What can be used is said in :py:mod:`dtlp_components.data.volumes`.

    Args:
        labeled: items ``{"image": path, "label": path}`` to train on, or to evaluate; must not be empty.
        settings: values of the keys.
        network: what is trained; the configuration makes it for this argument, so that a network that its parts refuse
            is told of before the scans are read.
        parts: what else the configuration makes, for the same reason.
        unlabeled: items ``{"image": path}``.
        validation: items like `labeled`.
        require_labels: whether items of `labeled` and `validation` must have a label.
        cache_file: JSON file that keeps what was read, by path, size and time of change, so that a second start
            is instant; none if None.
        checked_before: another such file, which is only read: `new` writes it into the bundle.
        section: section of the datalist that `labeled` comes from, named in messages.
        datalist: the file, whose sections are told if that one is empty.
        studies_dir: the studies of a MONAI Label server, which then gives the lists instead of `datalist`.
        needs_published_box: whether preprocessing crops every scan to its item's ``published_box``.
        model_file: weights in a training run's ``models/``, whose ``logs/`` tell what the settings were; without such a
            record (a deployed bundle) they are not compared.
        read_volumes: whether to look for the files and read them here; without, whoever uses them has to
            (:py:func:`dtlp_components.scan_problems`).
        prediction_dir: folder that has to take files; it is made.
        output_dir: folder of a training, which has to take its files and no other training may be using.
        input: what :py:func:`dtlp_components.find_images` was given; with it, label maps of other scans in
            `prediction_dir` are not overwritten.

    Raises:
        InputError: when called, if anything is wrong, with up to 20 problems.

    Example:
        >>> check = InputChecks(labeled=[{"image": "scan.nii.gz"}], settings=Settings({"patch_size": [32, 32, 30]}))
        >>> try:
        ...     check()
        ... except InputError as error:
        ...     print(error)
        Cannot start, 2 problems found:
          - --patch_size: expected multiples of 16, got [32, 32, 30]; nearest: [32, 32, 16 or 32].
          - scan.nii.gz: expected a label, since it is in section `training`, got none.
    """

    def __init__(
        self,
        *,
        labeled: Sequence[Mapping[str, str]],
        settings: Settings,
        network: object = None,
        parts: Sequence[object] = (),
        unlabeled: Sequence[Mapping[str, str]] = (),
        validation: Sequence[Mapping[str, str]] = (),
        require_labels: bool = True,
        cache_file: str | None = None,
        checked_before: str | None = None,
        section: str = DatalistKeys.TRAINING,
        datalist: str | None = None,
        studies_dir: str | None = None,
        needs_published_box: bool = False,
        model_file: str | None = None,
        read_volumes: bool = True,
        prediction_dir: str | None = None,
        output_dir: str | None = None,
        input: str | None = None,
    ) -> None:
        self.labeled, self.unlabeled, self.validation = labeled, unlabeled, validation
        self.settings, self.network, self.parts = settings, network, parts
        self.require_labels, self.needs_published_box, self.read_volumes = (
            require_labels,
            needs_published_box,
            read_volumes,
        )
        self.cache_file, self.datalist, self.studies_dir = cache_file, datalist, studies_dir
        self.checked_before = checked_before
        self.section = str(section)
        self.model_file = model_file
        self.prediction_dir, self.input, self.output_dir = prediction_dir, input, output_dir

    @property
    def channels(self) -> list[str]:
        """Endings of the files of the channels."""
        return list(self.settings.values.get("channels", []))

    def __call__(self) -> None:
        # of several processes, the first one looks
        raise_if_any(same_for_all(lambda: [*self.settings.problems(), *self._cheap_problems()]))
        self._warn()
        if self.read_volumes:
            raise_if_any(same_for_all(self._volume_problems))

    def _warn(self) -> None:
        """Say what may be right, but rarely is meant."""
        if self.datalist is None or self.studies_dir is not None:
            return
        for sentence in section_warnings(self.datalist, [self.section]):
            LOGGER.warning(sentence)
        trains_on_unlabeled = self.settings.values.get("batch_size_unlabeled", 0) > 0
        if trains_on_unlabeled and self.unlabeled and not self.validation:
            LOGGER.warning(
                f"{self.datalist}: section `{DatalistKeys.VALIDATION}` has no items, so neither the student nor the "
                "teachers can be validated during training."
            )
        if trains_on_unlabeled and not self.unlabeled:
            LOGGER.warning(
                f"{self.datalist}: section `{DatalistKeys.UNLABELED}` has no items, so training uses only the labeled "
                "scans."
            )

    def _volume_problems(self) -> list[str]:
        """What is wrong with files, all of which are read."""
        with_label = [*self.labeled, *self.validation]
        images = [item[DatalistKeys.IMAGE] for item in self.unlabeled]
        may_lack = float(self.settings.values.get("channel_dropout", 0.0)) > 0
        files = chain.from_iterable(_files(item, self.channels, may_lack) for item in (*with_label, *self.unlabeled))
        missing = [f"{path}: no such file." for path in dict.fromkeys(files) if not os.path.exists(path)]
        if missing:  # said before hours of reading
            return missing
        values = self.settings.values
        names = [str(name) for name in values.get("label_names") or ()]
        if len(names) != values["num_classes"]:  # which counts, also where the command line alone says it
            names = [str(value) for value in range(values["num_classes"])]
        volumes, problems = list_volume_problems(
            with_label, images, names, self.cache_file, self.checked_before,
            values.get("in_channels", 1), self.channels, values.get("ignore_label"), may_lack,
        )  # fmt: skip
        others = {str(DatalistKeys.UNLABELED): self.unlabeled, str(DatalistKeys.VALIDATION): self.validation}
        problems += copy_problems(self.section, volumes, self.labeled, others)
        labels = [item[DatalistKeys.LABEL] for item in self.labeled if DatalistKeys.LABEL in item]
        if labels and all(path in volumes and volumes[path].maximum <= 0 for path in labels):
            problems.append(
                f"section `{self.section}`: expected labels with voxels above 0, got none in {len(labels)} labels."
            )
        return problems

    def _cheap_problems(self) -> Iterator[str]:
        """What can be said without opening a scan."""
        if self.model_file is not None:
            yield from record_problems(self.model_file, self.settings.values)
        if not self.labeled:
            yield empty_problem(self.section, self.datalist, self.studies_dir)
        if self.require_labels:
            with_label = {self.section: self.labeled, str(DatalistKeys.VALIDATION): self.validation}
            yield from label_item_problems(with_label)
            yield from channel_name_problems(with_label, self.channels)
        if self.needs_published_box:
            yield from box_problems([*chain(self.labeled, self.unlabeled, self.validation)])
        trained = {self.section: self.labeled, str(DatalistKeys.UNLABELED): self.unlabeled}
        yield from repeated_problems({**trained, str(DatalistKeys.VALIDATION): self.validation})
        yield from overlap_problems(
            self.section, self.labeled, self.unlabeled, self.validation, self.settings.values.get("ignore_label")
        )
        yield from patient_problems(trained, self.validation)
        if self.output_dir is not None:
            yield from run_folder_problems(self.output_dir, self.network)
        if self.prediction_dir is not None:
            images = [item[DatalistKeys.IMAGE] for item in self.labeled]
            yield from output_problems(self.prediction_dir, images, self.input, self.channels)


def _files(item: Mapping[str, str], channels: Sequence[str], may_lack: bool) -> list[str]:
    """Files of an item that must be there; of several channels, reading tells of a scan that may lack some."""
    image = channel_files(item[DatalistKeys.IMAGE], channels)
    label = [item[DatalistKeys.LABEL]] if DatalistKeys.LABEL in item else []
    return [*(image if len(image) == 1 or not may_lack else []), *label]
