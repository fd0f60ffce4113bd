# SPDX-License-Identifier: Apache-2.0
"""The published crop and its inverse, resampling of items with texts in them, and intensities of CT and MR."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, GaussianSmooth, Invertd, LoadImaged, Orientationd, Spacingd

from dtlp_components import AntiAliasd, CropToBoxd, CTOrMRIntensityd, ResampleToSpacingd
from dtlp_components.errors import InputError
from dtlp_components.transforms.intensity import border_median, looks_like_hu

SHAPE = (7, 8, 9)
BOX = [[1, 4], [2, 7], [0, 9]]
AFFINE = np.array([[0.0, 0, 2, 10], [-1, 0, 0, 20], [0, 3, 0, 30], [0, 0, 0, 1]])  # stored as PSR


@pytest.fixture
def item(tmp_path: Path) -> dict[str, Any]:
    """A scan with another value in every voxel, its label, and a box."""
    voxels = np.arange(1, 1 + np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "i.nii")
    nib.save(nib.Nifti1Image((voxels % 3).astype(np.uint8), AFFINE), tmp_path / "l.nii")
    return {"image": str(tmp_path / "i.nii"), "label": str(tmp_path / "l.nii"), "published_box": BOX}


def load(*transforms, keys=("image", "label")) -> Compose:
    return Compose([LoadImaged(keys, ensure_channel_first=True, allow_missing_keys=True), *transforms])


def test_crop_keeps_the_box_and_where_it_lies(item) -> None:
    whole, cropped = load()(item), load(CropToBoxd(["image", "label"]))(item)
    for key in ("image", "label"):
        np.testing.assert_array_equal(cropped[key].numpy(), whole[key].numpy()[:, 1:4, 2:7, 0:9])
    # the first voxel is the one at 1, 2, 0: to the right 10, to the front 20 - 1, to the head 30 + 2 * 3
    np.testing.assert_allclose(cropped["image"].affine[:3, 3], [10, 19, 36])
    assert cropped["published_box"] == BOX


def test_unlabeled_item_is_cropped_if_its_label_may_be_missing(item) -> None:
    del item["label"]
    assert load(CropToBoxd(["image", "label"], allow_missing_keys=True))(item)["image"].shape == (1, 3, 5, 9)
    with pytest.raises(KeyError, match="label"):
        CropToBoxd(["image", "label"])(load()(item))


def test_another_key_may_hold_the_box(item) -> None:
    item["other"] = [[0, 1], [0, 1], [0, 1]]
    assert load(CropToBoxd("image", "other"))(item)["image"].shape == (1, 1, 1, 1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_inverse_brings_a_prediction_back_onto_the_files_grid(item, num_workers) -> None:
    preprocessing = load(
        CropToBoxd(["image", "label"]),
        Orientationd(["image", "label"], "RAS", labels=None),
        Spacingd(["image", "label"], (1.0, 1.0, 1.5), mode="nearest"),
    )
    second = {**item, "published_box": [[0, 3], [1, 6], [0, 9]]}  # of the same size, so that they fit into a batch
    loader = DataLoader(Dataset([item, second], preprocessing), batch_size=2, num_workers=num_workers)
    invert = Invertd("pred", preprocessing, "image", nearest_interp=True, to_tensor=True)
    (batch,) = loader
    batch["pred"] = batch["image"].clone()
    for case, (x, y, z) in zip(decollate_batch(batch), ([(1, 4), (2, 7), (0, 9)], [(0, 3), (1, 6), (0, 9)])):
        pred = invert(case)["pred"]
        expected = np.zeros((1, *SHAPE))
        box = (slice(None), slice(*x), slice(*y), slice(*z))
        # spacings of whole and half multiples: nearest neighbors bring every voxel back
        expected[box] = nib.load(item["image"]).get_fdata()[None][box]
        np.testing.assert_array_equal(pred.numpy(), expected)
        np.testing.assert_allclose(pred.affine, AFFINE)


def test_item_without_a_box_is_refused_by_name_through_compose(item) -> None:
    del item["published_box"]
    with pytest.raises(InputError) as error:
        load(CropToBoxd(["image", "label"]))(item)
    assert str(error.value) == (
        f"{item['image']}: has no `published_box`: variant `published` crops to where the label is, which a new "
        "scan cannot know; use --preprocessing_variant native"
    )
    with pytest.raises(InputError, match=r"i\.nii: has no `published_box`"):
        CropToBoxd("image")(item)  # not even loaded
    with pytest.raises(InputError, match="a volume without a file name: has no"):
        CropToBoxd("image")({"image": torch.zeros(1, *SHAPE)})


@pytest.mark.parametrize(
    "box", [[[1, 8], [2, 7], [0, 9]], [[1, 4], [2, 7], [0, 10]], [[-1, 4], [2, 7], [0, 9]], [[4, 4], [2, 7], [0, 9]]]
)
def test_box_that_leaves_the_volume_is_refused(item, box) -> None:
    item["published_box"] = box
    with pytest.raises(InputError) as error:
        load(CropToBoxd(["image", "label"]))(item)
    assert f"{item['image']}: `published_box` {box} leaves the volume of [7, 8, 9] voxels" in str(error.value)


def test_refusal_in_a_cache_or_a_worker_ends_the_run_with_its_text(item) -> None:
    # a SystemExit there would be lost, and CacheDataset would wait for ever
    del item["published_box"]
    crop = load(CropToBoxd("image"), keys=["image"])
    with pytest.raises(RuntimeError) as error:
        CacheDataset([item], crop, num_workers=1, progress=False)
    assert "has no `published_box`" in str(error.value.__cause__)
    with pytest.raises(RuntimeError, match="has no `published_box`"):
        next(iter(DataLoader(Dataset([item], crop), num_workers=1)))


def test_refusal_inside_a_server_does_not_end_it(item) -> None:
    # MONAI Label segments in the thread of its event loop, which a SystemExit would leave with the whole server
    del item["published_box"]
    crop = load(CropToBoxd("image"), keys=["image"])

    async def serve() -> str:
        try:
            crop(item)
        except Exception as error:  # noqa: BLE001 - what a server answers with a status of 500
            return str(error.__cause__)
        return ""

    assert "has no `published_box`" in asyncio.run(serve())


# --- resampling

SPACING = (1.0, 1.0, 1.5)


def test_texts_of_other_programs_pass_through_resampling_and_change_nothing(item) -> None:
    # MONAI 1.6 itself stops at them: 'str' object has no attribute 'update'
    texts = {"image_path": "/data/i.nii", "image_tags": ["a"], "label_info": None, "imagery": "b"}
    expected = load(Spacingd(["image", "label"], SPACING, mode=("bilinear", "nearest")))(item)
    found = load(ResampleToSpacingd(["image", "label"], SPACING, mode=("bilinear", "nearest")))({**item, **texts})
    assert found.keys() == expected.keys() | texts.keys()
    assert {key: found[key] for key in texts} == texts
    for key in ("image", "label"):
        np.testing.assert_array_equal(found[key].numpy(), expected[key].numpy())
        np.testing.assert_array_equal(found[key].affine, expected[key].affine)


def test_metadata_beside_an_image_are_what_monai_makes_of_them(item) -> None:
    steps = [
        Compose([LoadImaged("image", image_only=False, ensure_channel_first=True), spacing])
        for spacing in (Spacingd("image", SPACING), ResampleToSpacingd("image", SPACING))
    ]
    expected, found = (step(item)["image_meta_dict"] for step in steps)
    np.testing.assert_array_equal(found["affine"], expected["affine"])


def test_prediction_comes_back_from_the_new_grid_with_texts_in_the_item(item) -> None:
    preprocessing = load(ResampleToSpacingd("image", SPACING, mode="nearest"), keys=["image"])
    case = preprocessing({"image": item["image"], "image_path": item["image"]})
    case["pred"] = case["image"].clone()
    pred = Invertd("pred", preprocessing, "image", nearest_interp=True, to_tensor=True)(case)["pred"]
    np.testing.assert_array_equal(pred.numpy()[0], nib.load(item["image"]).get_fdata())
    np.testing.assert_allclose(pred.affine, AFFINE)


# --- intensity

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
    assert scaled.min() == 0 and scaled.max() == 1


def test_percentiles_are_half_a_percent_from_either_end_by_default() -> None:
    image = {"image": volume(3000)}
    default, given = (CTOrMRIntensityd("image", WINDOW, *more)(image)["image"] for more in ((), ((0.5, 99.5),)))
    np.testing.assert_array_equal(default.numpy(), given.numpy())


def test_each_volume_of_an_item_is_judged_for_itself() -> None:
    item = CTOrMRIntensityd(["ct", "mr", "none"], WINDOW, (0, 100), True)({"ct": volume(-1000), "mr": volume()})
    assert item["ct"].max() == 0.75 and item["mr"].max() == 1  # 200 HU in the window, and the maximum


def test_ct_that_a_crop_has_robbed_of_its_air_is_taken_for_mr() -> None:
    # fat and soft tissue alone could be anything: hence intensities come before such a crop
    scale = CTOrMRIntensityd("image", WINDOW, (0, 100))
    image = volume(-200)
    image[:, 0] = -1000
    robbed = image[:, 1:]
    in_time, too_late = scale({"image": image})["image"][:, 1:], scale({"image": robbed})["image"]
    np.testing.assert_allclose(in_time.numpy(), ((robbed.numpy() + 100) / 400).clip(0, 1), atol=1e-6)
    np.testing.assert_allclose(too_late.numpy(), (robbed.numpy() + 200) / 400, atol=1e-6)


@pytest.mark.parametrize(("fraction", "highest"), [(0.0, 0.75), (0.5, 1.0)])
def test_air_at_the_border_makes_whole_numbers_hu_in_spite_of_a_value_out_of_range(fraction, highest) -> None:
    image = volume()
    inside = image[:, 1:-1, 1:-1, 1:-1].clone()
    image[:] = -1000
    image[:, 1:-1, 1:-1, 1:-1] = inside * 200 / inside.max() // 1
    image[0, 3, 4, 5] = -4000 + fraction
    scaled = CTOrMRIntensityd("image", WINDOW, (0, 100))({"image": image})["image"]
    np.testing.assert_allclose(scaled.max(), highest)


def test_metatensor_stays_with_its_meta_and_others_become_float32() -> None:
    image = volume()
    image.affine = torch.diag(torch.tensor([2.0, 3, 4, 1]))
    scale = CTOrMRIntensityd("image", WINDOW)
    scaled = scale({"image": image, "domain": "MR"})
    assert scaled["domain"] == "MR" and isinstance(scaled["image"], MetaTensor)
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
    with pytest.raises(InputError, match=r"^/data/i\.nii: found the same intensity at 0\.5 and 99\.5 %"):
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


def wave(period_voxels: float) -> MetaTensor:
    """A wave along x, voxels of 1 x 2 x 3 mm."""
    x = torch.arange(64.0)
    image = torch.sin(2 * torch.pi * x / period_voxels)[None, :, None, None].expand(1, 64, 8, 8).clone()
    return MetaTensor(image, affine=torch.diag(torch.tensor([-1.0, 2.0, 3.0, 1.0])))


def test_anti_aliasing_removes_what_the_coarser_grid_cannot_show_and_keeps_the_rest() -> None:
    smooth = AntiAliasd(keys="image", pixdim=[4.0, 2.0, 3.0])
    fine, coarse = (smooth({"image": wave(period)})["image"][0, 16:48, 4, 4] for period in (3, 32))
    # sigma 1.5 voxels: a wave of period p keeps exp(-2 (pi sigma / p) ** 2)
    assert fine.abs().max().item() == pytest.approx(np.exp(-2 * (np.pi * 1.5 / 3) ** 2), abs=0.01)
    assert coarse.abs().max().item() == pytest.approx(np.exp(-2 * (np.pi * 1.5 / 32) ** 2), abs=0.01)


@pytest.mark.parametrize("pixdim", [[1.0, 2.0, 3.0], [0.5, 1.0, 3.0], [1.005, 2.0, 3.0]])
def test_anti_aliasing_leaves_an_image_alone_on_an_equal_or_finer_grid(pixdim: list[float]) -> None:
    image = wave(3)
    assert AntiAliasd(keys="image", pixdim=pixdim)({"image": image})["image"] is image


def test_anti_aliasing_smooths_only_along_the_axes_that_get_coarser() -> None:
    image = MetaTensor(torch.rand(1, 9, 9, 9, generator=torch.Generator().manual_seed(0)), affine=torch.eye(4))
    smoothed = AntiAliasd(keys="image", pixdim=[1.0, 1.0, 3.0])({"image": image})["image"]
    assert isinstance(smoothed, MetaTensor)
    torch.testing.assert_close(smoothed.affine, image.affine)
    along_z = GaussianSmooth([0.0, 0.0, 1.0])(image)
    torch.testing.assert_close(smoothed.as_tensor(), along_z.as_tensor())
    assert not torch.allclose(smoothed.as_tensor(), image.as_tensor())


@pytest.mark.parametrize("slab_voxels", [1, 7 * 8 * 9, 2000], ids=["one row", "nine rows", "most"])
def test_large_volume_is_smoothed_in_slabs_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, slab_voxels: int, seed: int
) -> None:
    affine = torch.diag(torch.tensor([1.0, 2.0, 1.5, 1.0]))
    image = MetaTensor(torch.randn(1, 30, 8, 7), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    image.push_applied_operation({"class": "Orientation"})
    transform = AntiAliasd("image", [3.0, 4.5, 1.5])
    whole = transform({"image": image})["image"]
    monkeypatch.setattr("dtlp_components.transforms.spatial.SLAB_VOXELS", slab_voxels)
    slabs = transform({"image": image})["image"]
    torch.testing.assert_close(slabs.as_tensor(), whole.as_tensor(), rtol=0, atol=1e-6)
    assert slabs.meta["filename_or_obj"] == "a.nii.gz"
    assert slabs.applied_operations == whole.applied_operations == [{"class": "Orientation"}]
