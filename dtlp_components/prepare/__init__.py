# SPDX-License-Identifier: Apache-2.0
"""Public downloads to datalists, and to NIfTI where the download has none."""

from __future__ import annotations

from .amos import prepare_amos
from .hippocampus import prepare_hippocampus
from .la import prepare_la
from .mmwhs import prepare_mmwhs
from .mnms import prepare_mnms
from .synapse import prepare_synapse

__all__ = ["prepare_amos", "prepare_hippocampus", "prepare_la", "prepare_mmwhs", "prepare_mnms", "prepare_synapse"]
