# SPDX-License-Identifier: Apache-2.0
"""What would make a reader stack the slices of a DICOM series wrongly, or keep it from reading them."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from .dicom import Slice
from .series import series_of, slice_normal, sort_folder

__all__ = ["series_problems"]

LOGGER = logging.getLogger("dtlp")

_STEP_TOLERANCE = 0.05  # share of the distance between slices that one may be off its place
_MOST_ROUNDING = 0.25  # share of it that rounded numbers may add up to
_SAME = 1e-3  # scanners write the same direction and spacing with other last digits


def series_problems(path: str | os.PathLike[str]) -> list[str]:
    """
    What would make a reader stack the slices of a series wrongly, or keep it from reading them; pixels are not read.

    A CT whose numbers cannot be known to be HU is a warning in the log.

    Args:
        path: see :py:func:`series_of`.

    Raises:
        InputError: if pydicom is missing.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise InputError(f"{path}: is DICOM; reading it requires pydicom: pip install pydicom")
    try:
        slices = series_of(path)
    except InputError as error:
        return [str(error)]
    damaged = sort_folder(slices[0].file.parent).damaged
    if damaged:
        file, reason = next(iter(damaged.items()))
        return [
            f"{file}: damaged or not a DICOM file ({reason}), so a slice may be missing. Replace it, or move it "
            "elsewhere."
        ]
    for found in slices:
        if found.missing:
            named = " and no ".join(found.missing)
            return [f"{found.file} ({found.sop_class}): has no {named}, which is needed to position the slice."]
    if problem := _decoder_problem(slices):
        return [problem]
    if any(s.modality == "CT" and s.intercept is None for s in slices):
        LOGGER.warning(
            f"{path}: CT without RescaleIntercept; its numbers are assumed to be HU. If they are not (air is far from "
            "-1000), export the series again."
        )
    return _grid_problems(Path(path), slices)


def _decoder_problem(slices: Sequence[Slice]) -> str:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    for syntax in sorted({s.syntax for s in slices} - {""}):
        uid = UID(syntax)
        if not uid.is_transfer_syntax or not uid.is_compressed or uid.is_deflated:
            continue
        file = next(s.file for s in slices if s.syntax == syntax)
        try:
            if get_decoder(uid).is_available:
                continue
        except NotImplementedError:
            return f"{file}: pixels are compressed as {uid.name}, which cannot be read; export them uncompressed."
        return (
            f"{file}: pixels are compressed as {uid.name}, whose decoder is missing: pip install "
            "python-gdcm, or export them uncompressed."
        )
    return ""


def _grid_problems(path: Path, slices: Sequence[Slice]) -> list[str]:
    """One sentence if the slices, in the order of their places, are not planes of an even grid."""
    for name in ("orientation", "spacing"):
        values = np.array([getattr(s, name) for s in slices])
        if not np.allclose(values, values[0], rtol=0, atol=_SAME):
            tag = {"orientation": "ImageOrientationPatient", "spacing": "PixelSpacing"}[name]
            return [f"{path}: expected all slices on one grid, got slices that differ in {tag}."]
    positions = np.array([s.position for s in slices])  # (slices, 3)
    along = positions @ slice_normal(slices[0])
    steps = np.diff(along)
    usual = float(np.median(steps))
    if usual == 0 or (steps < _STEP_TOLERANCE * usual).any():
        i = int(steps.argmin())
        return [
            f"{path}: expected every slice position once, got {_name(slices[i])} and {_name(slices[i + 1])} at the "
            "same position. Put phases, echoes or directions into separate folders."
        ]
    # what is written with few digits may be off by half a unit of the last one, and so may the fit
    digits = np.max([s.decimals for s in slices], axis=0)
    rounding = 10.0**-digits  # (3,), twice the half
    along_rounding = float(np.abs(slice_normal(slices[0])) @ rounding)
    off, step = _off_grid(positions, np.arange(len(slices)), slices[0])
    if np.abs(off[0]).max() > min(_STEP_TOLERANCE * step + along_rounding, _MOST_ROUNDING * step):
        return [_gap_problem(path, slices, steps, positions)]
    # a tilted gantry moves every slice sideways by the same; readers make one affine from the first and the last
    aside = off[1]
    if (np.abs(aside) > _STEP_TOLERANCE * step + rounding).any():
        moves = np.diff(positions, axis=0)
        jumps = np.linalg.norm(moves - np.median(moves, axis=0), axis=1)
        i = int(np.flatnonzero(jumps > 0.99 * jumps.max())[0])
        most = np.linalg.norm(aside, axis=1).max()
        return [
            f"{path}: expected slices stacked along one direction, got some shifted sideways by up to {most:.3g} mm, "
            f"most from {_name(slices[i])} to {_name(slices[i + 1])}. Export the series again."
        ]
    return []


def _off_grid(positions: np.ndarray, numbers: np.ndarray, first: Slice) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """
    How far slices lie from the even grid that fits best: along the normal, and the rest of the way, each in mm; and the
    distance of that grid's slices.
    """
    fit = np.polynomial.polynomial.polyfit(numbers, positions, 1)  # (2, 3): where slice 0 is, and the way to the next
    off = positions - np.outer(numbers, fit[1]) - fit[0]
    normal = slice_normal(first)
    along = off @ normal
    return (along, off - np.outer(along, normal)), float(fit[1] @ normal)


def _gap_problem(path: Path, slices: Sequence[Slice], steps: np.ndarray, positions: np.ndarray) -> str:
    """The sentence on slices that are not at even distances: how many are missing, if they would be then."""
    step = float(steps[steps < 1.5 * np.median(steps)].mean())
    numbers = np.concatenate([[0], np.cumsum(np.maximum(1, np.round(steps / step)))])
    (along, _), _ = _off_grid(positions, numbers, slices[0])
    missing = int(numbers[-1]) + 1 - len(slices)
    if np.abs(along).max() > _MOST_ROUNDING * step or not missing:
        i = int(steps.argmax())
        return (
            f"{path}: expected equally spaced slices, got spacings from {steps.min():.3g} to {steps.max():.3g} mm, the "
            f"largest from {_name(slices[i])} to {_name(slices[i + 1])}: slices are missing, or the spacing varies. "
            "Export the series again, or convert it with dcm2niix."
        )
    i = int(np.flatnonzero(np.diff(numbers) > 1)[0])
    return (
        f"{path}: expected {len(slices) + missing} slices {step:.3g} mm apart, got {len(slices)}: {missing} "
        f"missing, first from {_name(slices[i])} to {_name(slices[i + 1])} ({steps[i]:.3g} mm). Export the series "
        "again, or convert it with dcm2niix."
    )


def _name(found: Slice) -> str:
    return found.file.name if found.frame is None else f"frame {found.frame}"
