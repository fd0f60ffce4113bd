# SPDX-License-Identifier: Apache-2.0
"""CutMix across sets and block masking."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dtlp_components.transforms.mixing import BlockMask, CrossSetCutMix

pytestmark = pytest.mark.usefixtures("seed")

PATCH = (16, 32, 24)


def volumes(*values: float) -> Tensor:
    """Volumes (B, 1, D, H, W), each filled with its own value."""
    return torch.tensor(values).view(-1, 1, 1, 1, 1).expand(-1, 1, *PATCH).contiguous()


def box_of(inside: Tensor) -> list[int]:
    """Sides of the smallest box around the voxels that are True (D, H, W)."""
    return [int(c.max() - c.min()) + 1 for c in inside.nonzero(as_tuple=True)]


def mix(cutmix: CrossSetCutMix, unlabeled: list[float], labeled: list[float]) -> list[tuple[float, Tensor]]:
    """
    Mix volumes whose class index is their value plus 100, check that image and target are cut alike and that the volume
    is its own outside the box, and return each one's partner and where the box is.
    """
    image_u, image_l = volumes(*unlabeled), volumes(*labeled)
    label_u, label_l = (image_u + 100).long(), (image_l + 100).to(torch.uint8)
    copies = image_u.clone(), label_u.clone()
    mixed_image, mixed_label = cutmix(image_u, label_u, image_l, label_l)
    assert torch.equal(image_u, copies[0])
    assert torch.equal(label_u, copies[1])
    assert mixed_label.dtype == torch.int64
    assert torch.equal(mixed_label, (mixed_image + 100).long())
    partners = []
    for own, volume in zip(unlabeled, mixed_image[:, 0], strict=True):
        inside = volume != own
        (partner,) = volume[inside].unique().tolist()
        assert math.prod(box_of(inside)) == inside.sum()  # a box, without holes
        partners.append((partner, inside))
    return partners


def test_box_covers_a_share_of_the_patch_within_the_bounds() -> None:
    cutmix = CrossSetCutMix(volume_share=(0.25, 0.5))
    # sides are rounded, so that the extremes are those of the rounded sides
    smallest, largest = ([round(side * share ** (1 / 3)) for side in PATCH] for share in (0.25, 0.5))
    boxes = [[s.stop - s.start for s in cutmix.random_box(PATCH)] for _ in range(300)]
    assert [min(sides) for sides in zip(*boxes, strict=True)] == smallest
    assert [max(sides) for sides in zip(*boxes, strict=True)] == largest
    assert 0.2 < min(math.prod(b) for b in boxes) / math.prod(PATCH) < 0.3
    assert 0.45 < max(math.prod(b) for b in boxes) / math.prod(PATCH) < 0.55


def test_box_reaches_every_border_of_the_patch_and_stays_inside() -> None:
    boxes = [CrossSetCutMix().random_box(PATCH) for _ in range(300)]
    for axis, side in enumerate(PATCH):
        assert min(box[axis].start for box in boxes) == 0
        assert max(box[axis].stop for box in boxes) == side


def test_box_of_the_whole_patch_replaces_it() -> None:
    ((_, inside),) = mix(CrossSetCutMix(volume_share=(1, 1)), [0], [7])
    assert inside.all()


def test_inside_the_box_is_the_partner_with_its_label_and_outside_nothing_changes() -> None:
    for _ in range(20):
        partners = mix(CrossSetCutMix(), [0, 1, 2], [10, 11])
        for own, (partner, inside) in enumerate(partners):
            assert partner in {0, 1, 2, 10, 11} - {own}
            assert 0 < inside.sum() < inside.numel()


def test_every_partner_occurs() -> None:
    found = {(own, p) for _ in range(60) for own, (p, _) in enumerate(mix(CrossSetCutMix(), [0, 1, 2], [10, 11]))}
    assert found == {(own, p) for own in (0, 1, 2) for p in (0, 1, 2, 10, 11) if p != own}


def test_volumes_of_a_batch_have_boxes_of_their_own() -> None:
    (_, one), (_, other) = mix(CrossSetCutMix(), [0, 1], [10])
    assert not torch.equal(one, other)


def test_single_unlabeled_volume_is_mixed_with_labeled_ones() -> None:
    cutmix = CrossSetCutMix(labeled_probability=0)
    assert {mix(cutmix, [0], [10, 11])[0][0] for _ in range(20)} == {10, 11}


@pytest.mark.parametrize(("probability", "expected"), [(0.0, {0, 1, 2}), (1.0, {10, 11})])
def test_labeled_probability_decides_the_set_of_the_partner(probability: float, expected: set[float]) -> None:
    cutmix = CrossSetCutMix(labeled_probability=probability)
    found = {partner for _ in range(20) for partner, _ in mix(cutmix, [0, 1, 2], [10, 11])}
    assert found == expected


def test_all_channels_are_cut_alike() -> None:
    image_u = volumes(0, 1).expand(-1, 2, *PATCH) + torch.tensor([0.0, 100.0]).view(1, 2, 1, 1, 1)
    label = torch.zeros(2, 1, *PATCH, dtype=torch.int64)
    mixed, _ = CrossSetCutMix()(image_u, label, image_u + 10, label)
    assert mixed.shape == image_u.shape
    assert torch.equal(mixed[:, 1], mixed[:, 0] + 100)


@pytest.mark.parametrize("share", [(0, 0.5), (0.5, 0.25), (0.5, 1.5)], ids=str)
def test_impossible_share_of_the_patch_is_refused(share: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="volume_share must be 0 < smallest <= largest <= 1"):
        CrossSetCutMix(volume_share=share)


def check_blocks(mask: Tensor, block: tuple[int, int, int]) -> None:
    """Every block of a mask (D, H, W) is hidden or kept as a whole; the last ones may be cut off."""
    assert 0 < mask.mean() < 1
    for slab in mask.split(block[0], dim=0):
        for bar in slab.split(block[1], dim=1):
            for cube in bar.split(block[2], dim=2):
                assert cube.min() == cube.max()


@pytest.mark.parametrize(
    ("patch", "block", "expected"),
    [
        ((16, 32, 24), None, (4, 4, 4)),  # a sixteenth would be 1, 2 and 1
        ((128, 64, 96), None, (8, 4, 6)),
        ((16, 24, 20), 8, (8, 8, 8)),
        ((12, 10, 9), [3, 5, 3], (3, 5, 3)),
        ((10, 9, 7), [4, 4, 4], (4, 4, 4)),
    ],
    ids=["at least 4 voxels", "a sixteenth", "one number", "three numbers", "no multiple of a block"],
)
def test_blocks_are_hidden_as_a_whole(
    patch: tuple[int, ...], block: list[int] | int | None, expected: tuple[int, int, int]
) -> None:
    masked = BlockMask(ratio=0.5, block=block)(torch.ones(2, 1, *patch))
    assert masked.shape == (2, 1, *patch)
    for mask in masked[:, 0]:
        check_blocks(mask, expected)


def test_hidden_voxels_are_zero_and_the_others_unchanged() -> None:
    image = 1 + torch.rand(2, 3, *PATCH)
    copy = image.clone()
    masked = BlockMask(ratio=0.5)(image)
    assert torch.equal(image, copy)
    kept = masked != 0
    assert torch.equal(masked[kept], image[kept])
    assert torch.equal(kept[:, :1].expand_as(kept), kept)  # all channels are hidden together


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_share_of_hidden_blocks_is_the_ratio(ratio: float) -> None:
    masked = BlockMask(ratio=ratio, block=2)(torch.ones(3, 1, 20, 30, 40))
    # 3 * 10 * 15 * 20 = 9000 blocks: a standard deviation of at most 0.0053
    assert (masked == 0).float().mean().item() == pytest.approx(ratio, abs=0.025)


def test_nothing_is_hidden_at_ratio_zero() -> None:
    assert torch.equal(BlockMask(ratio=0)(torch.ones(2, 1, *PATCH)), torch.ones(2, 1, *PATCH))


def test_volumes_of_a_batch_have_masks_of_their_own() -> None:
    one, other = BlockMask(ratio=0.5)(torch.ones(2, 1, *PATCH))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_impossible_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"mask ratio must be within \[0, 1\), got {ratio}"):
        BlockMask(ratio=ratio)
