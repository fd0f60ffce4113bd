# SPDX-License-Identifier: Apache-2.0
"""What every ``prepare`` command shares: safe writing, checking an image against its label, and datalists."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import generate_spatial_bounding_box
from tqdm import tqdm

from ..errors import InputError
from ..files import sha256, write_text
from ..keys import DatalistKeys

__all__ = [
    "Sections",
    "case_item",
    "check_choice",
    "check_percent",
    "check_seed",
    "common_affine",
    "count_labels",
    "datalist",
    "describe_converted",
    "describe_pair",
    "find_files",
    "label_extent",
    "load_pair",
    "name_cases",
    "place_file",
    "place_pair",
    "prepare_all",
    "published_datalists",
    "read_json",
    "read_split",
    "refuse_changed_datalists",
    "save_nifti",
    "usable_cases",
    "work_on_all",
    "write_json",
    "write_lists",
]

_SPLITS = Path(__file__).parents[1] / "recipes" / "splits"

# file of a label, its voxels and the affine of its grid, to a `published_box`
FindBox = Callable[[Path, np.ndarray, np.ndarray], list[list[int]]]


def check_seed(seed: int) -> None:
    """Raise :py:class:`InputError` unless ``seed`` is an integer that NumPy's generators take."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed: found {seed!r}, wanted an integer from 0 to {2**32 - 1}.")


def check_percent(percent: int) -> None:
    """Raise :py:class:`InputError` unless ``percent`` can name and size a semi-supervised split."""
    if isinstance(percent, bool) or not isinstance(percent, int) or not 1 <= percent <= 99:
        raise InputError(
            f"percent: found {percent!r}, wanted an integer from 1 to 99 (the list with all is always made)."
        )


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise :py:class:`InputError` unless the flag ``name`` has one of the values ``choices``."""
    if value not in choices:
        raise InputError(f"{name}: found {value!r}, wanted one of: {', '.join(choices)}.")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """
    A file to write beside ``path``, which takes that name only when the block ends well.

    Whoever finds ``path`` finds it complete, no matter when an earlier run was killed.
    """
    # always the same name: what a killed run leaves, the next one overwrites
    part = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}).") from error
    finally:
        part.unlink(missing_ok=True)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """
    Write a volume, whole or not at all.

    Args:
        path: target, ``.nii.gz``.
        array: ``(x, y, z)``, of a type NIfTI knows; stored as float32 if its numbers are longer than that.
        affine: ``(4, 4)``, voxel index to mm in RAS.

    Raises:
        InputError: if the file cannot be written.
    """
    if array.dtype.itemsize > 4:  # MONAI trains in float32, and NIfTI readers stumble over 64-bit integers
        array = array.astype(np.float32)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with _replacing(path) as part:
        nib.save(image, part)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all; :py:class:`InputError` if that is impossible."""
    try:
        write_text(str(path), json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}).") from error


def read_json(path: Path, wanted: str) -> Any:
    """
    Parse a JSON file.

    Args:
        path: the file.
        wanted: what the file should have been, for the error message.

    Raises:
        InputError: if there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); wanted {wanted}.") from error


def read_split(name: str) -> dict[str, Any]:
    """The published split of a data set, from this package's ``recipes/splits/<name>.json``."""
    split: dict[str, Any] = read_json(_SPLITS / f"{name}.json", "the published split, part of this package")
    return split


def find_files(source: Path, pattern: str, wanted: str, placed: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """
    Find one NIfTI file for each case, at any depth.

    Args:
        source: folder to look in.
        pattern: regular expression of the end of a path, which begins with a folder's or the file's name, with the
            group ``case``. So it leaves out the ``._*`` companions that macOS packs into archives.
        wanted: what was looked for, for the error message.
        placed: where this command puts the file of a case: what an earlier run put there is no second copy of it.

    Returns:
        Case id to path.

    Raises:
        InputError: if there is no such file, or more than one of a case.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*.nii.gz")):
        match = re.search(f"(?:^|/){pattern}$", path.relative_to(source).as_posix())
        if match and path.is_file():
            found.setdefault(match["case"], []).append(path)
    if not found:
        raise InputError(f"{source}: found no file {wanted} anywhere in it, wanted the folder of the download.")
    for case, paths in found.items():
        if len(paths) > 1 and placed and placed.get(case) in paths:
            paths.remove(placed[case])
    if twice := {case: paths for case, paths in found.items() if len(paths) > 1}:
        raise InputError(
            "\n".join(
                f"{source}: found the case {case} twice, {paths[0]} and {paths[1]}; wanted it once."
                for case, paths in twice.items()
            )
        )
    return {case: paths[0] for case, paths in found.items()}


def usable_cases(
    published: Sequence[str], found: Collection[str], without_label: Collection[str], label: str = "a label"
) -> list[str]:
    """
    Say which published cases are there, and name those that are not, and the other ones that are.

    Args:
        published: case ids of the split.
        found: case ids with an image.
        without_label: those among ``found`` that lack their label.
        label: what those lack, for the message.

    Returns:
        The published cases with image and label, in the order of ``published``.
    """
    usable = [case for case in published if case in found and case not in without_label]
    print(f"{len(usable)} of {len(published)} published cases.")
    name_cases("Published cases that are missing; they are left out", set(published) - set(found))
    name_cases(f"Cases without {label}; they are left out", set(without_label) & set(published))
    name_cases("Cases that are not in the published split; they are left alone", set(found) - set(published))
    return usable


def place_file(source: Path, target: Path) -> None:
    """
    Make ``target`` the same file as ``source``: a hard link on one file system, a copy across two.

    Raises:
        InputError: if ``target`` exists with another content, which is left alone.
    """
    if target.exists():
        if not source.samefile(target) and not filecmp.cmp(source, target, shallow=False):
            raise InputError(
                f"{target}: exists and differs from {source}; move it away or choose another output folder."
            )
        return
    with _replacing(target) as part:
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:  # another file system, or one without hard links, or a file of somebody else's
            shutil.copyfile(source, part)


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a NIfTI file, read to its last byte."""
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        image = nib.load(path)
        return np.asanyarray(image.dataobj), image.affine  # type: ignore[attr-defined]
    except Exception as error:  # a broken file makes nibabel, gzip and zlib raise many kinds
        raise InputError(f"{path}: cannot be read as NIfTI ({type(error).__name__}: {error}).") from error


def _load_both(image: Path, label: Path, num_axes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Voxels and affine of an image, then of its label, which has the same shape."""
    voxels, affine = _load(image)
    label_voxels, label_affine = _load(label)
    if voxels.ndim != num_axes:
        raise InputError(f"{image}: found shape {voxels.shape}, wanted {num_axes} axes.")
    if voxels.shape != label_voxels.shape:
        raise InputError(f"{label}: found shape {label_voxels.shape}, wanted that of its image, {voxels.shape}.")
    return voxels, affine, label_voxels, label_affine


def common_affine(image: Path, affine: np.ndarray, label: Path, label_affine: np.ndarray) -> np.ndarray:
    """
    The affine for an image and a label of the same shape that are both to be converted: the image's.

    A label with other axes is refused. If only its origin differs, that was lost, which is reported.

    Raises:
        InputError: if the axes differ.
    """
    if not np.allclose(affine[:3, :3], label_affine[:3, :3], atol=1e-3):
        raise InputError(
            f"{label}: found the axes {np.round(label_affine[:3, :3], 3).tolist()} (mm, RAS), "
            f"wanted those of {image.name}, {np.round(affine[:3, :3], 3).tolist()}."
        )
    if not np.allclose(affine, label_affine, atol=1e-3):
        tqdm.write(f"{label}: its origin differs from that of {image.name}, which is used for both.")
    return affine


def load_pair(image: Path, label: Path, num_axes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Read an image and its label that are to be converted.

    Args:
        image: NIfTI file with ``num_axes`` axes.
        label: NIfTI file of the same shape and with the same axes; see :py:func:`common_affine`.
        num_axes: 3, or 4 for frames ``(x, y, z, frame)``.

    Returns:
        Voxels of the image, those of the label, and the affine ``(4, 4)`` of both.

    Raises:
        InputError: if a file is missing or broken, or the two differ in shape or axes.
    """
    voxels, affine, label_voxels, label_affine = _load_both(image, label, num_axes)
    return voxels, label_voxels, common_affine(image, affine, label, label_affine)


def count_labels(label: Path, voxels: np.ndarray, names: Mapping[str, str]) -> dict[str, int]:
    """
    Count the voxels of every named value.

    Args:
        label: file of the label, for the error message.
        voxels: its values, any shape.
        names: label value, as text, to its name.

    Raises:
        InputError: if there are other values.
    """
    values, counts = np.unique(voxels, return_counts=True)
    wanted = sorted(int(value) for value in names)
    if unknown := sorted(set(values.tolist()) - set(wanted)):
        raise InputError(f"{label}: found the values {unknown[:10]}, wanted only {wanted}.")
    counted = {int(value): int(count) for value, count in zip(values, counts)}
    return {str(value): counted.get(value, 0) for value in wanted}


def label_extent(label: Path, voxels: np.ndarray) -> list[tuple[int, int]]:
    """
    First and last index with a label along each axis, both included.

    Args:
        label: file of the label, for the error message.
        voxels: its values ``(x, y, z)``, 0 for the background.

    Raises:
        InputError: if every voxel is background.
    """
    start, end = generate_spatial_bounding_box(voxels[None])
    if not any(end):
        raise InputError(f"{label}: found no voxel to put a box around, wanted a label above 0.")
    return [(int(first), int(past) - 1) for first, past in zip(start, end)]


def describe_pair(
    image: Path, label: Path, names: Mapping[str, str], find_box: FindBox | None = None
) -> dict[str, Any]:
    """
    Check a label against its image and describe the two.

    Args:
        image: NIfTI file ``(x, y, z)``.
        label: NIfTI file on the same grid.
        names: label value, as text, to its name.
        find_box: the published crop around a label, if there is one.

    Returns:
        ``shape`` (voxels), ``spacing_mm``, ``label_counts`` (voxels of each named value), ``sha256`` of both files and,
        with ``find_box``, ``published_box``.

    Raises:
        InputError: if a file is missing or broken, or the two differ in shape or affine, or the label has other values.
    """
    voxels, affine, label_voxels, label_affine = _load_both(image, label, num_axes=3)
    if not np.allclose(affine, label_affine, atol=1e-3):
        raise InputError(
            f"{label}: found affine {np.round(label_affine, 3).tolist()}, "
            f"wanted that of its image, {np.round(affine, 3).tolist()}."
        )
    counts = count_labels(label, label_voxels, names)
    box = {} if find_box is None else {DatalistKeys.PUBLISHED_BOX.value: find_box(label, label_voxels, affine)}
    return {
        "shape": list(voxels.shape),
        "spacing_mm": [round(float(size), 5) for size in nib.affines.voxel_sizes(affine)],
        "label_counts": counts,
        **box,
        "sha256": {DatalistKeys.IMAGE.value: sha256(image), DatalistKeys.LABEL.value: sha256(label)},
    }


def describe_converted(
    image: Path,
    label: Path,
    names: Mapping[str, str],
    convert: Callable[[], None],
    find_box: FindBox | None = None,
) -> dict[str, Any]:
    """:py:func:`describe_pair` of two files that ``convert`` writes, unless an earlier run did and both load."""
    try:
        return describe_pair(image, label, names, find_box)
    except InputError:  # not converted yet, or not readable
        convert()
        return describe_pair(image, label, names, find_box)


def place_pair(image: Path, label: Path, output: Path, item: Mapping[str, str], names: Mapping[str, str]) -> dict:
    """
    Check a pair that needs no conversion and put it where its datalist item says.

    Args:
        image: NIfTI file ``(x, y, z)``.
        label: NIfTI file on the same grid.
        output: folder that the item's paths are relative to.
        item: ``image`` and ``label`` of the datalist.
        names: label value, as text, to its name.

    Returns:
        The item and what :py:func:`describe_pair` says of it.

    Raises:
        InputError: as :py:func:`describe_pair` and :py:func:`place_file`.
    """
    described = describe_pair(image, label, names)
    place_file(image, output / item[DatalistKeys.IMAGE])
    place_file(label, output / item[DatalistKeys.LABEL])
    return {**item, **described}


def datalist(
    labels: Mapping[str, str],
    *,
    training: Iterable[Mapping[str, Any]],
    unlabeled: Iterable[Mapping[str, Any]] = (),
    validation: Iterable[Mapping[str, Any]] = (),
    testing: Iterable[Mapping[str, Any]] = (),
    **how_made: Any,
) -> dict[str, Any]:
    """
    Content of a datalist file.

    Args:
        labels: label value, as text, to its name.
        training: labelled items ``{"image": path, "label": path, "domain": name}``, paths relative to the datalist.
        unlabeled: items of which everything but ``image``, ``domain`` and ``published_box`` is left out.
        validation: labelled items.
        testing: labelled items.
        how_made: further keys at the head of the file, such as ``name`` and ``seed``.
    """
    shown = (DatalistKeys.IMAGE, DatalistKeys.DOMAIN, DatalistKeys.PUBLISHED_BOX)
    return {
        **how_made,
        "labels": dict(labels),
        DatalistKeys.TRAINING.value: [dict(item) for item in training],
        DatalistKeys.UNLABELED.value: [{key.value: item[key] for key in shown if key in item} for item in unlabeled],
        DatalistKeys.VALIDATION.value: [dict(item) for item in validation],
        DatalistKeys.TESTING.value: [dict(item) for item in testing],
    }


def case_item(case: str, folder: str = "Tr", domain: str = "") -> dict[str, str]:
    """Datalist item of ``images<folder>/<case>.nii.gz`` and its label, with ``domain`` unless that is empty."""
    item = {
        DatalistKeys.IMAGE.value: f"images{folder}/{case}.nii.gz",
        DatalistKeys.LABEL.value: f"labels{folder}/{case}.nii.gz",
    }
    return {**item, DatalistKeys.DOMAIN.value: domain} if domain else item


@dataclass(frozen=True)
class Sections:
    """Case ids of one datalist, named as :py:func:`datalist` names its items."""

    training: Sequence[str]
    unlabeled: Sequence[str] = ()
    validation: Sequence[str] = ()
    testing: Sequence[str] = ()


def published_datalists(
    dataset: str,
    labels: Mapping[str, str],
    settings: Mapping[str, Sections],
    items: Mapping[str, Mapping[str, str]],
    **how_made: Any,
) -> dict[str, dict[str, Any]]:
    """
    Datalists of a published split, of the cases that are there.

    Args:
        dataset: name of the data set.
        labels: label value, as text, to its name.
        settings: suffix of a datalist to its cases.
        items: case id to item, of the usable cases; the others are left out.
        how_made: further keys at the head of each file.

    Returns:
        File name to content. Settings without any labelled case are named and left out.
    """
    datalists = {}
    for suffix, sections in settings.items():
        name = f"datalist_{suffix}.json"
        usable = {
            section: [items[case] for case in cases if case in items] for section, cases in vars(sections).items()
        }
        if not usable[DatalistKeys.TRAINING]:
            print(f"{name} is not written: none of its {len(sections.training)} labelled cases is there.")
            continue
        datalists[name] = datalist(labels, name=f"{dataset}_{suffix}", **how_made, **usable)
    return datalists


def refuse_changed_datalists(output: Path, datalists: Mapping[str, Any]) -> None:
    """
    Make sure that writing ``datalists`` changes no split somebody may already have trained on.

    Args:
        output: folder of the datalists.
        datalists: file name to content, without boxes.

    Raises:
        InputError: if one of the files exists with another content, whatever its boxes.
    """
    for name, content in datalists.items():
        path = output / name
        if path.exists() and _without_boxes(read_json(path, "a datalist")) != content:
            raise InputError(
                f"{path}: exists with another split (other cases, seed or numbers than this run's), and a split in use "
                "is never overwritten; move it away or choose another output folder."
            )


def _without_boxes(content: Any) -> Any:
    """Parsed JSON without any ``published_box``, at any depth."""
    if isinstance(content, dict):
        return {key: _without_boxes(value) for key, value in content.items() if key != DatalistKeys.PUBLISHED_BOX}
    return [_without_boxes(value) for value in content] if isinstance(content, list) else content


def _with_boxes(content: Mapping[str, Any], boxes: Mapping[str, list[list[int]]]) -> dict[str, Any]:
    """A datalist whose items have the box of their image; an item that has one keeps its own."""
    key = DatalistKeys.PUBLISHED_BOX.value
    sections = (DatalistKeys.TRAINING, DatalistKeys.UNLABELED, DatalistKeys.VALIDATION, DatalistKeys.TESTING)
    return {
        **content,
        **{
            section.value: [{**item, key: item.get(key, boxes[item[DatalistKeys.IMAGE]])} for item in content[section]]
            for section in sections
        },
    }


def _add_boxes(output: Path, datalists: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """
    ``datalists`` with the boxes that ``entries`` of the manifest give, if any.

    Raises:
        InputError: if one exists, which has the same split, with other boxes.
    """
    key = DatalistKeys.PUBLISHED_BOX
    boxes = {entry[DatalistKeys.IMAGE]: entry[key] for entry in entries if key in entry}
    if not boxes:
        return datalists
    boxed = {name: _with_boxes(content, boxes) for name, content in datalists.items()}
    existing = {name: read_json(output / name, "a datalist") for name in boxed if (output / name).exists()}
    for name, found in existing.items():
        if _with_boxes(found, boxes) != boxed[name]:
            raise InputError(
                f"{output / name}: exists with another `{key}` than the labels in {output} give, and a list in use is "
                "never overwritten; move it away or choose another output folder."
            )
    if older := [name for name, found in existing.items() if found != boxed[name]]:
        print(f"{', '.join(older)}: the split is the same; `{key}` is added to the items that lack it.")
    return boxed


def name_cases(title: str, cases: Iterable[str]) -> None:
    """Print ``title``, the number of ``cases`` and every one of them; nothing when there are none."""
    if listed := sorted(cases):
        print(f"{title} ({len(listed)}): {', '.join(listed)}")


def work_on_all(cases: Iterable[str], work: Callable[[str], Any], doing: str) -> list[Any]:
    """
    What ``work`` returns for every case; a case it refuses does not keep the others waiting.

    Args:
        cases: case ids.
        work: called with each of them.
        doing: what it does, for the progress bar.

    Raises:
        InputError: at the end, with everything that was refused.
    """
    done, complaints = [], []
    for case in tqdm(list(cases), desc=doing, unit="case"):
        try:
            done.append(work(case))
        except InputError as error:
            complaints.append(str(error))
    if complaints:
        advice = "Download them again, or delete them: a case without its file is left out."
        raise InputError(
            "\n".join([f"{len(complaints)} cases cannot be used, no datalist is written:", *complaints, advice])
        )
    return done


def write_lists(output: Path, datalists: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Write ``manifest.json`` and the datalists (file name to content) and say so."""
    write_json(output / "manifest.json", manifest)
    for name, content in datalists.items():
        write_json(output / name, content)
    print(f"Wrote {', '.join(datalists)} and manifest.json to {output}.")


def prepare_all(
    output: Path,
    datalists: Mapping[str, Any],
    cases: Sequence[str],
    work: Callable[[str], list[dict[str, Any]]],
    *,
    verb: str,
    dry_run: bool,
    **how_made: Any,
) -> Path | None:
    """
    The common end of the commands with a published split: prepare every case, then write the lists.

    Args:
        output: folder to write to.
        datalists: file name to content, without boxes.
        cases: ids of the cases that are there.
        work: puts a case's files into ``output``, unless they are there; returns its entries in the manifest, whose
            ``published_box``, if they have one, goes into the items with the same ``image``.
        verb: what ``work`` does.
        dry_run: say what would be done, but do nothing.
        how_made: further keys at the head of the manifest.

    Returns:
        ``output``, ``None`` with ``dry_run``.

    Raises:
        InputError: if there is no datalist to write, or one exists with another split, both before anything is written;
            or, after the cases were prepared, if one is broken or an existing list has other boxes.
    """
    if not datalists:
        raise InputError("found none of the published labelled cases, so that there is no datalist to write.")
    refuse_changed_datalists(output, datalists)
    if dry_run:
        print(f"Dry run: would {verb} {len(cases)} cases, unless done, and write {', '.join(datalists)} to {output}.")
        return None
    entries = [entry for group in work_on_all(cases, work, verb) for entry in group]
    # boxes come from the labels, which may not even be there before
    write_lists(output, _add_boxes(output, datalists, entries), {**how_made, "cases": entries})
    return output
