# SPDX-License-Identifier: Apache-2.0
"""Label propagation: averages over source voxels, on any kernel, with the gradients asked for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dtlp_components.pseudo_labels.propagation import propagate_logits

pytestmark = pytest.mark.usefixtures("seed")

GRID = (4, 5, 6)


def projections(width: int = 8, requires_grad: bool = False) -> tuple[Tensor, Tensor]:
    query, key = (torch.randn(2, width, *GRID) for _ in range(2))
    return query.requires_grad_(requires_grad), key.requires_grad_(requires_grad)


def naive(query: Tensor, key: Tensor, logits: Tensor) -> Tensor:
    """Eq. 18 and 19 as a product of matrices, logits on the features' grid."""
    correlation = torch.einsum("bei,bej->bij", query.flatten(2), key.flatten(2)) / math.sqrt(query.shape[1])
    propagated = torch.einsum("bij,bcj->bci", torch.softmax(correlation, dim=2), logits.flatten(2))
    return propagated.view(logits.shape)


@pytest.mark.parametrize("classes", [3, 8, 11], ids=["fewer than width", "as many", "more than width"])
def test_propagation_is_the_product_with_the_correlation_map(classes: int) -> None:
    query, key = projections(width=8)
    logits = torch.randn(2, classes, *GRID)
    torch.testing.assert_close(propagate_logits(query, key, logits), naive(query, key, logits), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [GRID, (8, 10, 12), (16, 20, 24)], ids=str)
def test_constant_map_stays_constant(size: tuple[int, ...]) -> None:
    logits = torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1, 1).expand(2, 3, *size)
    torch.testing.assert_close(propagate_logits(*projections(), logits), logits.contiguous())


def test_finer_logits_are_averaged_down_and_interpolated_back() -> None:
    query, key = projections()
    logits = torch.randn(2, 3, 8, 10, 12)
    coarse = logits.view(2, 3, 4, 2, 5, 2, 6, 2).mean(dim=(3, 5, 7))
    expected = torch.nn.functional.interpolate(
        naive(query, key, coarse), size=(8, 10, 12), mode="trilinear", align_corners=False
    )
    propagated = propagate_logits(query, key, logits)
    assert propagated.shape == logits.shape
    torch.testing.assert_close(propagated, expected, rtol=1e-4, atol=1e-5)


def test_voxel_takes_the_logits_of_the_one_that_looks_like_it() -> None:
    # keys are unit vectors, one per voxel; the query of voxel i is far along the key of voxel n - 1 - i
    n = math.prod(GRID)
    key = torch.eye(n).view(1, n, *GRID)
    query = 1000 * torch.eye(n).flip(1).view(1, n, *GRID)
    logits = torch.randn(1, 3, *GRID)
    expected = logits.flatten(2).flip(2).view(1, 3, *GRID)
    torch.testing.assert_close(propagate_logits(query, key, logits), expected)


@pytest.mark.parametrize("classes", [3, 11])
def test_fast_cpu_kernel_takes_it_with_gradients(classes: int) -> None:
    query, key = projections(requires_grad=True)
    logits = torch.randn(2, classes, *GRID, requires_grad=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        propagated = propagate_logits(query, key, logits)
    torch.testing.assert_close(propagated, naive(query, key, logits), rtol=1e-4, atol=1e-5)
    given = torch.autograd.grad(propagated.square().sum(), (query, key, logits))
    expected = torch.autograd.grad(naive(query, key, logits).square().sum(), (query, key, logits))
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-4)


def test_detach_keeps_gradients_from_the_logits_and_not_from_the_projections() -> None:
    query, key = projections(requires_grad=True)
    logits = torch.randn(2, 3, *GRID, requires_grad=True)
    propagate_logits(query, key, logits, detach=True).square().sum().backward()
    assert logits.grad is None
    assert query.grad is not None
    assert query.grad.any()
    assert key.grad is not None
    assert key.grad.any()
    propagate_logits(query, key, logits).square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.any()


def test_it_computes_in_float32_under_autocast() -> None:
    query, key = projections()
    logits = torch.randn(2, 3, *GRID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        propagated = propagate_logits(query, key, logits)
    assert propagated.dtype == torch.float32
    torch.testing.assert_close(propagated, naive(query, key, logits), rtol=1e-4, atol=1e-5)


def test_shape_mismatch_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 8, 2, 2, 2\) and \(1, 4, 2, 2, 2\)"):
        propagate_logits(torch.zeros(1, 8, 2, 2, 2), torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 3, 4, 4, 4))
