# SPDX-License-Identifier: Apache-2.0
"""Labels come back onto the scan's grid; tests/inferers compares them with MONAI's Invertd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Rotate90

from dtlp_components.transforms.scan_grid import AlignedGrid, ScanGridLabelsd, check_operations

SHAPE = (4, 5, 6)
PSR = np.array([[0.0, 0, 2, 10], [-1, 0, 0, 20], [0, 3, 0, 30], [0, 0, 0, 1]])  # voxel axes: P, S, R


def scan() -> MetaTensor:
    """As MONAI's reader makes it, with another value in every voxel."""
    meta = {"spatial_shape": SHAPE, "original_affine": PSR}
    return MetaTensor(torch.arange(120.0).reshape(1, *SHAPE), affine=torch.as_tensor(PSR), meta=meta)


def logits_of(labels: torch.Tensor) -> torch.Tensor:
    """Logits of three classes whose maximum is the label."""
    return 20 * torch.nn.functional.one_hot(labels[0].long(), 3).movedim(-1, 0).float()


@pytest.mark.parametrize("slab_bytes", [1, 2**28], ids=["row by row", "at once"])
def test_labels_lie_where_the_voxels_of_the_scan_do(slab_bytes: int) -> None:
    expected = scan() % 3
    image, on_its_grid = (Orientation("RAS")(volume) for volume in (scan(), expected))
    found = ScanGridLabelsd("pred", slab_bytes=slab_bytes)({"image": image, "pred": logits_of(on_its_grid)})["pred"]
    assert found.dtype == torch.uint8
    assert torch.equal(found.as_tensor(), expected.as_tensor().to(torch.uint8))
    np.testing.assert_allclose(found.affine, PSR)


def test_aligned_grid_has_the_voxels_of_the_scan_along_the_axes_of_the_image() -> None:
    # R is the scan's third axis, A its first, S its second
    assert tuple(AlignedGrid.of(Orientation("RAS")(scan())).shape[-3:]) == (6, 4, 5)


def test_transform_that_the_affine_does_not_tell_is_named() -> None:
    check_operations(Orientation("RAS")(scan()))
    with pytest.raises(ValueError, match="Rotate90"):
        check_operations(Rotate90()(scan()))
