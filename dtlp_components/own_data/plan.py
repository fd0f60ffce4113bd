# SPDX-License-Identifier: Apache-2.0
"""Settings of a bundle that follow from its scans, with the reasons; docs/get-started/own-scans.md has the rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..keys import DatalistKeys as Keys
from ..transforms.intensity import AIR_HU, LOWEST_CT, looks_like_hu
from .inspect import ScanFacts
from .memory import CACHE_SHARE, Room, estimate_bytes

__all__ = ["Choice", "cached_bytes", "choose_settings", "guess_modality", "guess_spacing", "guess_window"]

ANISOTROPIC = 3.0  # ratio of the largest to the smallest side of a voxel
MAX_PATCH_VOXELS = 2**20  # about 100 along each side; more has not been tried
MIN_PATCH_VOXELS = 3 * 16**3  # at its deepest stage the network has to normalize what is left of them, one in 16^3
FEATURES = (32, 16, 8)
BATCH_SIZES = (2, 1)
DENSE_HU = 2000  # 99.5 % of a CT are below it, tooth enamel; MR that was scaled to whole numbers may look like HU else
ITERATIONS = (1000, 6000)  # 6000 is the default of recipes/base
GIVEN = "as given on the command line"


class Choice(NamedTuple):
    """A value of the configuration, and why it is what it is."""

    value: Any
    why: str


def choose_settings(
    groups: Mapping[Keys, Sequence[ScanFacts]], num_classes: int, room: Room, given: Mapping[str, Any]
) -> dict[str, Choice]:
    """
    All settings that follow from the scans, in the order in which they depend on each other.

    Args:
        groups: scans of every section of the datalist.
        num_classes: with the background.
        room: what a training may take.
        given: what the user has set, by key; ``None`` (or an empty text) is for what is to be derived; and
            ``in_channels``, what was found.

    Raises:
        InputError: if nothing fits into the budget.
    """
    labeled, unlabeled = groups[Keys.TRAINING], groups[Keys.UNLABELED]
    seen = [*labeled, *unlabeled]  # what the training sees: validation and testing decide nothing
    chosen: dict[str, Choice] = {}

    if given["modality"]:
        chosen["modality"] = Choice(given["modality"], GIVEN)
    elif given["intensity_window"] is not None:
        chosen["modality"] = Choice("CT", "because --intensity_window was given")
    elif given["in_channels"] > 1:
        chosen["modality"] = Choice(
            given["named_modality"] or "MR",
            f"{given['in_channels']} channels, each z-scored separately; use --modality CT if all are in HU",
        )
    elif given["named_modality"]:
        chosen["modality"] = Choice(given["named_modality"], "from the dataset.json of the labeled scans")
    else:
        chosen["modality"] = guess_modality(seen)
    if chosen["modality"].value == "CT":
        window = given["intensity_window"]
        chosen["intensity_window"] = Choice(list(window), GIVEN) if window is not None else guess_window(labeled)

    spacing = given["spacing_mm"]
    chosen["spacing_mm"] = Choice([float(s) for s in spacing], GIVEN) if spacing is not None else guess_spacing(seen)
    spacing = chosen["spacing_mm"].value
    chosen |= _choose_sizes(seen, bool(unlabeled), spacing, num_classes, room, given)

    batch = chosen["batch_size_unlabeled"].value if unlabeled else chosen["batch_size_labeled"].value
    if given["max_iterations"] is not None:
        chosen["max_iterations"] = Choice(given["max_iterations"], GIVEN)
    else:
        count, kind = (len(unlabeled), "unlabeled") if unlabeled and batch else (len(labeled), "labeled")
        epochs = 300 * math.ceil(count / max(batch, 1))
        chosen["max_iterations"] = Choice(
            min(max(epochs, ITERATIONS[0]), ITERATIONS[1]),
            f"as in the paper, 300 epochs over {count} {kind} scans, which is {epochs}; limited to {ITERATIONS[0]} to "
            f"{ITERATIONS[1]}",
        )
    return chosen | _choose_cache(groups, chosen, num_classes, room, given["in_channels"])


def guess_modality(scans: Sequence[ScanFacts]) -> Choice:
    """CT if every scan looks like it, else MR, whose z-score of each volume needs no common unit."""
    count = sum(
        looks_like_hu(facts.unpadded_minimum, facts.border, facts.whole) and facts.percentiles[2] <= DENSE_HU
        for facts in scans
    )
    rule = (
        f"minimum without padding between {LOWEST_CT} and -500, or integers with a border of {AIR_HU[0]} to "
        f"{AIR_HU[1]}; and 99.5 % of voxels below {DENSE_HU}"
    )
    if count == len(scans):
        return Choice("CT", f"all {count} training scans appear to be in HU ({rule})")
    if count == 0:
        return Choice("MR", f"none of the {len(scans)} training scans appears to be in HU ({rule})")
    return Choice(
        "MR",
        f"only {count} of {len(scans)} training scans appear to be in HU ({rule}), so every volume is z-scored, which "
        "works for both; use --modality CT if all are CT",
    )


def guess_window(labeled: Sequence[ScanFacts]) -> Choice:
    """HU from the 0.5th to the 99.5th percentile under the labels, and half as much again on either side."""
    low, high = (float(x) for x in np.percentile(np.concatenate([f.foreground for f in labeled]), (0.5, 99.5)))
    margin = max((high - low) / 2, 50.0)
    window = [5 * math.floor((low - margin) / 5), 5 * math.ceil((high + margin) / 5)]
    return Choice(
        window,
        f"labeled voxels range from {low:.0f} to {high:.0f} HU (0.5th to 99.5th percentile); widened by {margin:.0f} "
        "on either side to keep contrast with the surrounding tissue",
    )


def guess_spacing(scans: Sequence[ScanFacts]) -> Choice:
    """Median along each axis; of anisotropic scans the 10th percentile along the axis with the largest spacing."""
    spacings = np.array([facts.spacing_mm for facts in scans])
    median = np.median(spacings, axis=0)
    why = f"median of {len(scans)} training scans"
    if median.max() > ANISOTROPIC * median.min():
        axis = int(median.argmax())
        finer = max(float(np.percentile(spacings[:, axis], 10)), float(np.sort(median)[-2]))
        why += (
            f"; along {'xyz'[axis]}, the 10th percentile instead of {median[axis]:.4g} mm, because slices are more "
            f"than {ANISOTROPIC:g} times as thick as pixels are wide, and scans with thin slices should keep their "
            "resolution"
        )
        median[axis] = finer
    return Choice([round(float(s), 4) for s in median], why)


def _choose_sizes(
    scans: Sequence[ScanFacts], has_unlabeled: bool, spacing: Sequence[float], num_classes: int, room: Room,
    given: Mapping[str, Any],
) -> dict[str, Choice]:  # fmt: skip
    """Features, batch sizes and patch: the most features, then the larger batches, whose patch is large enough."""
    extents = np.array([np.multiply(f.shape, f.spacing_mm) / spacing for f in scans])
    median = np.median(extents, axis=0)
    expected = list(given["patch_size"] or _nearest_patch(median))
    options = []
    for features in [given["features"]] if given["features"] is not None else FEATURES:
        for batch in BATCH_SIZES:
            labeled = given["batch_size_labeled"] if given["batch_size_labeled"] is not None else batch
            unlabeled = given["batch_size_unlabeled"] if given["batch_size_unlabeled"] is not None else batch
            options.append((features, labeled, unlabeled if has_unlabeled else 0))
    options = list(dict.fromkeys(options))

    half = [max(16, 16 * math.ceil(side / 32)) for side in expected]
    smallest = [16] * 3
    patch: list[int] | None = None
    for floor in (half, smallest):
        for features, labeled, unlabeled in options:
            patch = _fit_patch(
                expected,
                expected if given["patch_size"] else floor,
                features,
                max(labeled, unlabeled),
                num_classes,
                room.training,
            )
            if patch:
                break
        if patch:
            break
    estimate = estimate_bytes(patch or expected, features, max(labeled, unlabeled), num_classes)
    if not patch:
        fixed = [
            f"--{key}"
            for key in ("patch_size", "features", "batch_size_labeled", "batch_size_unlabeled")
            if given[key] is not None
        ]
        raise InputError(
            f"{room.given}: no combination of settings fits into {_share(room)}, not even the smallest patch; patch "
            f"{expected} with {features} features needs about {estimate / 1e9:.1f} GB. "
            f"Allow more memory{' or give a smaller ' + ' or '.join(fixed) if fixed else ''}."
        )
    shown = [round(float(m)) for m in median]
    why = (
        f"the median scan has {shown} voxels of this size; rounded to multiples of 16, with at most {MAX_PATCH_VOXELS} "
        "voxels in total"
        f"{f'; reduced from {expected} to fit into memory' if patch != expected else ''}; training takes about "
        f"{estimate / 1e9:.1f} GB of {room.given}{'' if room.on_gpu else ', a quarter of which is reserved for scans'} "
        "(estimate, see docs/reference/memory.md)"
    )
    order = "the largest of 32, 16 and 8 that lets the patch cover half of the median scan along each axis"
    pair = "2 if that fits into memory with this patch and these features, else 1"
    chosen = {
        "patch_size": Choice(patch, GIVEN if given["patch_size"] else why),
        "features": Choice(features, GIVEN if given["features"] is not None else order),
        "batch_size_labeled": Choice(labeled, GIVEN if given["batch_size_labeled"] is not None else pair),
        "batch_size_unlabeled": Choice(unlabeled, GIVEN if given["batch_size_unlabeled"] is not None else pair),
    }
    if not has_unlabeled:
        chosen["batch_size_unlabeled"] = Choice(0, "there are no unlabeled scans")
    return chosen


def _share(room: Room) -> str:
    return "it" if room.on_gpu else f"{1 - CACHE_SHARE:.0%} of it (the rest is reserved for scans)"


def _nearest_patch(median: np.ndarray) -> list[int]:
    """Nearest multiples of 16, with no more than ``MAX_PATCH_VOXELS`` and no fewer than ``MIN_PATCH_VOXELS``."""
    sides = [max(16, 16 * round(float(side) / 16)) for side in median]
    while math.prod(sides) > MAX_PATCH_VOXELS:
        sides[sides.index(max(sides))] -= 16
    while math.prod(sides) < MIN_PATCH_VOXELS:
        sides[int((median / sides).argmax())] += 16
    return sides


def _fit_patch(
    expected: Sequence[int], floor: Sequence[int], features: int, batch_size: int, num_classes: int, room: float
) -> list[int] | None:
    """``expected``, its longest sides shortened until it fits into ``room`` bytes; ``None`` if ``floor`` does not."""
    sides = list(expected)
    while estimate_bytes(sides, features, batch_size, num_classes) > room:
        voxels = math.prod(sides)
        longer = [i for i in range(3) if sides[i] > floor[i] and voxels * (1 - 16 / sides[i]) >= MIN_PATCH_VOXELS]
        if not longer:
            return None
        sides[max(longer, key=lambda i: sides[i])] -= 16
    return sides


def cached_bytes(groups: Mapping[Keys, Sequence[ScanFacts]], spacing_mm: Sequence[float], in_channels: int = 1) -> int:
    """What all volumes that a training draws from take after preprocessing."""
    voxel, total = float(np.prod(spacing_mm)), 0.0
    for section in (Keys.TRAINING, Keys.UNLABELED, Keys.VALIDATION):
        # float32 channels, and label if it has one
        size = 4 * (in_channels + (section != Keys.UNLABELED))
        total += sum(size * math.prod(f.shape) * math.prod(f.spacing_mm) / voxel for f in groups[section])
    return int(total)


def _choose_cache(
    groups: Mapping[Keys, Sequence[ScanFacts]], chosen: Mapping[str, Choice], num_classes: int, room: Room,
    in_channels: int,
) -> dict[str, Choice]:  # fmt: skip
    """Where the preprocessed volumes are: in memory if all of them fit, else on disk."""
    total = cached_bytes(groups, chosen["spacing_mm"].value, in_channels)
    batch = max(chosen["batch_size_labeled"].value, chosen["batch_size_unlabeled"].value)
    training = estimate_bytes(chosen["patch_size"].value, chosen["features"].value, batch, num_classes)
    left = max(0.0, room.scans - (0 if room.on_gpu else training))
    sizes = f"all volumes together take {total / 1e9:.2g} GB; {left / 1e9:.2g} GB of memory is left for them"
    if total <= left:
        return {"cache_dir": Choice("", f"{sizes}, so no disk cache is needed")}
    why = f"{sizes}, so they are cached on disk, and only the patches that are needed are read"
    return {"cache_dir": Choice("$@bundle_root + '/cache'", why)}
