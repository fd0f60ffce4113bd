# SPDX-License-Identifier: Apache-2.0
"""Labeled CT-like abdomens drawn on the spot: data for the demo, the tests, and all three tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from skimage.transform import downscale_local_mean
from tqdm import tqdm

from ..checks.arguments import check_seed
from ..data.datalists import datalist, refuse_changed_datalists
from ..data.nifti import save_nifti
from ..errors import InputError
from ..files import write_json
from ..keys import DatalistKeys

__all__ = ["draw_phantom", "write_phantom"]

_FIELD_OF_VIEW_MM = np.array([300.0, 240.0, 200.0])
_FINE = 2  # sub-voxels along each axis; averaging them is what makes partial volume


class _Tissue(IntEnum):
    """What is drawn. The first seven are the label values, the others belong to the background."""

    AIR = 0
    LIVER = 1
    SPLEEN = 2
    RIGHT_KIDNEY = 3
    LEFT_KIDNEY = 4
    AORTA = 5
    GALLBLADDER = 6
    FAT = 7
    MUSCLE = 8
    BONE = 9
    BOWEL = 10
    BOWEL_GAS = 11
    VEIN = 12


_NUM_CLASSES = 7
_LABELS = {"0": "background"} | {
    str(int(organ)): organ.name.lower().replace("_", " ") for organ in list(_Tissue)[1:_NUM_CLASSES]
}


@dataclass(frozen=True)
class _Scanner:
    """
    How a scanner shows the same body.

    Args:
        spacing_mm: voxel size along the patient's x, y and z.
        contrast_hu: HU of the tissues that take up contrast agent; the others are the same everywhere.
        offset_hu: error of the calibration, added to everything.
        gamma: exponent on the range -200 to 400 HU; above 1 it darkens soft tissue.
        noise_hu: standard deviation of the noise.
        blur_mm: standard deviation of the reconstruction kernel along z.
        tilt_degrees: rotation of the table about z, which only the affine knows.
        axcodes: directions in which the stored axes point.
    """

    spacing_mm: tuple[float, float, float]
    contrast_hu: Mapping[_Tissue, float]
    offset_hu: float
    gamma: float
    noise_hu: float
    blur_mm: float
    tilt_degrees: float
    axcodes: str


def _contrast(liver: float, spleen: float, kidneys: float, aorta: float, vein: float) -> dict[_Tissue, float]:
    return {
        _Tissue.LIVER: liver,
        _Tissue.SPLEEN: spleen,
        _Tissue.RIGHT_KIDNEY: kidneys,
        _Tissue.LEFT_KIDNEY: kidneys,
        _Tissue.AORTA: aorta,
        _Tissue.VEIN: vein,
    }


_SCANNERS = {
    # portal venous, the textbook scan
    "A": _Scanner((5.0, 5.0, 5.0), _contrast(110, 125, 180, 155, 150), 0.0, 1.0, 14.0, 1.0, 0.0, "RAS"),
    # arterial: bright aorta and kidneys, dull liver; thick slices
    "B": _Scanner((4.5, 4.5, 6.0), _contrast(80, 130, 200, 290, 90), -10.0, 1.0, 18.0, 2.5, 0.0, "RAS"),
    # late: everything close together, patient lying askew
    "C": _Scanner((5.0, 5.0, 4.0), _contrast(92, 98, 140, 112, 110), 8.0, 0.9, 16.0, 1.0, 6.0, "RAS"),
    # low voltage: iodine shines, noise as well; stored the DICOM way round
    "D": _Scanner((5.5, 5.5, 5.5), _contrast(125, 165, 270, 330, 160), 25.0, 1.25, 28.0, 2.0, -3.0, "LPS"),
}
_PLAIN_HU = {
    _Tissue.AIR: -1000.0,
    _Tissue.GALLBLADDER: 10.0,
    _Tissue.FAT: -100.0,
    _Tissue.MUSCLE: 55.0,
    _Tissue.BONE: 420.0,
    _Tissue.BOWEL: 40.0,
    _Tissue.BOWEL_GAS: -850.0,
}


def _smooth_field(rng: np.random.Generator, shape: tuple[int, ...], knots: int) -> np.ndarray:
    """Smooth random field of ``shape``, float32: normal values on ``knots`` points per axis, cubic in between."""
    field = rng.standard_normal((knots,) * 3).astype(np.float32)
    for size in shape:  # a spline is linear in its knots: one small matrix per axis, ten times as fast as a 3D zoom
        basis = ndimage.zoom(
            np.eye(knots, dtype=np.float32), (size / knots, 1), order=3, mode="nearest", grid_mode=True
        )
        field = np.tensordot(field, basis, axes=(0, 1))  # contracts the first axis, appends the new one
    return field


def _ellipsoid(
    points: tuple[np.ndarray, ...], rng: np.random.Generator, center: tuple[float, ...], half_axes: tuple[float, ...]
) -> np.ndarray:
    """Mask of an ellipsoid given in mm, moved by up to 6 mm, resized by up to 12 % and turned a little about z."""
    x, y, z = (axis - (at + rng.uniform(-6, 6)) for axis, at in zip(points, center, strict=True))
    angle = rng.uniform(-0.25, 0.25)
    a, b, c = np.asarray(half_axes) * rng.uniform(0.88, 1.12, 3)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    inside: np.ndarray = (along / a) ** 2 + (across / b) ** 2 + (z / c) ** 2 < 1
    return inside


def _tube(
    points: tuple[np.ndarray, ...], rng: np.random.Generator, center: tuple[float, float], radius: float
) -> np.ndarray:
    """Mask of a vessel that runs along z, winding by some mm."""
    x, y, z = points
    bend, phase = rng.uniform(2, 7), rng.uniform(0, 2 * np.pi)
    at_x = center[0] + rng.uniform(-4, 4) + bend * np.sin(z / 45 + phase)
    at_y = center[1] + rng.uniform(-3, 3) + 0.5 * bend * np.cos(z / 60 + phase)
    return (x - at_x) ** 2 + (y - at_y) ** 2 < (radius * rng.uniform(0.88, 1.12)) ** 2


def _draw_tissues(rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: np.ndarray) -> np.ndarray:
    """A body on a grid of ``shape`` around the origin (x to the right, y to the front, z to the head), as uint8."""
    grid = np.meshgrid(
        *(
            (np.arange(n, dtype=np.float32) - (n - 1) / 2) * d
            for n, d in zip(shape, spacing_mm.astype(np.float32), strict=True)
        ),
        indexing="ij",
        sparse=True,
    )
    # one size for the whole patient, one smooth deformation for all organs: they move together and never tear
    scale = rng.uniform(0.92, 1.06)
    x, y, z = points = tuple(axis / scale + 6 * _smooth_field(rng, shape, 5) for axis in grid)

    # shells of skin, wall and cavity: a rounded box seen from the feet; 1 at the skin
    depth = (np.abs(x / 132) ** 2.5 + np.abs(y / 96) ** 2.5) ** (1 / 2.5)
    fat_inside = rng.uniform(0.84, 0.90)
    wall_inside = fat_inside - 0.08
    cavity = depth < wall_inside
    tissues = np.full(shape, _Tissue.AIR, dtype=np.uint8)
    tissues[depth < 1] = _Tissue.FAT
    tissues[depth < fat_inside] = _Tissue.MUSCLE
    ribs = (depth < fat_inside - 0.015) & (depth > wall_inside + 0.01) & (np.sin((z + 0.35 * np.abs(x)) / 5.5) > 0.6)
    tissues[ribs & (z > -30)] = _Tissue.BONE
    tissues[cavity] = _Tissue.FAT

    # what lies between the organs looks like them but carries no label
    loops = _smooth_field(rng, shape, 9)
    tissues[cavity & (loops > 0.25)] = _Tissue.BOWEL
    tissues[cavity & (loops > 1.1) & (y > 0) & (z < 20)] = _Tissue.BOWEL_GAS
    stomach = cavity & _ellipsoid(points, rng, (-48, 32, 42), (42, 32, 40))
    tissues[stomach] = _Tissue.BOWEL
    tissues[stomach & (y > 45 + rng.uniform(-8, 8))] = _Tissue.BOWEL_GAS

    liver = _ellipsoid(points, rng, (74, 0, 28), (48, 66, 66)) | _ellipsoid(points, rng, (12, 36, 46), (58, 34, 30))
    psoas = _ellipsoid(points, rng, (40, -52, -70), (20, 20, 70)) | _ellipsoid(
        points, rng, (-40, -52, -70), (20, 20, 70)
    )
    organs = {
        _Tissue.LIVER: liver,
        _Tissue.SPLEEN: _ellipsoid(points, rng, (-84, -24, 40), (25, 38, 42)),
        _Tissue.MUSCLE: psoas,
        _Tissue.RIGHT_KIDNEY: _ellipsoid(points, rng, (58, -44, -34), (24, 22, 46)),
        _Tissue.LEFT_KIDNEY: _ellipsoid(points, rng, (-58, -44, -22), (24, 22, 46)),
        _Tissue.GALLBLADDER: _ellipsoid(points, rng, (42, 42, -12), (14, 13, 24)),
        _Tissue.VEIN: _tube(points, rng, (22, -26), 11),
        _Tissue.AORTA: _tube(points, rng, (-8, -30), 11),
    }
    for tissue, mask in organs.items():  # later ones lie on top
        tissues[mask & cavity] = tissue

    vertebra = (x**2 + (y + 66) ** 2 < 21**2) | ((np.abs(x) < 5) & (y < -66) & (y > -92))
    canal = x**2 + (y + 82) ** 2 < 7**2
    tissues[vertebra & ~canal & (depth < 1)] = _Tissue.BONE
    return tissues


def draw_phantom(rng: np.random.Generator, domain: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Draw one patient as one scanner sees it.

    Args:
        rng: decides everything that differs between patients.
        domain: ``"A"`` to ``"D"``, the scanner.

    Returns:
        Image in HU ``(x, y, z)`` int16, label of the same shape with values 0 to 6, uint8, and the affine ``(4, 4)``
        from voxel index to mm in RAS. The field of view is about 300 by 240 by 200 mm, a voxel 4 to 6 mm.
    """
    scanner = _SCANNERS[domain]
    spacing = np.asarray(scanner.spacing_mm) * rng.uniform(0.97, 1.03)
    shape = tuple(np.round(_FIELD_OF_VIEW_MM / spacing).astype(int).tolist())
    fine_shape = tuple(size * _FINE for size in shape)
    tissues = _draw_tissues(rng, fine_shape, spacing / _FINE)

    # 1. the share of every organ in a voxel decides its label: the largest one wins
    share = np.stack([downscale_local_mean(tissues == value, (_FINE,) * 3) for value in range(1, _NUM_CLASSES)])
    share = np.concatenate([1 - share.sum(axis=0, keepdims=True), share])
    label = share.argmax(axis=0).astype(np.uint8)

    # 2. HU of this patient's tissues, averaged over the voxel
    table = np.zeros(len(_Tissue), dtype=np.float32)
    for tissue, value in {**_PLAIN_HU, **scanner.contrast_hu}.items():
        spread = 8.0 if tissue in scanner.contrast_hu else 3.0  # uptake varies more than tissue does
        table[tissue] = value + spread * rng.standard_normal()
    hu = downscale_local_mean(table[tissues], (_FINE,) * 3).astype(np.float32)
    hu = ndimage.gaussian_filter1d(hu, scanner.blur_mm / spacing[2], axis=2)

    # 3. the scanner: contrast curve and calibration, slow drift over the volume, grainy noise
    soft = np.clip((hu + 200) / 600, 0, 1)
    hu += 600 * (soft**scanner.gamma - soft) + scanner.offset_hu
    hu += 10 * _smooth_field(rng, shape, 3)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), 0.5)
    hu += scanner.noise_hu * noise / noise.std()
    image = np.clip(np.round(hu), -1024, 3071).astype(np.int16)

    # 4. where it lies in the scanner, and which way round it is stored
    tilt = np.deg2rad(scanner.tilt_degrees)
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    centre_mm = rng.uniform(-40, 40, 3)
    matrix = turn * spacing
    affine = nib.affines.from_matvec(matrix, centre_mm - matrix @ ((np.asarray(shape) - 1) / 2))
    ras, stored = nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(scanner.axcodes)
    change = nib.orientations.ornt_transform(ras, stored)
    image, label = (nib.orientations.apply_orientation(volume, change) for volume in (image, label))
    return image, label, affine @ nib.orientations.inv_ornt_aff(change, shape)


def write_phantom(
    output: str, *, seed: int = 0, num_training: int = 28, num_validation: int = 4, num_testing: int = 8
) -> Path:
    """
    Generate a synthetic dataset with seven classes and four scanners, and write the datalists of all three tasks.

    The scanners ``A`` to ``D`` take turns. Writes ``imagesTr`` and ``labelsTr`` (training), ``imagesVal``,
    ``labelsVal``, ``imagesTs``, ``labelsTs`` and

    - ``datalist_10.json``: a tenth of the training volumes labeled (rounded, at least two, of different scanners);
    - ``datalist_100.json``: all of them labeled;
    - ``datalist_adapt.json``: labeled ``A``, unlabeled ``D``, tested on ``D``, no validation;
    - ``datalist_generalize.json``: a third of ``A``, ``B`` and ``C`` labeled, the rest of them unlabeled, validated on
      them and tested on ``D``, of which training sees nothing.

    A volume depends on the seed, its section and its place in the section alone.

    Args:
        output: folder to write to.
        seed: seed of everything that is random.
        num_training: training volumes, at least 4.
        num_validation: validation volumes.
        num_testing: testing volumes.

    Returns:
        Path of ``datalist_10.json``.

    Raises:
        InputError: if a number is out of range, or ``output`` holds a datalist of other numbers or another seed.
    """
    check_seed(seed)
    sizes = {"num_training": (num_training, 4), "num_validation": (num_validation, 0), "num_testing": (num_testing, 0)}
    for name, (size, least) in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise InputError(f"{name}: expected an integer of at least {least}, got {size!r}.")
    output_dir = Path(output)

    # 1. names and datalists, before anything is drawn
    sections: list[list[dict[str, str]]] = []
    first = 0
    for suffix, (size, _) in zip(("Tr", "Val", "Ts"), sizes.values(), strict=True):
        sections.append(
            [
                {
                    DatalistKeys.IMAGE.value: f"images{suffix}/phantom_{first + i:03d}.nii.gz",
                    DatalistKeys.LABEL.value: f"labels{suffix}/phantom_{first + i:03d}.nii.gz",
                    DatalistKeys.DOMAIN.value: list(_SCANNERS)[i % len(_SCANNERS)],
                }
                for i in range(size)
            ]
        )
        first += size
    datalists = _datalists(*sections, seed=seed)
    refuse_changed_datalists(output_dir, datalists)

    # 2. the volumes
    jobs = [(number, i, item) for number, items in enumerate(sections) for i, item in enumerate(items)]
    for number, i, item in tqdm(jobs, desc="drawing", unit="volume"):
        image, label, affine = draw_phantom(np.random.default_rng([seed, number, i]), item[DatalistKeys.DOMAIN])
        save_nifti(output_dir / item[DatalistKeys.IMAGE], image, affine)
        save_nifti(output_dir / item[DatalistKeys.LABEL], label, affine)
    for name, content in datalists.items():
        write_json(output_dir / name, content)
    print(f"Wrote {len(jobs)} volumes and {', '.join(datalists)} to {output_dir}.")
    return output_dir / "datalist_10.json"


def _datalists(
    training: list[dict[str, str]], validation: list[dict[str, str]], testing: list[dict[str, str]], *, seed: int
) -> dict[str, dict[str, Any]]:
    """File name to content of the datalists that :py:func:`write_phantom` promises."""

    def of(items: list[dict[str, str]], domains: str) -> list[dict[str, str]]:
        return [item for item in items if item[DatalistKeys.DOMAIN] in domains]

    # scanners take turns, so the first two or more are of different ones
    num_labeled = max(2, round(len(training) / 10))
    sources = of(training, "ABC")
    num_labeled_sources = max(3, round(len(sources) / 3))  # one each at least, again by turns
    return {
        "datalist_10.json": datalist(
            _LABELS,
            name="phantom_10",
            seed=seed,
            training=training[:num_labeled],
            unlabeled=training[num_labeled:],
            validation=validation,
            testing=testing,
        ),
        "datalist_100.json": datalist(
            _LABELS, name="phantom_100", seed=seed, training=training, validation=validation, testing=testing
        ),
        "datalist_adapt.json": datalist(
            _LABELS,
            name="phantom_adapt",
            seed=seed,
            training=of(training, "A"),
            unlabeled=of(training, "D"),
            testing=of(testing, "D"),
        ),
        "datalist_generalize.json": datalist(
            _LABELS,
            name="phantom_generalize",
            seed=seed,
            training=sources[:num_labeled_sources],
            unlabeled=sources[num_labeled_sources:],
            validation=of(validation, "ABC"),
            testing=of(testing, "D"),
        ),
    }
