# SPDX-License-Identifier: Apache-2.0
"""Random crops that go by class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from dtlp_components.transforms.class_crop import RandClassCropd

SHAPE = (20, 24, 16)
KEYS = ("image", "label")


def item() -> dict[str, Any]:
    """A large class, a class of one voxel near a corner, and an image whose values are voxel numbers."""
    label = torch.zeros(1, *SHAPE)
    label[0, 8:16, 8:18, 4:12] = 1
    label[0, 1, 22, 14] = 2
    return {"image": MetaTensor(torch.arange(20 * 24 * 16).view(1, *SHAPE).float()), "label": MetaTensor(label)}


def draws(count: int, **kwargs: Any) -> list[dict[str, Any]]:
    crop = RandClassCropd(KEYS, **{"roi_size": (8, 8, 8), **kwargs})
    crop.set_random_state(seed=0)
    return [crop(item()) for _ in range(count)]


def share_with(found: list[dict[str, Any]], value: int) -> float:
    return sum(bool((one["label"] == value).any()) for one in found) / len(found)


def test_small_class_is_in_half_of_the_draws_that_go_by_class() -> None:
    anywhere, by_class = draws(200, class_share=0.0), draws(200, class_share=1.0)
    assert share_with(anywhere, 2) < 0.05
    assert share_with(by_class, 2) == pytest.approx(0.5, abs=0.12)  # three standard deviations
    assert all(bool(one["label"].any()) for one in by_class)


def test_share_of_draws_by_class_is_as_asked() -> None:
    assert share_with(draws(400, class_share=0.4), 2) == pytest.approx(0.2, abs=0.07)


def test_image_and_label_are_cropped_alike_and_to_the_size() -> None:
    for one in draws(20, class_share=0.5):
        assert one["image"].shape == one["label"].shape == (1, 8, 8, 8)
        first = int(one["image"].flatten()[0])
        start = (first // (24 * 16), first // 16 % 24, first % 16)
        box = tuple(slice(s, s + 8) for s in start)
        assert torch.equal(torch.as_tensor(one["label"][0]), torch.as_tensor(item()["label"][0][box]))


def test_voxel_lies_in_the_middle_unless_the_volume_ends() -> None:
    label = torch.zeros(1, *SHAPE)
    label[0, 10, 12, 0] = 1
    crop = RandClassCropd("label", (12, 12, 12), middle_size=(4, 4, 4), class_share=1.0)
    crop.set_random_state(seed=0)
    places = torch.stack([crop({"label": label})["label"][0].nonzero()[0] for _ in range(60)])
    assert places[:, :2].min() == 4
    assert places[:, :2].max() == 7
    assert places[:, 2].tolist() == [0] * 60


def test_without_a_label_or_a_class_it_crops_anywhere() -> None:
    crop = RandClassCropd(KEYS, (8, 8, 8), class_share=1.0, allow_missing_keys=True)
    crop.set_random_state(seed=0)
    image = item()["image"]
    corners = {int(crop({"image": image})["image"].flatten()[0]) for _ in range(20)}
    assert len(corners) > 10
    empty = crop({"image": image, "label": torch.zeros(1, *SHAPE)})
    assert empty["label"].shape == (1, 8, 8, 8)


def test_side_longer_than_the_volume_is_cut_to_it() -> None:
    (one,) = draws(1, roi_size=(8, 40, 8), class_share=1.0)
    assert one["image"].shape == (1, 8, 24, 8)


def test_same_seed_gives_the_same_crops() -> None:
    first, second = (torch.stack([one["image"] for one in draws(10)]) for _ in range(2))
    assert torch.equal(first, second)


def test_share_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"class_share must be within \[0, 1\], got 1.5"):
        RandClassCropd(KEYS, (8, 8, 8), class_share=1.5)
