# SPDX-License-Identifier: Apache-2.0
"""What is summed up over windows is what the whole volume says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtlp_components.labeling.opinions import judge_scan
from dtlp_components.metrics.uncertainty import entropy_bits, jensen_shannon_bits

NAMES = ["background", "liver", "spleen"]


class Pointwise(nn.Module):
    """A student that looks at each voxel alone, so that windows and the whole agree."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.0, 3.0, -3.0]))

    def image_features(self, image: Tensor) -> list[Tensor]:
        return [image, F.avg_pool3d(torch.cat([image, image**2], dim=1), 4)]

    def decoder(self, features: list[Tensor]) -> Tensor:
        return features[0] * self.scale[None, :, None, None, None]


def teachers(windows: Tensor) -> dict[str, Tensor]:
    return {"a": torch.softmax(Pointwise().decoder([windows + 0.5]), dim=1)}


def test_scores_are_those_of_the_whole_volume() -> None:
    torch.manual_seed(0)
    image, student = torch.randn(1, 16, 8, 8), Pointwise()
    found = judge_scan("x.nii.gz", image, student, teachers, [8, 8, 8], NAMES, batch_size=1)
    probabilities = torch.softmax(student.decoder([image[None]]), dim=1)
    label = probabilities.argmax(dim=1)[0]
    disputed = jensen_shannon_bits([probabilities, teachers(image[None])["a"]])[0, 0].detach()
    assert found.scores["foreground_disagreement"] == pytest.approx(float(disputed[label > 0].mean()), rel=1e-5)
    entropy = entropy_bits(probabilities)[0, 0]
    assert found.scores["foreground_entropy"] == pytest.approx(float(entropy[label > 0].mean()), rel=1e-5)
    for i in (1, 2):
        assert found.by_class[NAMES[i]] == pytest.approx(float(disputed[label == i].mean()), rel=1e-5)
    near = F.avg_pool3d(1 - probabilities[:, :1], 4) + 1e-3
    expected = (student.image_features(image[None])[-1] * near).sum(dim=(0, 2, 3, 4)) / near.sum()
    assert found.features == pytest.approx(expected.tolist(), abs=1e-5)


def test_windows_at_a_time_change_nothing() -> None:
    image = torch.randn(1, 16, 16, 8)
    one, four = (judge_scan("x", image, Pointwise(), teachers, [8, 8, 8], NAMES, n) for n in (1, 4))
    assert one.scores == pytest.approx(four.scores)
    assert one.features == pytest.approx(four.features, abs=1e-5)


def test_scan_smaller_than_a_window_is_padded() -> None:
    found = judge_scan("x", torch.ones(1, 5, 8, 6), Pointwise(), None, [8, 8, 8], NAMES)
    assert found.scores["expected_dice"] > 0
    assert "foreground_disagreement" not in found.scores
    assert found.by_class.keys() == {"liver"}  # of the entropy then


def test_background_alone_has_features_and_no_scores() -> None:
    class Nothing(Pointwise):
        def decoder(self, features: list[Tensor]) -> Tensor:
            return torch.cat([features[0] * 0 + 9, features[0] * 0, features[0] * 0], dim=1)

    found = judge_scan("x", torch.randn(1, 8, 8, 8), Nothing(), None, [8, 8, 8], NAMES)
    assert found.scores == {}
    assert found.by_class == {}
    assert len(found.features) == 2
