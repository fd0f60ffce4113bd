# SPDX-License-Identifier: Apache-2.0
"""The table of damaged and odd files: how each is made, and the one verdict that every command has to give."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

SHAPE = (6, 7, 8)  # unequal sizes, so that swapped axes show
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])
NAMES = {"0": "background", "1": "first", "2": "second"}


class Case(NamedTuple):
    """
    A file that is odd in one way.

    Attributes:
        write: function of the path; writes the file.
        refused: what the sentence says; empty if the file is to be accepted.
        kind: ``image`` or ``label``: which of a pair it is; the other one is whole.
        ending: of the file.
        both: fields of the header that the other one of the pair has too, so that the two are on one grid.
    """

    write: Callable[[Path], object]
    refused: str = ""
    kind: str = "image"
    ending: str = ".nii.gz"
    both: dict[str, Any] = {}  # noqa: RUF012  # of a NamedTuple, and never changed


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape or SHAPE).astype(np.float32)


def label(dtype: Any = np.uint8) -> np.ndarray:
    """Background and two boxes."""
    voxels = np.zeros(SHAPE, dtype)
    voxels[1:3, 2:4, 1:6], voxels[4, 5, 2:5] = 1, 2
    return voxels


def changed(voxels: np.ndarray, value: float) -> np.ndarray:
    """A copy with another value in one voxel."""
    voxels = voxels.copy()
    voxels[3, 4, 5] = value
    return voxels


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE, **fields: Any) -> Path:
    """A NIfTI file with other fields in its header than nibabel, which mends headers, would write."""
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, nib.nifti1.header_dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def saved(voxels: np.ndarray, affine: np.ndarray = AFFINE, **fields: Any) -> Callable[[Path], object]:
    return lambda path: save(path, voxels, affine, **fields)


def cut(path: Path) -> None:
    content = save(path, noise()).read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def flip_checksum(path: Path) -> None:
    content = bytearray(save(path, noise()).read_bytes())
    content[-8] ^= 1  # gzip ends in CRC32 and length, four bytes each
    path.write_bytes(content)


def rename(ending: str) -> Callable[[Path], object]:
    """Written under another ending than the one that it then has."""

    def write(path: Path) -> None:
        save(path.with_name(f"written{ending}"), noise()).rename(path)

    return write


def sides(*pixdim: float) -> list[list[float]]:
    return [[-1.0, *pixdim, 0, 0, 0, 0]]


def moved(*mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += mm
    return affine


def rows(x: list[float], y: list[float], z: list[float]) -> dict[str, Any]:
    return {"sform_code": 1, "qform_code": 0, "srow_x": x, "srow_y": y, "srow_z": z}


NO_FORMS = {"sform_code": 0, "qform_code": 0}
COLORS = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
DAMAGED = "truncated, damaged or not an image"
NO_NUMBER = "got NaN or infinity"

CASES: dict[str, Case] = {
    # files
    "good": Case(saved(noise())),
    "good_uncompressed": Case(saved(noise()), ending=".nii"),
    "truncated_gz": Case(cut, DAMAGED),
    "truncated_nii": Case(cut, DAMAGED, ending=".nii"),
    "checksum": Case(flip_checksum, "CRC"),
    "not_gzip": Case(rename(".nii"), "expected gzip, as its name says, got an uncompressed NIfTI file"),
    "gzip_named_nii": Case(rename(".nii.gz"), "as its name says, got gzip; rename it to *.nii.gz", ending=".nii"),
    "text": Case(lambda path: path.write_text("no image\n" * 99), DAMAGED, ending=".nii"),
    "text_gz": Case(lambda path: path.write_text("no image\n" * 99), DAMAGED),
    "empty": Case(lambda path: path.write_bytes(b""), "got an empty file"),
    "web_page": Case(lambda path: path.write_text("<!DOCTYPE html><html>Sign in</html>" * 20), "got a web page"),
    "lfs_pointer": Case(
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"),
        "got a pointer of Git LFS",
    ),
    "annex_pointer": Case(
        lambda path: path.write_text("/annex/objects/MD5E-s9--1.nii.gz\n"), "got a pointer of git-annex"
    ),
    "link_to_nothing": Case(lambda path: path.symlink_to(path.with_name("nowhere")), "no such file"),
    # headers
    "zero_side": Case(saved(noise(), pixdim=sides(1, 1, 0)), "got 1 x 1 x 0 mm"),
    "zero_side_no_forms": Case(saved(noise(), pixdim=sides(1, 1, 0), **NO_FORMS), "got 1 x 1 x 0 mm"),
    "negative_side": Case(saved(noise(), pixdim=sides(1, 1, -2))),
    "no_forms": Case(saved(noise(), **NO_FORMS), both=NO_FORMS),
    "sform_alone": Case(saved(noise(), qform_code=0)),
    "qform_alone": Case(saved(noise(), sform_code=0, qform_code=1)),
    "sform_of_zeros": Case(saved(noise(), **rows(*[[0.0] * 4] * 3)), "expected an affine in its sform, got only zeros"),
    "singular": Case(saved(noise(), **rows([1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0])), "expected an invertible affine"),
    "nan_affine": Case(
        saved(noise(), **rows([-1, 0, 0, np.nan], [0, 1, 0, 0], [0, 0, 2, 0])), "finite numbers in its affine"
    ),
    "quaternion": Case(
        saved(noise(), sform_code=0, qform_code=1, quatern_b=0.9, quatern_c=0.9, quatern_d=0.1),
        "got the quaternion [0.9",
    ),
    "microns": Case(saved(noise(), xyzt_units=3), "expected mm, got microns"),
    "meters": Case(saved(noise(), xyzt_units=1), "expected mm, got meters"),
    # axes and kinds of numbers
    "two_axes": Case(saved(noise(6, 7)), "expected a single 3-D volume, got a shape of [6, 7]"),
    "four_axes_one_volume": Case(saved(noise(*SHAPE, 1))),
    "five_axes_one_volume": Case(saved(noise(*SHAPE, 1, 1))),
    "two_volumes": Case(saved(noise(*SHAPE, 2)), "expected a single 3-D volume, got a shape of [6, 7, 8, 2]"),
    "complex": Case(saved(noise().astype(np.complex64)), "expected real numbers, got complex ones"),
    "colors": Case(saved(COLORS), "expected one number per voxel, got colors (RGB)"),
    # voxels of an image
    "whole_numbers": Case(saved(noise().astype(np.int16))),
    "nan": Case(saved(changed(noise(), np.nan)), NO_NUMBER),
    "infinite": Case(saved(changed(noise(), np.inf)), NO_NUMBER),
    "beyond_float32": Case(saved(changed(noise().astype(float), 1e300)), NO_NUMBER),
    "constant": Case(saved(np.full(SHAPE, 7, np.int16)), "expected an image, got the value 7 in every voxel"),
    "label_map": Case(saved(label()), "got only the values [0, 1, 2], as in a label map"),
    # labels
    "label_empty": Case(saved(np.zeros(SHAPE, np.uint8)), kind="label"),
    "label_of_whole_floats": Case(saved(label(np.float64)), kind="label"),
    "label_with_fractions": Case(
        saved(label(np.float32) / 2), "expected integers of at least 0, got the values [0.5]", "label"
    ),
    "label_negative": Case(
        saved(changed(label(np.int16), -1)), "expected integers of at least 0, got the values [-1]", "label"
    ),
    "label_nan": Case(saved(changed(label(np.float32), np.nan)), NO_NUMBER, "label"),
    "label_of_no_class": Case(saved(changed(label(), 7)), "expected only the values [0, 1, 2], got [7].", "label"),
    "label_truncated": Case(cut, DAMAGED, "label"),
    "label_two_axes": Case(saved(label()[..., 1]), "expected a single 3-D volume, got a shape of [6, 7]", "label"),
    "label_complex": Case(saved(label(np.complex64)), "expected real numbers, got complex ones", "label"),
    "label_of_another_shape": Case(saved(label()[:, :-1]), "got shape [6, 6, 8], but", "label"),
    "label_0.0001_mm_off": Case(saved(label(), moved(1e-4, 0, 0)), kind="label"),
    "label_0.05_voxels_off": Case(saved(label(), moved(0, 0, 0.1)), kind="label"),
    "label_1_mm_off": Case(saved(label(), moved(0, 0, 1)), "up to 0.5 voxels apart (allowed: 0.1)", "label"),
    "label_of_thicker_slices": Case(saved(label(), np.diag([-1, 1, 2.1, 1])), "up to 0.35 voxels apart", "label"),
    "label_mirrored": Case(saved(label(), np.diag([1, 1, 2, 1])), "up to 10 voxels apart", "label"),
}


def write_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Image ``imagesTr/<name>`` and label ``labelsTr/<name>``, one of them as the table has it."""
    case = CASES[name]
    files = {kind: folder / f"{kind}sTr" / f"{name}{case.ending}" for kind in ("image", "label")}
    save(files["image"], noise(seed=1), **case.both)
    save(files["label"], label(), **case.both)
    files[case.kind].unlink()
    case.write(files[case.kind])
    return files["image"], files["label"]
