# SPDX-License-Identifier: Apache-2.0
"""Slab by slab or whole: the same labels. And what the uncertainty maps and scores are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd, Rotate90

from dtlp_components.inferers.scan_segmenter import ScanSegmenter
from dtlp_components.metrics.calibration import Calibration
from dtlp_components.transforms.scan_grid import SLAB_BYTES, ScanGridLabelsd
from tests import tiny

CPU = torch.device("cpu")
C, S = math.cos(0.3), math.sin(0.3)
AFFINES = {
    "RAS": np.diag([1.2, 0.9, 2.0, 1.0]),
    "LPI": np.diag([-1.2, -0.9, -2.0, 1.0]),
    "permuted": np.array([[0, 0, 2.0, -7], [-1.2, 0, 0, 3], [0, 0.9, 0, 40], [0, 0, 0, 1]]),
    "oblique": np.array([[1.2 * C, -0.9 * S, 0, 5], [1.2 * S, 0.9 * C, 0, -9], [0, 0, 2.0, 1], [0, 0, 0, 1]]),
}


def write_scan(file: Path, affine: np.ndarray, shape: tuple[int, ...] = (30, 37, 26)) -> Path:
    """Smooth blobs in HU, so that labels have shapes and edges."""
    rng = np.random.default_rng(0)
    coarse = torch.as_tensor(rng.normal(0, 250, (1, 1, 6, 7, 5)))
    voxels = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0].numpy()
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), file)
    return file


def parse(bundle: str, scan: Path, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(f"bundles/{bundle}/configs/inference.json")
    parser.update({**tiny.NETWORK, "input": str(scan), "prediction_dir": str(scan.parent / "out"), **overrides})
    return parser


class InDouble(torch.nn.Module):
    """
    The network in float64: both ways put windows into batches differently, and a random network with four voxels at its
    deepest stage makes visible differences of what float32 rounds.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image.double()).float()


def labels_three_ways(parser: ConfigParser, scan: Path, slab_bytes: int = SLAB_BYTES) -> tuple[MetaTensor, ...]:
    """Labels of the bundle's inferer and Invertd on the whole volume; of the inferer and slabs; of the segmenter."""
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").eval()
    torch.nn.init.normal_(network.decoder.head.weight, std=3.0)  # else one class wins everywhere
    network = InDouble(network)
    inferer = parser.get_parsed_content("inferer")
    image = parser.get_parsed_content("preprocessing")({"image": str(scan)})["image"]
    with torch.no_grad():
        logits = inferer(image[None], network)
    preprocessing = parser.get_parsed_content("preprocessing")
    invert = Invertd("pred", preprocessing, "image", nearest_interp=False, to_tensor=True)
    whole = Compose([Activationsd("pred", softmax=True), invert, AsDiscreted("pred", argmax=True)])
    expected = whole({"image": image, "pred": logits[0]})["pred"]
    in_slabs = ScanGridLabelsd("pred", slab_bytes=slab_bytes)({"image": image, "pred": logits[0]})["pred"]
    return expected, in_slabs, ScanSegmenter(inferer, slab_bytes=slab_bytes)(image, network, CPU)["pred"]


SPACINGS: list[Any] = [None, [1.5, 1.5, 1.5], [0.8, 1.7, 0.9], [4.0, 3.0, 5.0]]
CASES = [(affine, spacing, 2**20) for affine in AFFINES for spacing in SPACINGS]
CASES += [("permuted", [0.8, 1.7, 0.9], slab_bytes) for slab_bytes in (1, 2**28)]  # one row at a time; all at once


@pytest.mark.slow
@pytest.mark.parametrize(("orientation", "spacing", "slab_bytes"), CASES, ids=str)
def test_labels_are_those_of_invertd(tmp_path: Path, orientation: str, spacing: Any, slab_bytes: int) -> None:
    affine = AFFINES[orientation]
    scan = write_scan(tmp_path / "scan.nii.gz", affine)
    parser = parse("synapse_20", scan, spacing_mm=spacing)
    expected, *found = labels_three_ways(parser, scan, slab_bytes)
    assert len(expected.unique()) > 3  # the comparison means something
    for labels in found:
        assert labels.dtype == torch.uint8
        # ties between two classes may fall either way: coordinates are rounded, and windows added up, in another order
        assert (labels != expected).float().mean() <= 1e-4
        np.testing.assert_allclose(labels.affine, affine, atol=1e-5)
        assert labels.shape[1:] == nib.load(scan).shape


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["synapse_20", "amos_5", "la_10"])
def test_labels_are_those_of_invertd_after_published_preprocessing(tmp_path: Path, bundle: str) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["LPI"])
    overlap = {"window_overlap": 0.25}  # theirs takes minutes on 160 x 160 x 80 voxels
    parser = parse(bundle, scan, preprocessing_variant="published", patch_size=[96, 96, 80], **overlap)
    expected, *found = labels_three_ways(parser, scan)
    assert all((labels != expected).float().mean() <= 1e-4 for labels in found)


def test_transform_that_the_affine_does_not_tell_is_refused(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["RAS"])
    parser = parse("synapse_20", scan)
    image = Rotate90()(parser.get_parsed_content("preprocessing")({"image": str(scan)})["image"])
    with pytest.raises(ValueError, match="Rotate90 cannot be inverted slab by slab"):
        ScanSegmenter(parser.get_parsed_content("inferer"))(image, torch.nn.Identity(), CPU)


class Fixed(torch.nn.Module):
    """Says the same probabilities everywhere, in logits."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits.view(1, -1, 1, 1, 1).expand(image.shape[0], -1, *image.shape[2:])


def segment_constant(tmp_path: Path, network: Fixed, **arguments: Any) -> dict[str, Any]:
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["permuted"])
    parser = parse("synapse_20", scan, spacing_mm=[3.0, 2.0, 2.0])
    image = parser.get_parsed_content("preprocessing")({"image": str(scan)})["image"]
    return ScanSegmenter(parser.get_parsed_content("inferer"), **arguments)(image, network, CPU)


def test_entropy_is_in_bits_on_the_grid_of_the_scan(tmp_path: Path) -> None:
    found = segment_constant(tmp_path, Fixed(0.5, 0.25, 0.25), uncertainty=True)
    assert found["entropy"].shape == (1, 30, 37, 26)
    # H = 1/2 * 1 + 2 * 1/4 * 2 bits
    np.testing.assert_allclose(found["entropy"], 1.5, atol=1e-5)
    assert "disagreement" not in found


def test_disagreement_is_in_bits_and_blind_to_uncertainty_that_is_shared(tmp_path: Path) -> None:
    def teacher(*values: float) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
        return lambda windows: {"a": torch.softmax(Fixed(*values)(windows), 1)}

    alike = teacher(0.5, 0.25, 0.25)
    found = segment_constant(tmp_path, Fixed(0.5, 0.25, 0.25), uncertainty=True, teachers=alike)
    np.testing.assert_allclose(found["disagreement"], 0, atol=1e-5)
    # two certain opinions that differ: their mean has an entropy of 1 bit, they themselves have none
    opposite = teacher(1e-9, 1.0, 1e-9)
    found = segment_constant(tmp_path, Fixed(1.0, 1e-9, 1e-9), uncertainty=True, teachers=opposite)
    np.testing.assert_allclose(found["disagreement"], 1, atol=1e-5)
    np.testing.assert_allclose(found["entropy"], 0, atol=1e-5)


def test_scores_are_those_of_their_definition(tmp_path: Path) -> None:
    # class 2 everywhere with probability p = 0.6: 2 p n / (p n + n) = 2 * 0.6 / 1.6; class 1 is nowhere and left out
    quality = segment_constant(tmp_path, Fixed(0.1, 0.3, 0.6), uncertainty=True)["quality"]
    assert quality["expected_dice"] == pytest.approx(0.75, abs=1e-5)
    assert quality["confidence"] == pytest.approx(0.6, abs=1e-5)
    entropy = -sum(p * math.log2(p) for p in (0.1, 0.3, 0.6))
    assert quality["foreground_entropy"] == pytest.approx(entropy, abs=1e-5)


def test_calibration_changes_confidence_and_not_the_labels(tmp_path: Path) -> None:
    plain = segment_constant(tmp_path, Fixed(0.1, 0.3, 0.6), uncertainty=True)
    calibration = Calibration(2.0, "", "validation", 30, below=0.2, above=0.1)
    found = segment_constant(tmp_path, Fixed(0.1, 0.3, 0.6), uncertainty=True, calibration=calibration)
    assert torch.equal(found["pred"], plain["pred"])
    roots = [p**0.5 for p in (0.1, 0.3, 0.6)]
    p = roots[2] / sum(roots)
    assert found["quality"]["confidence"] == pytest.approx(p, abs=1e-5)
    assert found["quality"]["expected_dice"] == pytest.approx(2 * p / (1 + p), abs=1e-5)
    assert found["quality"]["dice_low"] == pytest.approx(2 * p / (1 + p) - 0.2, abs=1e-5)
    assert found["quality"]["dice_high"] == pytest.approx(2 * p / (1 + p) + 0.1, abs=1e-5)
    entropy = -sum(q / sum(roots) * math.log2(q / sum(roots)) for q in roots)
    np.testing.assert_allclose(found["entropy"], entropy, atol=1e-4)


def test_scan_without_foreground_has_no_score(tmp_path: Path) -> None:
    assert segment_constant(tmp_path, Fixed(0.9, 0.1))["quality"] == {}
