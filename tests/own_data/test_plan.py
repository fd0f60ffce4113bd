# SPDX-License-Identifier: Apache-2.0
"""Settings guessed from the scans."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dtlp_components.errors import InputError
from dtlp_components.keys import DatalistKeys as Keys
from dtlp_components.own_data.inspect import ScanFacts
from dtlp_components.own_data.memory import Room, estimate_bytes, gpu_bytes
from dtlp_components.own_data.plan import (
    Choice,
    _choose_cache,
    cached_bytes,
    guess_modality,
    guess_spacing,
    guess_window,
)
from tests.own_data.scans import ct, label, labeled, make, mr, read, save, train, unlabeled


def facts(**given: Any) -> ScanFacts:
    usual: dict[str, Any] = {
        "shape": (64, 64, 64), "spacing_mm": (1.0, 1.0, 1.0), "orientation": "RAS", "whole": True, "minimum": 0.0,
        "unpadded_minimum": given.get("minimum", 0.0),
        "percentiles": (0.0, 50.0, 200.0), "maximum": 255.0, "border": 0.0, "checksum": "", "label_counts": None,
        "foreground": np.empty(0),
    }  # fmt: skip
    return ScanFacts(**{**usual, **given})


@pytest.mark.parametrize(
    ("given", "modality"),
    [
        ({"minimum": -1024.0}, "CT"),
        ({"minimum": -760.0, "whole": False}, "CT"),  # lung, resampled, without air
        ({"minimum": -3024.0, "border": -3024.0}, "CT"),  # padded
        ({"minimum": -32768.0, "border": -1000.0}, "CT"),  # one broken voxel in air
        ({"minimum": -32768.0, "unpadded_minimum": -1024.0, "border": -32768.0}, "CT"),  # padded with the lowest number
        ({}, "MR"),
        ({"minimum": -5.2, "whole": False}, "MR"),  # z-scored
        ({"minimum": -4096.0}, "MR"),  # phase image
        ({"minimum": -687.0, "percentiles": (-576.0, 981.0, 4545.0)}, "MR"),  # z-scores times 1000
    ],
)
def test_modality_follows_from_minimum_and_border(given: dict[str, Any], modality: str) -> None:
    assert guess_modality([facts(**given)]).value == modality


def test_mixed_scans_are_z_scored_and_it_is_said() -> None:
    choice = guess_modality([facts(minimum=-1000.0), facts(), facts()])
    assert choice.value == "MR"
    assert "only 1 of 3" in choice.why


def test_window_is_the_labeled_range_and_half_of_it_on_either_side() -> None:
    # every whole HU from -100 to 300 once: 0.5 % of 400 is 2 from either end, so -98 to 298, 396 wide
    choice = guess_window([facts(foreground=np.arange(-100.0, 301.0))])
    assert choice.value == [5 * math.floor((-98 - 198) / 5), 5 * math.ceil((298 + 198) / 5)] == [-300, 500]


def test_spacing_is_the_median_and_the_tenth_percentile_across_thick_slices() -> None:
    alike = [facts(spacing_mm=(0.8, 0.9, z)) for z in (1.0, 2.0, 2.4)]
    assert guess_spacing(alike).value == [0.8, 0.9, 2.0]
    thick = [facts(spacing_mm=(0.8, 0.9, z)) for z in np.linspace(2, 12, 11)]  # median 7 is more than 3 x 0.8
    assert guess_spacing(thick).value == [0.8, 0.9, 3.0]
    assert guess_spacing([facts(spacing_mm=(0.5, 2.0, 0.6))] * 3).value == [0.5, 2.0, 0.6]


def test_mr_like_volumes_are_z_scored(near: Path) -> None:
    make()
    assert train()["intensity_transform"] == {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}
    assert train()["spacing_mm"] == [1.0, 1.0, 1.0]
    # 20, 18, 22 are nearest to 16 each, of which the network would have one voxel to normalize at its deepest stage:
    # z, then x, which reach furthest beyond their sides, become 32
    assert train()["patch_size"] == [32, 16, 32]
    # 3 unlabeled in batches of 2: 300 x 2 = 600, below the least
    assert train()["max_iterations"] == 1000
    assert (train()["features"], train()["batch_size_labeled"], train()["batch_size_unlabeled"]) == (32, 2, 2)


def test_ct_like_volumes_get_a_window(near: Path) -> None:
    labeled(near / "ct_a", image=ct)
    unlabeled(near / "ct_b", image=ct)
    make(labeled="ct_a", unlabeled="ct_b")
    transform = train()["intensity_transform"]
    assert transform["_target_"] == "ScaleIntensityRanged"
    inside = [ct(i)[label(1, 2) > 0] for i in range(2)]
    low, high = np.percentile(np.concatenate(inside), (0.5, 99.5))
    assert transform["a_min"] <= low - 50 < transform["a_min"] + 5  # narrow: widened by the least, 50
    assert transform["a_max"] - 5 < high + 50 <= transform["a_max"]
    assert (
        read(Path("bundles/mine/configs/metadata.json"))["network_data_format"]["inputs"]["image"]["modality"] == "CT"
    )


def test_every_guess_can_be_overridden_and_is_in_the_configuration(near: Path) -> None:
    given: dict[str, Any] = {
        "spacing_mm": [1.5, 1.25, 2.0], "patch_size": [32, 16, 48], "features": 4, "max_iterations": 77,
        "batch_size_labeled": 1, "batch_size_unlabeled": 3,
    }  # fmt: skip
    make(**given, intensity_window=[-20, 300])
    assert {key: train()[key] for key in given} == given
    assert (train()["intensity_transform"]["a_min"], train()["intensity_transform"]["a_max"]) == (-20, 300)
    make(name="z", modality="MR")
    assert train(Path("bundles/z"))["intensity_transform"]["_target_"] == "NormalizeIntensityd"


@pytest.mark.slow
def test_less_memory_means_smaller_settings_that_fit(near: Path) -> None:
    for folder, count, seed in (("big_a", 2, 0), ("big_b", 1, 50)):
        for i in range(count):
            save(near / folder / f"p{i}.nii.gz", mr(seed + i, (80, 64, 96)))
            if folder == "big_a":
                save(near / folder / f"p{i}_label.nii.gz", label(1, shape=(80, 64, 96)))
    used = []
    for gigabytes in (2, 4, 16):
        make(name=f"m{gigabytes}", labeled="big_a", unlabeled="big_b", memory=f"{gigabytes}GB")
        config = train(Path(f"bundles/m{gigabytes}"))
        need = estimate_bytes(config["patch_size"], config["features"], config["batch_size_labeled"], 2)
        assert need <= 0.75e9 * gigabytes
        assert all(
            side >= 16 * math.ceil(full / 32) for side, full in zip(config["patch_size"], (80, 64, 96), strict=True)
        )
        used.append((config["features"], math.prod(config["patch_size"])))
    assert used[0] < used[1] <= used[2] == (32, 80 * 64 * 96)


def test_scans_that_do_not_fit_into_memory_go_onto_disk() -> None:
    chosen = {
        "spacing_mm": Choice([1.0, 1.0, 1.0], ""), "patch_size": Choice([32, 32, 32], ""), "features": Choice(8, ""),
        "batch_size_labeled": Choice(1, ""), "batch_size_unlabeled": Choice(1, ""),
    }  # fmt: skip
    cts = [facts(shape=(512, 512, 200), spacing_mm=(1.0, 1.0, 1.0))] * 5
    groups = {Keys.TRAINING: cts[:2], Keys.UNLABELED: cts[2:], Keys.VALIDATION: []}
    total = 512 * 512 * 200 * (2 * 8 + 3 * 4)
    assert cached_bytes(groups, [1.0, 1.0, 1.0]) == total
    training = estimate_bytes([32, 32, 32], 8, 1, 2)

    def place(scans: float, on_gpu: bool = False) -> Choice:
        return _choose_cache(groups, chosen, 2, Room(1e12, scans, on_gpu, "some"), 1)["cache_dir"]

    assert place(training + total - 1).value == "$@bundle_root + '/cache'"
    assert "all volumes together take 1.5 GB; 1.5 GB of memory is left" in place(training + total - 1).why
    assert place(training + total).value == ""
    # what computes on a GPU takes none of the computer's memory
    assert place(total, on_gpu=True).value == ""
    assert place(total - 1, on_gpu=True).value != ""


def test_memory_of_a_gpu_decides_on_sizes(near: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make(memory="1GB", gpu_memory="24GB")
    assert train()["features"] == 32
    assert "GB of --gpu_memory 24GB (estimate, see docs/reference/memory.md)" in capsys.readouterr().out
    with pytest.raises(
        InputError, match=r"--gpu_memory 800MB: no combination of settings fits into it, not even the smallest patch"
    ):
        make(name="small", gpu_memory="800MB")
    with pytest.raises(InputError, match=r"--gpu_memory: expected a number with its unit, .* got 'much'"):
        make(name="small", gpu_memory="much")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20 * 10**9, 24 * 10**9))
    assert gpu_bytes("") == 18 * 10**9
    assert gpu_bytes("6GB") == 6 * 10**9
