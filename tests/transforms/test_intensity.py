# SPDX-License-Identifier: Apache-2.0
"""Intensities of CT and MR, and how one is told from the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from dtlp_components import CTOrMRIntensityd
from dtlp_components.errors import InputError
from dtlp_components.transforms.intensity import border_median, looks_like_hu, unpadded_minimum

WINDOW = (-100, 300)


def volume(*values: float) -> MetaTensor:
    """The values and, in between, whole numbers from 0 to 200."""
    voxels = torch.linspace(0, 200, 7 * 8 * 9).round().reshape(1, 7, 8, 9)
    voxels.view(-1)[100 : 100 + len(values)] = torch.tensor(values)
    return MetaTensor(voxels, meta={"filename_or_obj": "/data/i.nii"})


def test_ct_is_scaled_from_the_window_and_clipped() -> None:
    image = volume(-1000, -100, 0, 100, 300, 2000)
    scaled = CTOrMRIntensityd("image", WINDOW)({"image": image})["image"]
    np.testing.assert_allclose(scaled.flatten()[100:106], [0, 0, 0.25, 0.5, 1, 1])
    np.testing.assert_allclose(scaled.numpy(), ((image.numpy() + 100) / 400).clip(0, 1), atol=1e-6)


def test_mr_is_scaled_from_its_own_percentiles_and_clipped() -> None:
    image = volume(0, 3000, 4000)
    low, high = np.percentile(image.numpy(), (10, 80))
    scaled = CTOrMRIntensityd("image", WINDOW, (10, 80))({"image": image})["image"]
    np.testing.assert_allclose(scaled.numpy(), ((image.numpy() - low) / (high - low)).clip(0, 1), atol=1e-6)
    assert scaled.min() == 0
    assert scaled.max() == 1


def test_percentiles_are_half_a_percent_from_either_end_by_default() -> None:
    image = {"image": volume(3000)}
    default, given = (CTOrMRIntensityd("image", WINDOW, *more)(image)["image"] for more in ((), ((0.5, 99.5),)))
    np.testing.assert_array_equal(default.numpy(), given.numpy())


def test_each_volume_of_an_item_is_judged_for_itself() -> None:
    item = CTOrMRIntensityd(["ct", "mr", "none"], WINDOW, (0, 100), True)({"ct": volume(-1000), "mr": volume()})
    assert item["ct"].max() == 0.75
    assert item["mr"].max() == 1


def test_ct_that_a_crop_has_robbed_of_its_air_is_taken_for_mr() -> None:
    # fat and soft tissue alone could be anything: hence intensities come before such a crop
    scale = CTOrMRIntensityd("image", WINDOW, (0, 100))
    image = volume(-200)
    image[:, 0] = -1000
    robbed = image[:, 1:]
    in_time, too_late = scale({"image": image})["image"][:, 1:], scale({"image": robbed})["image"]
    np.testing.assert_allclose(in_time.numpy(), ((robbed.numpy() + 100) / 400).clip(0, 1), atol=1e-6)
    np.testing.assert_allclose(too_late.numpy(), (robbed.numpy() + 200) / 400, atol=1e-6)


@pytest.mark.parametrize("value", [-4000.0, -3999.5, -32768.0])
def test_air_makes_ct_in_spite_of_values_below_any_ct(value: float) -> None:
    image = volume()
    inside = image[:, 1:-1, 1:-1, 1:-1].clone()
    image[:] = -1000
    image[:, 1:-1, 1:-1, 1:-1] = inside * 200 / inside.max() // 1
    image[0, 3, 4, 5:7] = value
    scaled = CTOrMRIntensityd("image", WINDOW, (0, 100))({"image": image})["image"]
    np.testing.assert_allclose(scaled.max(), 0.75)


@pytest.mark.parametrize(
    ("voxels", "minimum"),
    [([-32768, -1024, 5], -1024), ([-3100, 0], -3100), ([-4000, -4000], -4000), ([-4096, -4095, 0], -4095)],
)
def test_padding_is_left_out_of_the_minimum(voxels: list[int], minimum: float) -> None:
    assert unpadded_minimum(np.array(voxels)) == minimum
    assert unpadded_minimum(torch.tensor(voxels)) == minimum


def test_metatensor_stays_with_its_meta_and_others_become_float32() -> None:
    image = volume()
    image.affine = torch.diag(torch.tensor([2.0, 3, 4, 1]))
    scale = CTOrMRIntensityd("image", WINDOW)
    scaled = scale({"image": image, "domain": "MR"})
    assert scaled["domain"] == "MR"
    assert isinstance(scaled["image"], MetaTensor)
    np.testing.assert_array_equal(scaled["image"].affine, image.affine)
    assert scaled["image"].meta["filename_or_obj"] == "/data/i.nii"
    for values in (image.as_tensor().to(torch.int16), image.to(torch.float64)):
        again = scale({"image": values})["image"]
        assert again.dtype == torch.float32
        np.testing.assert_allclose(again.numpy(), scaled["image"].numpy(), atol=1e-6)
    assert image.max() == 200  # what was given is left alone


def test_volume_whose_percentiles_are_one_value_is_refused() -> None:
    image = volume()
    image[:] = 0
    assert CTOrMRIntensityd("image", WINDOW)({"image": image})["image"].max() == 0
    image[0, 0, 0, 0] = 7
    with pytest.raises(
        InputError, match=r"^/data/i\.nii: expected different intensities at percentiles 0\.5 and 99\.5"
    ):
        CTOrMRIntensityd("image", WINDOW)({"image": image})


@pytest.mark.parametrize("window", [(300, -100), (5, 5)])
def test_window_must_ascend(window) -> None:
    with pytest.raises(ValueError, match="window must be"):
        CTOrMRIntensityd("image", window)


@pytest.mark.parametrize("percentiles", [(99.5, 0.5), (-1, 50), (50, 101), (5, 5)])
def test_percentiles_must_ascend_from_0_to_100(percentiles) -> None:
    with pytest.raises(ValueError, match="percentiles must be"):
        CTOrMRIntensityd("image", WINDOW, percentiles)


def test_border_is_all_that_lies_outermost() -> None:
    voxels = np.full((4, 5, 6), -1000)
    voxels[1:-1, 1:-1, 1:-1] = 50
    assert border_median(voxels) == -1000
    voxels[:, :, 0] = voxels[:, :, -1] = voxels[:, 0] = voxels[:, -1] = 7
    # of the two ends along x, 2 * 3 * 4 voxels are air still; of all six ends, 2 * (30 + 24 + 20) are counted
    assert border_median(voxels) == 7


@pytest.mark.parametrize(
    ("minimum", "border", "whole", "expected"),
    [
        (-1024, 0, False, True),
        (-500, 0, False, True),
        (-499, 0, True, False),
        (-3100, 0, False, True),
        (-3101, 0, False, False),  # phase images
        (-4000, -1000, True, True),
        (-4000, -1000, False, False),
        (-4000, -899, True, False),
    ],
)
def test_hu_by_minimum_or_by_whole_numbers_with_air_at_the_border(minimum, border, whole, expected) -> None:
    assert looks_like_hu(minimum, border, whole) == expected
