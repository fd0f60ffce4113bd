# SPDX-License-Identifier: Apache-2.0
"""Labeled images in the style of unlabeled ones: intensities change, structures do not."""

from __future__ import annotations

import pytest
import torch

from dtlp_components.transforms.style import StyleTransfer, swap_low_frequencies

pytestmark = pytest.mark.usefixtures("seed")

SHAPE = (2, 1, 12, 10, 8)


def batch(scale: float, offset: float) -> torch.Tensor:
    return (scale * torch.randn(SHAPE) + offset).contiguous(memory_format=torch.channels_last_3d)


def test_histogram_is_that_of_one_of_the_references_and_the_order_of_voxels_stays() -> None:
    image, reference = batch(1.0, 0.0), batch(3.0, 10.0)
    styled = StyleTransfer("histogram", probability=1.0)(image, reference)
    for one, before in zip(styled, image, strict=True):
        assert any(torch.allclose(one.flatten().sort()[0], r.flatten().sort()[0], atol=1e-3) for r in reference)
        assert torch.equal(one.flatten().argsort(), before.flatten().argsort())


def test_low_frequencies_come_from_the_reference_and_phases_stay() -> None:
    image, reference = torch.randn(1, 12, 10, 8), 2 * torch.randn(1, 12, 10, 8) + 5
    styled = swap_low_frequencies(image, reference, 0.1)
    spectrum = [torch.fft.fftn(x[0]) for x in (image, reference, styled)]
    for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (11, 9, 0)):
        assert spectrum[2][index].abs() == pytest.approx(float(spectrum[1][index].abs()), rel=1e-3)
    for index in ((3, 0, 0), (0, 3, 0), (4, 4, 2)):
        assert spectrum[2][index].abs() == pytest.approx(float(spectrum[0][index].abs()), rel=1e-3)
        torch.testing.assert_close(spectrum[2][index].angle(), spectrum[0][index].angle(), rtol=1e-2, atol=1e-3)


def test_image_is_its_own_style() -> None:
    image = torch.randn(1, 12, 10, 8)
    torch.testing.assert_close(swap_low_frequencies(image, image, 0.2), image, rtol=1e-4, atol=1e-5)
    same = image[None]
    torch.testing.assert_close(StyleTransfer("histogram", probability=1.0)(same, same), same)


@pytest.mark.parametrize("style", ["histogram", "fourier"])
def test_images_are_changed_as_often_as_asked_and_the_given_ones_stay(style: str) -> None:
    image, reference = batch(1.0, 0.0), batch(3.0, 10.0)
    before = image.clone()
    changed = 0
    for _ in range(60):
        styled = StyleTransfer(style, probability=0.3)(image, reference)
        changed += sum(not torch.equal(a, b) for a, b in zip(styled, image, strict=True))
        assert styled.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(image, before)
    assert changed / 120 == pytest.approx(0.3, abs=0.13)  # three standard deviations


def test_without_a_style_nothing_is_done_or_drawn() -> None:
    image, state = batch(1.0, 0.0), torch.get_rng_state()
    assert StyleTransfer()(image, batch(1.0, 0.0)) is image
    state = torch.get_rng_state()
    StyleTransfer()(image, image)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_words_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="style must be one of none, histogram, fourier, got 'gan'"):
        StyleTransfer("gan")
    with pytest.raises(ValueError, match=r"probability must be within \[0, 1\], got 2"):
        StyleTransfer("histogram", probability=2)
