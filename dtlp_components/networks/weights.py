# SPDX-License-Identifier: Apache-2.0
"""Loading of a student's weights."""

from __future__ import annotations

import os

import torch
from torch import nn

from ..errors import InputError

__all__ = ["load_weights"]


def load_weights(network: nn.Module, file: str, device: str | torch.device = "cpu") -> nn.Module:
    """
    Load a plain state dict into ``network``, move it to ``device`` and put it in eval mode.

    Raises:
        InputError: if the file does not exist, is no state dict or belongs to a network of another shape.
    """
    if not os.path.isfile(file):
        raise InputError(
            f"No weights at {os.path.abspath(file)}. Train first (`python -m monai.bundle run training --config_file "
            "…/train.json`), or give `--model_file FILE`, or the `--output_dir` of the training run."
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:  # torch raises many kinds; each means that this file is not these weights
        raise InputError(
            f"{os.path.abspath(file)} does not fit the network ({type(error).__name__}: {str(error)[:600]}). "
            "Were `--features`, `--norm` or `--num_classes` different in training?"
        ) from error
    return network.to(device).eval()
