# SPDX-License-Identifier: Apache-2.0
"""Datalists: which scans are labelled, unlabelled, for validation or for testing, and where their files are."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai.utils import ImageMetaKey

from ..errors import InputError
from ..keys import DatalistKeys
from .dicom import folders_below, is_dicom, series_among, unreadable

__all__ = ["PredictionNames", "find_images", "load_datalist", "nifti_files", "section_sizes", "without_suffix"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NAMED = 3  # of the files that are not read


def load_datalist(
    datalist: str, section: str, dataset_dir: str, limit: int | None = None, hint: str = ""
) -> list[dict[str, Any]]:
    """
    Read one section of a datalist, a JSON file of this form::

        {"training": [{"image": "a.nii.gz", "label": "a_seg.nii.gz", "domain": "scanner 1"}, ...], "unlabeled": [...]}

    ``label``, ``domain`` and ``published_box`` (``[[x0, x1], [y0, y1], [z0, z1]]``, voxels of the image file, end
    excluded) are optional; other keys of the file and of its items are ignored. MONAI's ``load_decathlon_datalist`` is
    not used since it takes every value that happens to be a path for one.

    Args:
        datalist: path of the JSON file.
        section: name of the list in it, see :py:class:`dtlp_components.keys.DatalistKeys`.
        dataset_dir: folder that relative paths start from. They may not lead out of it; absolute paths may be anywhere.
        limit: take at most this many items, the first ones; all if None.
        hint: added to the message when the file does not exist, e.g. the command that prepares the data.

    Returns:
        One dict per item with ``image``, ``label`` if the item has one, ``domain`` and ``published_box`` likewise. Paths
        are absolute and need not exist. Empty if the file has no such section. Items of ``unlabeled`` never have a
        label, even if the file names one: nobody may open it by mistake.

    Raises:
        InputError: if the file is missing, is not JSON or is not of the form above, or `limit` is no count.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise InputError(f"the number of items to take from a datalist must be None, 0 or more, got {limit!r}.")
    content = _read_json(datalist, hint)
    if not isinstance(content, dict):
        raise InputError(f"{datalist}: wanted an object with lists of scans by section, found {_kind(content)}.")
    items = content.get(section, [])
    if not isinstance(items, list):
        raise InputError(f"{datalist}: section `{section}` must be a list of items, found {_kind(items)}.")
    return [
        _read_item(item, f"{datalist}: `{section}`, item {i} (counted from 0)", section, os.path.abspath(dataset_dir))
        for i, item in enumerate(items[:limit])
    ]


def section_sizes(datalist: str) -> dict[str, int]:
    """
    Number of items by section, for those that have any.

    Raises:
        InputError: if the file is missing or is not JSON.
    """
    content = _read_json(datalist, "")
    lists = {name: items for name, items in content.items() if isinstance(items, list)}
    # a list of label names is no section
    return {name: len(items) for name, items in lists.items() if items and isinstance(items[0], Mapping)}


def nifti_files(folder: str | Path) -> list[Path]:
    """
    The folder's own NIfTI files (``.nii``, ``.nii.gz``, in small or capital letters), sorted; empty if there is none.

    Hidden files are skipped: macOS leaves ``._*`` with the same endings on shared disks, and a program that was stopped a
    file that is half written. A link to nothing is listed, so that whoever reads it says so.

    Raises:
        InputError: if the folder cannot be read.
    """
    try:
        files = sorted(Path(folder).iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error
    return [
        file
        for file in files
        if _is_nifti(file.name)
        and not file.name.startswith(".")
        and (file.is_file() or (file.is_symlink() and not file.exists()))
    ]


def without_suffix(name: str) -> str:
    """A file's name without the ending that makes it NIfTI, if it has one."""
    return name[: name.lower().rindex(".nii")] if _is_nifti(name) else name


def _is_nifti(name: str) -> bool:
    return name.lower().endswith(NIFTI_SUFFIXES)


def find_images(path: str) -> list[dict[str, str]]:
    """
    List the scans to segment at `path`: a NIfTI file, or a folder with NIfTI files (its own, not those of its subfolders,
    which a warning names), DICOM series (in it and below it, at any depth; every folder with DICOM files is one scan), or
    both.

    Returns:
        One ``{"image": absolute path}`` per scan, NIfTI files first, each kind sorted by path.

    Raises:
        InputError: if there is no such path, nothing to segment there, something there cannot be read, or two scans would
            have one name (:py:class:`PredictionNames`).
    """
    root = Path(os.path.abspath(path))
    if root.is_file() and is_dicom(root) and not _is_nifti(root.name):
        raise InputError(f"{root}: found a DICOM file, wanted the folder of its series: {root.parent}")
    if root.is_dir():
        folders = list(folders_below(root))
        images = [*nifti_files(root), *series_among(folders)]
        _warn_of_nifti_below(root, folders)
    elif root.is_file():
        images = [root] if _is_nifti(root.name) else []
    else:
        raise InputError(f"{root}: no such file or folder; wanted a NIfTI image, a DICOM series or a folder of them.")
    if not images:
        raise InputError(
            f"{root}: no NIfTI image found; wanted files that end in {' or '.join(NIFTI_SUFFIXES)}, or folders with DICOM "
            "slices."
        )
    names: dict[str, Path] = {}
    for image in images:
        other = names.setdefault(_prediction_name(image, root), image)
        if other != image:
            raise InputError(
                f"{image}: its label map would have the name of that of {other}; give them different names, or segment "
                "them one by one."
            )
    return [{str(DatalistKeys.IMAGE): str(image)} for image in images]


def _warn_of_nifti_below(root: Path, folders: Iterable[tuple[Path, list[str]]]) -> None:
    below = [
        str((place / name).relative_to(root))
        for place, names in folders
        for name in names
        if place != root and _is_nifti(name) and not name.startswith(".")
    ]
    if below:
        listed = ", ".join(sorted(below)[:NAMED]) + (", …" if len(below) > NAMED else "")
        logging.getLogger("dtlp").warning(
            f"{root}: NIfTI files of folders below it are not read, only its own; found {len(below)}: {listed}. To segment "
            "them, give their folders one by one."
        )


class PredictionNames:
    """
    For ``SaveImaged(output_name_formatter=)``: name a label map after its scan.

    The name is that of the file or DICOM folder; below `root`, with the folders in between in front, so that series of
    one name do not overwrite each other: ``patient1/ct/series`` in `root` becomes ``patient1_ct_series``.

    Args:
        root: what :py:func:`find_images` was given.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def name_of(self, image: str) -> str:
        """Name of the label map of an image, without what says that it is one."""
        path, root = (Path(os.path.abspath(path)) for path in (image, self.root))
        return _prediction_name(path, root)

    def __call__(self, metadict: Mapping[str, Any], saver: Any) -> dict[str, str]:
        # with an ending, since MONAI cuts off what follows the last dot: in a folder's name that is a part of it
        return {"subject": f"{self.name_of(metadict[ImageMetaKey.FILENAME_OR_OBJ])}.nii.gz"}


def _prediction_name(image: Path, root: Path) -> str:
    parts = image.relative_to(root).parts if root in image.parents else (image.name,)
    name = "_".join(parts)
    return without_suffix(name)


def _read_json(path: str, hint: str) -> Any:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError:
        how = f" To prepare it: {hint}" if hint else ""
        raise InputError(
            f"datalist not found: {os.path.abspath(path)}. If it is elsewhere: --dataset_dir DIR or --datalist FILE.{how}"
        ) from None
    except OSError as e:
        raise InputError(f"datalist {os.path.abspath(path)} cannot be read: {e.strerror}.") from None
    except json.JSONDecodeError as e:
        raise InputError(f"{path} is not JSON: {e.msg} at line {e.lineno}, column {e.colno}.") from None
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is not JSON: not UTF-8 text (byte {e.start}).") from None


def _read_item(item: Any, where: str, section: str, dataset_dir: str) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise InputError(f'{where}: wanted an object like {{"image": path}}, found {_kind(item)}.')
    if DatalistKeys.IMAGE not in item:
        raise InputError(f"{where}: has no `image`, only {sorted(item)}.")
    found: dict[str, Any] = {}
    for key in (DatalistKeys.IMAGE, DatalistKeys.LABEL, DatalistKeys.DOMAIN):
        if key not in item or (key == DatalistKeys.LABEL and section == DatalistKeys.UNLABELED):
            continue
        value = item[key]
        if not isinstance(value, str) or not value:
            raise InputError(f"{where}: `{key}` must be a text that is not empty, found {_kind(value)}.")
        found[str(key)] = value if key == DatalistKeys.DOMAIN else _resolve(value, f"{where}: `{key}`", dataset_dir)
    key = DatalistKeys.PUBLISHED_BOX
    if key in item:
        if not _is_box(item[key]):
            raise InputError(
                f"{where}: `{key}` must be three pairs of whole numbers, 0 <= start < end, found {_kind(item[key])}."
            )
        found[str(key)] = item[key]
    return found


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        # not isinstance, for which true and false are whole numbers
        and all(type(number) is int for pair in value for number in pair)
        and all(0 <= start < end for start, end in value)
    )


def _resolve(path: str, where: str, dataset_dir: str) -> str:
    resolved = os.path.normpath(os.path.join(dataset_dir, path))
    # links are not followed: data sets are often folders of links to where the scans are
    if not os.path.isabs(path) and os.path.commonpath([dataset_dir, resolved]) != dataset_dir:
        raise InputError(f"{where}: {path!r} leads out of the data set's folder {dataset_dir}.")
    return resolved


def _kind(value: Any) -> str:
    """The JSON name of a value's type and the start of the value."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    text = json.dumps(value)
    return f"{names.get(type(value), 'null')} ({text if len(text) <= 40 else text[:37] + '...'})"
