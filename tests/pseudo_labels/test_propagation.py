# SPDX-License-Identifier: Apache-2.0
"""Label propagation: averages over source voxels, on any kernel, and its loss with the gradients asked for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dtlp_components.keys import NO_LABEL
from dtlp_components.losses.partial import PartialDiceCELoss
from dtlp_components.pseudo_labels.propagation import PropagationLoss, propagate

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
    torch.testing.assert_close(propagate(query, key, logits), naive(query, key, logits), rtol=1e-4, atol=1e-5)


def test_constant_map_stays_constant() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1, 1).expand(2, 3, *GRID)
    torch.testing.assert_close(propagate(*projections(), logits), logits.contiguous())


def test_voxel_takes_the_logits_of_the_one_that_looks_like_it() -> None:
    # keys are unit vectors, one per voxel; the query of voxel i is far along the key of voxel n - 1 - i
    n = math.prod(GRID)
    key = torch.eye(n).view(1, n, *GRID)
    query = 1000 * torch.eye(n).flip(1).view(1, n, *GRID)
    logits = torch.randn(1, 3, *GRID)
    expected = logits.flatten(2).flip(2).view(1, 3, *GRID)
    torch.testing.assert_close(propagate(query, key, logits), expected)


@pytest.mark.parametrize("classes", [3, 11])
def test_fast_cpu_kernel_takes_it_with_gradients(classes: int) -> None:
    query, key = projections(requires_grad=True)
    logits = torch.randn(2, classes, *GRID, requires_grad=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        propagated = propagate(query, key, logits)
    torch.testing.assert_close(propagated, naive(query, key, logits), rtol=1e-4, atol=1e-5)
    given = torch.autograd.grad(propagated.square().sum(), (query, key, logits))
    expected = torch.autograd.grad(naive(query, key, logits).square().sum(), (query, key, logits))
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-4)


def test_it_computes_in_float32_under_autocast() -> None:
    query, key = projections()
    logits = torch.randn(2, 3, *GRID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        propagated = propagate(query, key, logits)
    assert propagated.dtype == torch.float32
    torch.testing.assert_close(propagated, naive(query, key, logits), rtol=1e-4, atol=1e-5)


def test_shape_mismatch_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 8, 2, 2, 2\) and \(1, 4, 2, 2, 2\)"):
        propagate(torch.zeros(1, 8, 2, 2, 2), torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 3, 4, 4, 4))


FINE = (8, 10, 12)


def borders() -> Tensor:
    """Three classes whose borders lie within blocks of the features' grid, (2, 1, 8, 10, 12)."""
    label = torch.zeros(2, 1, *FINE, dtype=torch.int64)
    label[:, :, 1:5, 3:8, 2:7] = 1
    label[:, :, 5:, 1:4, 5:] = 2
    return label


def one_to_one() -> Tensor:
    """Features by which a voxel of the features' grid looks like itself alone, (1, 120, 4, 5, 6)."""
    n = math.prod(GRID)
    return 100 * torch.eye(n).view(1, n, *GRID)


def perfect(label: Tensor, height: float = 8.0) -> Tensor:
    return height * F.one_hot(label[:, 0], 3).movedim(-1, 1).float()


@pytest.mark.parametrize("mode", ["logits", "detached"])
def test_loss_is_that_of_logits_averaged_down_propagated_and_interpolated_back(mode: str) -> None:
    query, key = projections()
    logits, label = torch.randn(2, 3, *FINE), borders()
    coarse = logits.view(2, 3, 4, 2, 5, 2, 6, 2).mean(dim=(3, 5, 7))
    expected = F.interpolate(naive(query, key, coarse), size=FINE, mode="trilinear", align_corners=False)
    loss = PartialDiceCELoss()
    torch.testing.assert_close(PropagationLoss(loss, mode)(query, key, logits, label), loss(expected, label))


@pytest.mark.parametrize(("mode", "carries"), [("logits", True), ("detached", False), ("probabilities", True)])
def test_projections_learn_and_logits_only_if_they_are_not_detached(mode: str, carries: bool) -> None:
    query, key = projections(requires_grad=True)
    logits = torch.randn(2, 3, *FINE, requires_grad=True)
    PropagationLoss(PartialDiceCELoss(), mode)(query, key, logits, borders()).backward()
    for projection in (query, key):
        assert projection.grad is not None
        assert projection.grad.any()
    assert (logits.grad is not None and bool(logits.grad.any())) is carries


def test_perfect_logits_are_pulled_at_unless_probabilities_are_propagated() -> None:
    label, features = borders()[:1], one_to_one()
    pull = {}
    for mode in ("logits", "probabilities"):
        logits = perfect(label).requires_grad_()
        loss = PropagationLoss(PartialDiceCELoss(), mode)(features, features, logits, label)
        (gradient,) = torch.autograd.grad(loss, logits)
        pull[mode] = float(gradient.abs().max())
    assert pull["logits"] > 1e-4
    assert pull["probabilities"] < pull["logits"] / 50


def test_propagated_probabilities_are_compared_with_the_averaged_label() -> None:
    label, features = borders()[:1], one_to_one()
    target = F.adaptive_avg_pool3d(perfect(label, 1.0), GRID)
    entropy = -(target * target.clamp_min(1e-6).log()).sum(dim=1).mean()
    loss = PropagationLoss(PartialDiceCELoss(), "probabilities")(features, features, perfect(label, 50.0), label)
    assert float(loss) == pytest.approx(0.5 * float(entropy), rel=1e-4)  # Dice adds nothing


@pytest.mark.parametrize("mode", ["logits", "detached", "probabilities"])
def test_predictions_where_there_is_no_label_change_nothing_that_is_near_one(mode: str) -> None:
    label, features = borders()[:1], one_to_one()
    label[:, :, 4:] = NO_LABEL
    logits = torch.randn(1, 3, *FINE)
    other = logits.clone()
    other[:, :, 6:] = torch.randn(1, 3, 2, *FINE[1:])  # a block away: interpolation mixes neighbors
    loss = PropagationLoss(PartialDiceCELoss(), mode)
    torch.testing.assert_close(
        loss(features, features, logits, label), loss(features, features, other, label), rtol=1e-4, atol=1e-5
    )
    nothing = torch.full_like(label, NO_LABEL)
    assert float(loss(features, features, logits, nothing)) == pytest.approx(0.0, abs=1e-5)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be 'logits', 'detached' or 'probabilities', got 'grid'"):
        PropagationLoss(PartialDiceCELoss(), "grid")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_a_hundredth(dtype: torch.dtype) -> None:
    query, key = projections(width=8)
    probabilities = torch.softmax(2 * torch.randn(2, 3, *GRID), dim=1)
    exact = propagate(query, key, probabilities)
    rounded = propagate(query.to(dtype), key.to(dtype), probabilities, dtype)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 1e-2


def test_cpu_computes_in_float32_whatever_the_projections_are() -> None:
    query, key = (x.bfloat16() for x in projections(width=8))
    values = torch.randn(2, 3, *GRID)
    torch.testing.assert_close(propagate(query, key, values), propagate(query.float(), key.float(), values))
