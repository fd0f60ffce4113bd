# SPDX-License-Identifier: Apache-2.0
"""Strong views of a batch."""

from __future__ import annotations

import torch
from monai.transforms import RandAdjustContrast, RandGaussianNoise, RandGaussianSmooth

from dtlp_components.transforms.strong_view import StrongView

IMAGE = torch.randn(3, 1, 8, 9, 10)


def view() -> StrongView:
    smooth = {f"sigma_{axis}": (0.5, 2.0) for axis in "xyz"}
    return StrongView(
        [
            RandAdjustContrast(prob=0.8, gamma=(0.5, 2.0)),
            RandGaussianNoise(prob=0.5),
            RandGaussianSmooth(prob=0.5, **smooth),
        ]
    )


def test_view_is_another_image_of_the_same_shape_and_the_image_stays() -> None:
    before = IMAGE.clone()
    seen = view()(IMAGE)
    assert seen.shape == IMAGE.shape
    assert seen.dtype == IMAGE.dtype
    assert type(seen) is torch.Tensor
    assert torch.equal(IMAGE, before)
    assert not torch.equal(seen, IMAGE)


def test_volumes_are_distorted_each_on_its_own() -> None:
    torch.manual_seed(0)
    seen = StrongView([RandGaussianNoise(prob=1.0)])(torch.zeros(2, 1, 4, 5, 6))
    assert not torch.equal(seen[0], seen[1])


def test_torchs_seed_decides_and_a_new_object_goes_on_as_the_old_one_would() -> None:
    # what a resumed run does: a state of torch's, and transforms that know nothing of what was drawn before
    old = view()
    torch.manual_seed(3)
    old(IMAGE)
    state = torch.get_rng_state()
    expected = old(IMAGE)
    torch.set_rng_state(state)
    assert torch.equal(view()(IMAGE), expected)


def test_memory_format_is_kept() -> None:
    image = IMAGE.repeat(1, 2, 1, 1, 1).contiguous(memory_format=torch.channels_last_3d)
    assert view()(image).is_contiguous(memory_format=torch.channels_last_3d)


def test_without_transforms_images_stay_as_they_are() -> None:
    image = torch.randn(2, 1, 4, 5, 6)
    before = torch.get_rng_state()
    assert StrongView([])(image) is image
    assert torch.equal(torch.get_rng_state(), before)
