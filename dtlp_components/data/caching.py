# SPDX-License-Identifier: Apache-2.0
"""Preprocessed scans kept in memory and, if expected, on disk from one run to the next."""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import pickle  # for its error alone
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose
from monai.utils import ImageMetaKey
from tqdm import tqdm

from ..errors import InputError
from ..files import whole_file
from ..processes import gather, my_share
from .resources import available_memory, in_threads, usable_cores
from .series import scan_stamp

__all__ = ["ScanCache", "describe"]

LOGGER = logging.getLogger("dtlp")
PACKAGES = ("dtlp-bundles", "monai", "torch", "nibabel", "numpy")


def describe(thing: Any) -> Any:
    """
    What makes a transform do what it does, as JSON can hold it: class and attributes, all the way down.

    Arrays and tensors are named by a hash of their values, functions by their name.

    Raises:
        ValueError: if a thing contains itself.
    """
    return _describe(thing, ())


def _describe(thing: Any, around: tuple[int, ...]) -> Any:
    if id(thing) in around:
        raise ValueError(f"{type(thing).__name__} contains itself and cannot be described.")
    inside = functools.partial(_describe, around=(*around, id(thing)))
    if thing is None or (isinstance(thing, (bool, int, float, str)) and not isinstance(thing, enum.Enum)):
        return thing
    if isinstance(thing, (np.ndarray, torch.Tensor)):
        values = np.ascontiguousarray(thing)
        return [str(values.dtype), list(values.shape), hashlib.sha256(values.tobytes()).hexdigest()]
    if isinstance(thing, functools.partial):
        return ["partial", inside(thing.func), inside(thing.args), inside(thing.keywords)]
    if isinstance(thing, Mapping):
        return ["mapping", *([inside(key), inside(value)] for key, value in thing.items())]
    if isinstance(thing, (list, tuple, set, frozenset)):
        items = [inside(item) for item in thing]
        return sorted(items, key=json.dumps) if isinstance(thing, (set, frozenset)) else items
    if isinstance(thing, enum.Enum) or not hasattr(thing, "__dict__") or hasattr(thing, "__qualname__"):
        # numbers of numpy, members of enums, data types; and functions and classes, whose text is not looked at
        name = getattr(thing, "__qualname__", None) or str(thing)
        return [type(thing).__qualname__, f"{getattr(thing, '__module__', '')}.{name}"]
    # what a thread keeps is no setting: MONAI's transforms get it when they are first used
    settings = {name: value for name, value in vars(thing).items() if not isinstance(value, threading.local)}
    return [f"{type(thing).__module__}.{type(thing).__qualname__}", inside(settings)]


class ScanCache(CacheDataset):
    """
    MONAI's cache of preprocessed scans in memory, or one on disk that outlives the run.

    On disk, every scan is preprocessed once, before the first draw, by all cores and all processes that work together;
    an interrupted start goes on where it was. A draw maps the file into memory and reads what it needs, so memory does
    not grow with the number of scans. In memory, as many are kept as fit or as are asked for, and the rest is read and
    preprocessed at every draw, which takes seconds.

    MONAI's own cache on disk (``PersistentDataset``) is named by the classes of the transforms, not by what they are
    set to, and by the names of the files, not by what they hold: another spacing or a corrected label would go
    unnoticed. Here, a file is named by a hash of the scan's item, of size and time of change of every file that it
    names, of the transforms with all that they are set to, and of the versions of the packages that do the work.
    Nothing is ever deleted; the folder may be, at any time.

    A file holds tensors, their affine and the name of the scan, and is loaded with ``weights_only=True``. What a scan
    went through is not in it, so a cached scan cannot be taken back to its own grid.

    Args:
        data: items, dictionaries with paths.
        transform: deterministic transforms; the random ones come after.
        cache_rate: share of scans to keep in memory, without a folder; ``"auto"`` for what half of the free memory
            holds, as the first scan is large.
        cache_dir: folder for the cache on disk, made if need be; ``None`` or an empty text for none.
        num_workers: threads that preprocess; as many as there are cores if ``None``.
        progress: show a progress bar.
        channels: endings of the files of the channels (:py:class:`dtlp_components.ScanReader`).

    Raises:
        InputError: if the folder cannot be made or written to, or its disk gets full.

    Example:
        >>> from monai.transforms import Compose, Lambdad
        >>> transform = Compose([Lambdad("image", lambda x: 10 * x)])
        >>> scans = ScanCache([{"image": 1}, {"image": 2}], transform, progress=False)
        >>> [scan["image"] for scan in scans]
        [10, 20]
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        cache_rate: float | str = 1.0,
        cache_dir: str | os.PathLike[str] | None = None,
        num_workers: int | None = None,
        progress: bool = True,
        channels: Sequence[str] = (),
    ) -> None:
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self._pipeline, self._channels = "", list(channels)
        self._first: Any = None  # where it had to be made to see how large it is
        if self.cache_dir is not None:
            try:
                self.cache_dir.mkdir(parents=True, exist_ok=True)
                # in a thread of the pool, the error would come too late
                tempfile.TemporaryFile(dir=self.cache_dir).close()
            except OSError as error:
                raise InputError(
                    f"--cache_dir {self.cache_dir}: expected a writable folder, got an error ({error})."
                ) from error
            versions = {name: _version(name) for name in PACKAGES}
            self._pipeline = json.dumps([describe(transform.flatten().transforms), versions])
        rate = 0.0 if self.cache_dir is not None or cache_rate == "auto" else float(cache_rate)
        num_workers = num_workers or usable_cores()
        super().__init__(data=data, transform=transform, cache_rate=rate, num_workers=num_workers, progress=progress)
        if self.cache_dir is not None:
            self._write_missing()
        elif cache_rate == "auto" and data:
            self.set_rate = self._rate_that_fits()
            self.set_data(data)
            self._first = None

    def _write_missing(self) -> None:
        """Preprocess what is not on disk yet; of several processes, each its share, and all wait for all."""
        missing = [index for index in my_share(self.data) if not self.file_of(index).is_file()]
        # not MONAI's loop, which keeps all of them
        written = in_threads(self._write, missing, int(self.num_workers or 1))
        for _ in tqdm(
            written, total=len(missing), desc="preparing scans", unit="scan", disable=not (self.progress and missing)
        ):
            pass
        gather(None)

    def _write(self, index: int) -> None:
        self._load_cache_item(index)

    def _rate_that_fits(self) -> float:
        self._first = self._load_cache_item(0)
        size = sum(value.numel() * value.element_size() for value in self._first.values() if torch.is_tensor(value))
        free = available_memory()
        if free is None or free / 2 >= size * len(self.data):
            return 1.0
        count = int(free / 2 / max(size, 1))
        LOGGER.warning(
            f"{count} of {len(self.data)} scans ({size / 1e9:.2g} GB each) are cached in memory ({free / 1e9:.2g} GB "
            "are free); the others are read and preprocessed every time they are drawn, which takes seconds. "
            "--cache_dir FOLDER caches all of them on disk instead."
        )
        return count / len(self.data)

    def file_of(self, index: int) -> Path:
        """
        Where the preprocessed scan is, or would be.

        Raises:
            ValueError: if there is no cache on disk.
        """
        if self.cache_dir is None:
            raise ValueError("this data set has no disk cache.")
        item = self.data[index]
        files = []
        for value in item.values():
            if isinstance(value, (str, os.PathLike)) and os.path.exists(value):
                files.append([os.path.abspath(value), *scan_stamp(value, self._channels).values()])
        text = json.dumps([self._pipeline, describe(dict(item)), files])
        return self.cache_dir / f"{hashlib.sha256(text.encode()).hexdigest()}.pt"

    def _load_cache_item(self, idx: int) -> Any:
        if self.cache_dir is None:
            return self._first if idx == 0 and self._first is not None else super()._load_cache_item(idx)
        file = self.file_of(idx)
        if file.is_file():
            try:
                # mapped: what nobody reads stays on disk, and what somebody writes goes into a copy
                return _unpack(torch.load(file, weights_only=True, mmap=True))
            except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
                warnings.warn(f"{file} cannot be read and will be recreated ({error}).", stacklevel=2)
        item = super()._load_cache_item(idx)
        try:
            _save(_pack(item), file)
        except OSError as error:
            raise InputError(f"--cache_dir {self.cache_dir}: cannot be written to ({error}).") from error
        return item

    def _transform(self, index: int) -> Any:
        if self.cache_dir is not None:
            return self._load_cache_item(range(len(self))[index])
        return super()._transform(index)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # as part of a packed bundle, which never changes


def _pack(item: Mapping[str, Any]) -> dict[str, Any]:
    packed: dict[str, Any] = {}
    for key, value in item.items():
        if isinstance(value, MetaTensor):
            name = str(value.meta.get(ImageMetaKey.FILENAME_OR_OBJ, ""))
            packed[key] = {"tensor": value.as_tensor(), "affine": value.affine, "name": name}
        else:
            packed[key] = value
    return packed


def _unpack(packed: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: MetaTensor(value["tensor"], affine=value["affine"], meta={ImageMetaKey.FILENAME_OR_OBJ: value["name"]})
        if isinstance(value, dict) and "tensor" in value
        else value
        for key, value in packed.items()
    }


def _save(packed: Mapping[str, Any], file: Path) -> None:
    with whole_file(file) as part:  # two runs may share the folder
        torch.save(packed, part)
