# SPDX-License-Identifier: Apache-2.0
"""What ``bench`` times of inference: a bundle's sliding windows against one window after the other."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor, nn

from .bench_training import read_config, seconds_on, synthetic_volume
from .errors import InputError

__all__ = ["InferenceVariant", "one_window_at_a_time"]


def one_window_at_a_time(
    network: nn.Module, image: Tensor, patch_size: Sequence[int], overlap: float, mode: str
) -> Tensor:
    """
    Sliding-window inference without anything that makes it fast; windows and weights are those of MONAI's.

    Args:
        network: maps windows to logits.
        image: ``(1, in_channels, D, H, W)``, no side smaller than the window's.
        patch_size: sides of a window.
        overlap: share of a side by which neighbouring windows overlap.
        mode: ``constant`` or ``gaussian`` weights within a window.

    Returns:
        Weighted mean of the windows' logits ``(1, C, D, H, W)``.
    """
    size = image.shape[2:]
    stride = [
        window if window == side else max(1, int(window * (1 - overlap))) for window, side in zip(patch_size, size)
    ]
    weight = compute_importance_map(tuple(patch_size), mode=mode, device=image.device)
    total: Any = 0.0
    weights = torch.zeros(size, device=image.device)
    for window in dense_patch_slices(size, patch_size, stride):
        logits = network(image[(..., *window)])
        if isinstance(total, float):
            total = torch.zeros(1, logits.shape[1], *size, device=image.device)
        total[(..., *window)] += weight * logits
        weights[window] += weight
    result: Tensor = total / weights
    return result


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
        InputError: if there is no ``inference.json`` or the volume is smaller than a window.
    """

    def __init__(
        self, config_file: str, overrides: Mapping[str, Any], student: Mapping[str, Tensor], size: Sequence[int]
    ) -> None:
        file = str(Path(config_file).with_name("inference.json"))
        known = read_config(file, {})
        settings = {key: value for key, value in overrides.items() if key in known}
        parser, plain_parser = read_config(file, settings), read_config(file, settings)
        self.patch_size = [int(side) for side in parser.get_parsed_content("patch_size")]
        self.overlap, self.mode = (parser.get_parsed_content(key) for key in ("window_overlap", "window_mode"))
        if len(size) != 3 or any(side < window for side, window in zip(size, self.patch_size)):
            raise InputError(
                f"--inference_size: found {list(size)}, wanted three sides, none smaller than the patch {self.patch_size}."
            )
        with tempfile.TemporaryDirectory() as folder:
            parser["model_file"] = os.path.join(folder, "model.pt")
            torch.save(dict(student), parser["model_file"])
            self.network = parser.get_parsed_content("network")
        self.inferer = parser.get_parsed_content("inferer")
        device = next(self.network.parameters()).device
        self.plain: Any = plain_parser.get_parsed_content("network_def")
        self.plain.load_state_dict(student)
        self.plain.to(device).eval()
        channels, num_classes = (int(parser.get_parsed_content(key)) for key in ("in_channels", "num_classes"))
        self.image = synthetic_volume(size, channels, num_classes, seed=3000)[0][None].to(device)
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

    @property
    def num_windows(self) -> int:
        """Windows that cover the volume."""
        return math.prod(
            1 + math.ceil((side - window) / max(1, int(window * (1 - self.overlap))))
            for side, window in zip(self.image.shape[2:], self.patch_size)
        )

    def round(self) -> tuple[float, float, float]:
        """Seconds of the bundle's way and of the plain way, and the share of voxels with equal labels."""
        began = self.read()
        labels = self.by_inferer().argmax(dim=1)
        between = self.read()
        plain_labels = self.by_windows().argmax(dim=1)
        ended = self.read()
        return between - began, ended - between, (labels == plain_labels).float().mean().item()
