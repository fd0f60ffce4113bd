# SPDX-License-Identifier: Apache-2.0
"""What ``bench`` times of inference: a bundle's sliding windows against one window after the other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data.utils import compute_importance_map
from torch import Tensor, nn

from ..errors import InputError
from ..inferers.windows import window_slices
from .reference import seconds_on, synthetic_volume
from .training import network_settings, read_config

__all__ = ["InferenceVariant", "one_window_at_a_time", "read_inference_config"]


def one_window_at_a_time(
    network: nn.Module, image: Tensor, patch_size: Sequence[int], overlap: float, mode: str
) -> Tensor:
    """
    Sliding-window inference without anything that makes it fast; windows and weights are those of MONAI's.

    Args:
        network: maps windows to logits.
        image: ``(1, in_channels, D, H, W)``, no side smaller than the window's.
        patch_size: sides of a window.
        overlap: share of a side by which neighboring windows overlap.
        mode: ``constant`` or ``gaussian`` weights within a window.

    Returns:
        Weighted mean of the windows' logits ``(1, C, D, H, W)``.
    """
    size = image.shape[2:]
    weight = compute_importance_map(tuple(patch_size), mode=mode, device=image.device)
    total: Any = 0.0
    weights = torch.zeros(size, device=image.device)
    for window in window_slices(size, patch_size, overlap):
        x, y, z = window
        logits = network(image[..., x, y, z])
        if isinstance(total, float):
            total = torch.zeros(1, logits.shape[1], *size, device=image.device)
        total[..., x, y, z] += weight * logits
        weights[window] += weight
    result: Tensor = total / weights
    return result


def read_inference_config(config_file: str, overrides: Mapping[str, Any], size: Sequence[int]) -> ConfigParser:
    """
    The ``inference.json`` beside a bundle's ``train.json``, with the keys that it knows set.

    Raises:
        InputError: if there is none or the volume is smaller than a window.
    """
    file = str(Path(config_file).with_name("inference.json"))
    known = read_config(file, {})
    parser = read_config(file, {key: value for key, value in overrides.items() if key in known})
    patch_size = network_settings(parser)["patch_size"]
    if len(size) != 3 or any(side < window for side, window in zip(size, patch_size, strict=True)):
        raise InputError(
            f"--inference_size: expected three sides, none smaller than the patch {patch_size}, got {list(size)}."
        )
    return parser


class InferenceVariant:
    """
    Two ways to segment one synthetic volume with one network, in eval mode and without gradients.

    ``inferer`` is what ``inference.json`` does: its network, loaded from a file of weights, and its inferer.
    ``windows`` is :py:func:`one_window_at_a_time` with the same weights in float32 and contiguous memory.

    Args:
        config_file: a bundle's ``train.json``; ``inference.json`` stands beside it.
        overrides: values by key; those that inference does not know are those of training alone.
        student: state dict of the weights.
        size: sides of the volume.

    Raises:
        InputError: see :py:func:`read_inference_config`.
    """

    def __init__(
        self, config_file: str, overrides: Mapping[str, Any], student: Mapping[str, Tensor], size: Sequence[int]
    ) -> None:
        parser, plain_parser = (read_inference_config(config_file, overrides, size) for _ in range(2))
        settings = network_settings(parser)
        device = settings["device"]
        self.patch_size = settings["patch_size"]
        self.overlap, self.mode = (parser.get_parsed_content(key) for key in ("window_overlap", "inferer::mode"))
        with tempfile.TemporaryDirectory() as folder:
            parser["model_file"] = plain_parser["model_file"] = os.path.join(folder, "model.pt")
            torch.save(dict(student), parser["model_file"])
            self.network = parser.get_parsed_content("network")
        self.inferer = parser.get_parsed_content("inferer")
        plain_parser["channels_last"] = False
        self.plain: Any = plain_parser.get_parsed_content("network_def")
        self.plain.load_state_dict(student)
        self.plain.to(device).eval()
        image, _ = synthetic_volume(size, settings["in_channels"], settings["num_classes"], seed=3000)
        self.image = image[None].to(device)
        self.read = seconds_on(device)

    @torch.no_grad()
    def by_inferer(self) -> Tensor:
        """Logits ``(1, C, D, H, W)`` the bundle's way."""
        logits: Tensor = self.inferer(self.image, self.network)
        return logits

    @torch.no_grad()
    def by_windows(self) -> Tensor:
        """Logits ``(1, C, D, H, W)`` the plain way."""
        return one_window_at_a_time(self.plain, self.image, self.patch_size, self.overlap, self.mode)

    def round(self) -> tuple[float, float, float]:
        """Seconds of the bundle's way and of the plain way, and the share of voxels with equal labels."""
        began = self.read()
        labels = self.by_inferer().argmax(dim=1)
        between = self.read()
        plain_labels = self.by_windows().argmax(dim=1)
        ended = self.read()
        return between - began, ended - between, (labels == plain_labels).float().mean().item()
