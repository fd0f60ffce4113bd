# SPDX-License-Identifier: Apache-2.0
"""The published crop and its inverse, resampling of items with texts in them, and smoothing before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, GaussianSmooth, Invertd, LoadImaged, Orientationd, Spacingd

from dtlp_components import AntiAliasd, CropToBoxd, ResampleToSpacingd
from dtlp_components.errors import InputError

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
    for case, (x, y, z) in zip(
        decollate_batch(batch), ([(1, 4), (2, 7), (0, 9)], [(0, 3), (1, 6), (0, 9)]), strict=True
    ):
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
        f"{item['image']}: has no `published_box`: variant `published` crops to the label, which a new "
        "scan does not have; leave out the overlay published.json"
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
    assert f"{item['image']}: expected a `published_box` inside the volume of [7, 8, 9] voxels, got {box}" in str(
        error.value
    )


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
