# SPDX-License-Identifier: Apache-2.0
"""Images that lose a channel at random."""

from __future__ import annotations

import pytest
import torch

from dtlp_components import RandChannelDropoutd

SHAPE = (3, 4, 5, 6)


def test_each_channel_is_dropped_as_often_as_the_others() -> None:
    drop = RandChannelDropoutd("image", prob=0.6).set_random_state(0)
    counts = torch.zeros(3)
    for _ in range(1000):
        image = drop({"image": torch.ones(SHAPE)})["image"].flatten(1).mean(dim=1)
        assert image.sum() >= 2  # never more than one
        counts += 1 - image
    # 600 draws of three: 200 each, with a standard deviation of 13
    assert ((counts - 200).abs() < 40).all()


def test_one_channel_is_never_dropped_and_the_original_is_kept() -> None:
    drop = RandChannelDropoutd("image", prob=1.0)
    single, several = torch.ones(1, 4, 5, 6), torch.ones(SHAPE)
    assert drop({"image": single})["image"] is single
    assert (drop({"image": several})["image"] == 0).any()
    assert (several == 1).all()


def test_probability_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prob must be within \[0, 1\], got 2"):
        RandChannelDropoutd("image", prob=2.0)
