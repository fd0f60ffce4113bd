# SPDX-License-Identifier: Apache-2.0
"""Public downloads to datalists, and to NIfTI where the download has none."""

from __future__ import annotations

from .hippocampus import prepare_hippocampus
from .la import prepare_la

__all__ = ["prepare_hippocampus", "prepare_la"]
