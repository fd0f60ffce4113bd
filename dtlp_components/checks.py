# SPDX-License-Identifier: Apache-2.0
"""Checks of settings, command line and files that run before training or evaluation does."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import io
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow, ReferenceResolver
from monai.bundle.scripts import create_workflow, run
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.data import MetaTensor
from tqdm import tqdm

from .data.datalists import PredictionNames, section_sizes
from .data.dicom import series_problems
from .data.readers import load_volume, nifti_geometry
from .errors import first_line, raise_if_any
from .files import settings_of_weights, write_text
from .handlers.prediction_report import LABEL_MAP_ENDING, TABLE, printable, read_table
from .keys import DatalistKeys

__all__ = [
    "InputChecks",
    "Volume",
    "describe_volume",
    "has_two_voxels",
    "no_such_key",
    "override_problems",
    "pair_problems",
    "scan_problems",
]

TWO_VOXELS = "leaves two voxels at the deepest stage, of which instance norm makes +1 and -1 whatever they are"
AFFINE_TOLERANCE = 1e-3  # mm; headers keep affines as float32
SMALLEST_SIDE = 1e-6  # mm
SMALLEST_DETERMINANT = 1e-3  # of the directions of the axes: 1 if they are at right angles
PROGRESS_FROM = 20  # files; fewer are read before a bar is worth it


@dataclass(frozen=True)
class Volume:
    """What the checks need to know of a file, channel first; `minimum` and `maximum` are 0 if it is not finite."""

    shape: list[int]
    affine: list[list[float]]
    finite: bool
    integer: bool
    minimum: float
    maximum: float


class InputChecks:
    """
    Check everything a user gives before the first iteration, and tell all that is wrong at once.

    Meant as first entry of a bundle's ``run`` list. The constructor only stores its arguments. Calling the object
    first checks what takes no time (command line, settings, lists, whether files exist); if that is all right it reads
    every volume to its last byte. Volumes smaller than the patch are fine, they get padded. A label file of an
    unlabelled item is never opened.

    Checked of volumes: 3-D (a trailing axis of length 1 is allowed) and finite; a label has its image's shape and
    affine (to 0.001 mm), whole numbers in ``[0, num_classes)``, and not all labels are empty. A folder is a DICOM series:
    of its slices none is missing or twice, and all are of one series and one grid. Voxels have three sides above 0 mm.

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
        volumes, problems = self._read_volumes()
        raise_if_any(problems + self._volume_problems(volumes))

    def _setting_problems(self) -> Iterator[str]:
        for name, value in self.flags.items():
            if not isinstance(value, bool):
                yield f"--{name} is {value!r}; wanted True or False with a capital letter: --{name} True"
        for name, value in self.positive.items():
            numbers = list(value) if isinstance(value, (list, tuple)) else [value]
            if not numbers or not all(_is_number(n) and math.isfinite(n) and n > 0 for n in numbers):
                yield f"--{name} is {value!r}; wanted {'positive numbers' if len(numbers) > 1 else 'a positive number'}."
        for name, (value, allowed) in self.choices.items():
            if value not in allowed:
                yield f"--{name} is {value!r}; wanted one of {', '.join(map(repr, allowed))}."
        try:
            torch.empty(0, device=self.device)
        except (AssertionError, RuntimeError, TypeError) as error:
            there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
            yield f"--device is {str(self.device)!r} ({first_line(error)}); this machine has {', '.join(there)}."
        if not _is_whole(self.num_classes) or self.num_classes < 2:
            yield f"--num_classes is {self.num_classes!r}; wanted a whole number from 2 on, the background included."
        sides = self.patch_size
        if not isinstance(sides, (list, tuple)) or len(sides) != 3 or not all(_is_whole(side) for side in sides):
            yield f'--patch_size is {sides!r}; wanted three whole numbers: --patch_size "[32, 48, 32]"'
        elif any(side <= 0 or side % self.divisor for side in sides):
            nearest = ", ".join(_nearest_multiples(side, self.divisor) for side in sides)
            yield (
                f"--patch_size is {list(sides)}; every side must be a positive multiple of {self.divisor}. "
                f"Nearest: [{nearest}]."
            )
        elif all(side == self.divisor for side in sides):
            yield (
                f"--patch_size is {list(sides)}, which leaves one voxel at the deepest stage, too few to normalise; "
                f"wanted at least one side of {2 * self.divisor} or more."
            )
        elif self.norm == "instance" and has_two_voxels(sides, self.divisor):
            wanted = [2 * self.divisor if side == self.divisor else side for side in sides]
            yield f"--patch_size is {list(sides)}, which {TWO_VOXELS}; wanted more, such as {wanted}, or --norm group."

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
                wanted = f'"{trained[name]}"' if isinstance(trained[name], list) else trained[name]
                yield (
                    f"--{name} is {value!r}, but {self.model_file} was trained with {trained[name]!r} (recorded in {file}). "
                    f"Add --{name} {wanted}"
                )

    def _list_problems(self) -> Iterator[str]:
        if not self.labeled and self.studies_dir is not None:
            yield (
                f"MONAI Label has no study to train on in {self.studies_dir}; wanted at least one with a submitted (final) "
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
            yield f"{path}: is in `{self.section}` and in `{DatalistKeys.VALIDATION}`, which would score what was learnt."
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
            yield f"{place}: cannot be written to ({error.strerror}); wanted a folder for the label maps."
        images = [item[DatalistKeys.IMAGE] for item in self.labeled]
        taken = {os.path.realpath(folder) for image in images for folder in (image, os.path.dirname(image))}
        if self.input is not None:
            taken.add(os.path.realpath(self.input))
        if os.path.realpath(place) in taken:
            yield f"{place}: is where the scans are, wanted another folder: the next run would take label maps for scans."
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
                    f"{scans[name]}; wanted another --prediction_dir, or that file moved away."
                )

    def _paths(self) -> list[str]:
        """Every file to read, once, in the order of the lists."""
        with_label = chain.from_iterable(
            (item[key] for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL) if key in item)
            for item in chain(self.labeled, self.validation)
        )
        return list(dict.fromkeys([*with_label, *(item[DatalistKeys.IMAGE] for item in self.unlabeled)]))

    def _read_volumes(self) -> tuple[dict[str, Volume], list[str]]:
        """Volumes by path, from the cache where it is current, and a message per file that cannot be read."""
        cache = _load_cache(self.cache_file)
        volumes, problems, unread = {}, [], []
        for path in self._paths():
            volume = _from_cache(cache, path)
            if volume is None:
                unread.append(path)
            else:
                volumes[path] = volume
        for path in tqdm(unread, desc="checking the data", unit="file", disable=len(unread) <= PROGRESS_FROM):
            # before reading: a file that changes meanwhile is read again next time
            stamp = _stamp(path)
            volume, found = _read(path)
            if volume is None:
                problems += found
            else:
                volumes[path] = volume
                cache[path] = {**stamp, "volume": asdict(volume)}
        if self.cache_file and unread:
            with contextlib.suppress(OSError):  # only a convenience; whoever needs the folder will complain
                write_text(self.cache_file, json.dumps(cache))
        return volumes, problems

    def _volume_problems(self, volumes: Mapping[str, Volume]) -> list[str]:
        problems: list[str] = []
        items = [*self.labeled, *self.validation]
        labels = list(dict.fromkeys(item[DatalistKeys.LABEL] for item in items if DatalistKeys.LABEL in item))
        for path, volume in volumes.items():
            problems += volume_problems(path, volume)
        for path in labels:
            if path in volumes:
                problems += self._label_problems(path, volumes[path])
        for item in items:
            image, label = (volumes.get(item.get(key, "")) for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL))
            if image is not None and label is not None:
                problems += pair_problems(item[DatalistKeys.IMAGE], image, item[DatalistKeys.LABEL], label)
        named = [item[DatalistKeys.LABEL] for item in self.labeled if DatalistKeys.LABEL in item]
        if named and all(path in volumes and volumes[path].maximum <= 0 for path in named):
            problems.append(f"none of the {len(named)} labels of section `{self.section}` has a voxel above 0.")
        return problems

    def _label_problems(self, path: str, label: Volume) -> Iterator[str]:
        if label.finite and not label.integer:
            yield f"{path}: a label must hold whole numbers; it holds fractions."
        if label.minimum < 0 or label.maximum >= self.num_classes:
            yield (
                f"{path}: holds labels from {label.minimum:g} to {label.maximum:g}; "
                f"with --num_classes {self.num_classes} they must be 0 to {self.num_classes - 1}."
            )


def scan_problems(path: str) -> list[str]:
    """
    What is wrong with one scan, a file or a folder with a DICOM series, which is read to its last byte; none if it can be
    segmented.
    """
    if not os.path.exists(path):
        return [f"{path}: no such file."]
    volume, problems = _read(path)
    return problems if volume is None else list(volume_problems(path, volume))


def _read(path: str) -> tuple[Volume | None, list[str]]:
    """What is in a file or a series, or why that cannot be said."""
    if os.path.isdir(path) and (found := series_problems(Path(path))):
        return None, found
    try:
        volume = load_volume(path)
        problems = [] if os.path.isdir(path) else list(geometry_problems(path, *nifti_geometry(path)))
        return (None, problems) if problems else (describe_volume(volume), [])
    except Exception as error:  # noqa: BLE001 - readers raise whatever the damage happens to trigger
        return None, [f"{path}: truncated, damaged or no image ({type(error).__name__}: {first_line(error)})."]


def geometry_problems(path: str, sides: np.ndarray, affine: np.ndarray) -> Iterator[str]:
    """What is wrong with the header of a NIfTI file: sides of the voxels in mm ``(3,)`` and affine ``(4, 4)``."""
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    for found in (np.abs(sides), columns):
        if not np.isfinite(found).all() or (found < SMALLEST_SIDE).any():
            text = " x ".join(f"{side:.3g}" for side in found)
            yield f"{path}: found voxels of {text} mm, wanted three sides above 0; the header is damaged."
            return
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3] / columns)) < SMALLEST_DETERMINANT:
        yield f"{path}: found a singular affine, two axes of which point the same way; the header is damaged."


def volume_problems(path: str, volume: Volume) -> Iterator[str]:
    """What is wrong with a volume whatever it is for, one sentence each."""
    if len(volume.shape) != 4 or volume.shape[0] != 1:
        found = [n for n in (*volume.shape[1:], volume.shape[0]) if n > 1]
        yield f"{path}: wanted one 3-D volume, found {found} voxels by axis."
    if not volume.finite:
        yield f"{path}: holds NaN or infinite values."


def has_two_voxels(patch_size: Sequence[int], divisor: int) -> bool:
    """Whether a patch has two voxels where the network has reduced its sides by ``divisor``."""
    return math.prod(side // divisor for side in patch_size) == 2


def pair_problems(image_path: str, image: Volume, label_path: str, label: Volume) -> Iterator[str]:
    """One sentence if a label is not on the grid of its image."""
    if image.shape != label.shape:
        yield f"{label_path}: has shape {label.shape[1:]}, its image {image_path} has {image.shape[1:]}."
    else:
        difference = np.abs(np.subtract(image.affine, label.affine)).max()
        if not difference <= AFFINE_TOLERANCE:  # so that NaN is a difference
            yield (
                f"{label_path}: its affine differs from that of its image {image_path} by up to {difference:g} "
                f"(allowed: {AFFINE_TOLERANCE:g}), so the two are not on one grid."
            )


def describe_volume(volume: MetaTensor) -> Volume:
    """What the checks need to know of a scan."""
    affine, data = volume.affine.tolist(), volume.as_tensor()
    finite = bool(torch.isfinite(data).all())
    low, high = (x.item() for x in data.aminmax()) if finite else (0.0, 0.0)
    return Volume(list(data.shape), affine, finite, bool((data == data.round()).all()), low, high)


def _stamp(path: str) -> dict[str, int]:
    # a folder's own time does not change with the files in it
    files = [path, *os.scandir(path)] if os.path.isdir(path) else [path]
    states = [os.stat(file) for file in files]
    return {"size": sum(s.st_size for s in states), "mtime_ns": max(s.st_mtime_ns for s in states)}


def _load_cache(cache_file: str | None) -> dict[str, Any]:
    try:
        with open(cache_file or "", encoding="utf-8") as file:
            cache = json.load(file)
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _from_cache(cache: Mapping[str, Any], path: str) -> Volume | None:
    try:
        entry = cache[path]
        return Volume(**entry["volume"]) if {k: entry[k] for k in ("size", "mtime_ns")} == _stamp(path) else None
    except (KeyError, TypeError):  # unknown, or written by another version
        return None


def override_problems(arguments: Sequence[str]) -> list[str]:
    """Keys of a ``monai.bundle run`` command line that its config file does not have."""
    given = _parse_run_command(arguments)
    args_file = given.get("args_file")
    from_file = ConfigParser.load_config_file(args_file) if isinstance(args_file, str) else {}
    config_file = given.get("config_file") or from_file.get("config_file")
    if config_file is None:
        return []
    config = ConfigParser.load_config_files(config_file)
    # what MONAI takes for itself, on the command line or in an args_file
    parameters = {
        name for f in (run, create_workflow, ConfigWorkflow.__init__) for name in inspect.signature(f).parameters
    }
    parameters |= _tracking_ids(given.get("tracking") or from_file.get("tracking"))
    candidates = [*_ids(config), *sorted(parameters)]

    problems = []
    for origin, keys in (("on the command line", given.get("override", {})), (f"in {args_file}", from_file)):
        for key in keys:
            if key in parameters or _has_id(config, key):
                continue
            problems.append(no_such_key(f"--{key} ({origin})", key, candidates, config_file))
    return problems


def no_such_key(subject: str, key: str, known: Sequence[str], config_file: Any) -> str:
    """The sentence on a key that a config file does not have, with those of the known ones that look like it."""
    close = difflib.get_close_matches(ReferenceResolver.normalize_id(key), known, n=3)
    meant = f"Did you mean {' or '.join('--' + c for c in close)}?" if close else "It would have no effect."
    return f"{subject}: no such key in {config_file}. {meant}"


def _parse_run_command(arguments: Sequence[str]) -> dict[str, Any]:
    """Arguments of :py:func:`monai.bundle.run` that a command line means; empty if it is another command."""
    if len(arguments) < 2 or arguments[1] != "run":
        return {}
    given: dict[str, Any] = {}

    @functools.wraps(run)
    def record(*args: Any, **kwargs: Any) -> None:
        given.update(inspect.signature(run).bind(*args, **kwargs).arguments)

    # Fire itself reads the line, as it does for MONAI: `--a 1`, `--a=1`, `-a 1`, `--a`, `--noa`, `--a-b` for `a_b`
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(fire.core.FireExit):
        fire.Fire(record, command=list(arguments[2:]))
    return given


def _tracking_ids(tracking: Any) -> set[str]:
    """Keys that an experiment tracking setting adds to the config."""
    if tracking is None:
        return set()
    known: Mapping[str, Any] = DEFAULT_EXP_MGMT_SETTINGS
    is_known = isinstance(tracking, str) and tracking in known
    settings = known[tracking] if is_known else ConfigParser.load_config_files(tracking)
    return set(settings.get("configs", {}))


def _has_id(config: Any, id: str) -> bool:
    parts = ReferenceResolver.split_id(id)
    if parts[0] == ConfigParser.meta_key:
        return True  # metadata.json, which MONAI adds to the config
    for part in parts:
        if isinstance(config, dict):
            if part not in config:
                # a component's constructor refuses an argument it does not know; any other dict takes it silently
                return ConfigComponent.is_instantiable(config)
            config = config[part]
        elif isinstance(config, list):
            if not part.isdecimal() or int(part) >= len(config):
                return False
            config = config[int(part)]
        else:
            return True  # a reference or a value: MONAI itself refuses to go into it
    return True


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    for _, id, value in ReferenceResolver.iter_subconfigs(prefix, config) if isinstance(config, dict) else ():
        yield id
        yield from _ids(value, id)


def _nearest_multiples(value: int, divisor: int) -> str:
    below = max(value // divisor, 1) * divisor
    return str(below) if value <= below else f"{below} or {below + divisor}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
