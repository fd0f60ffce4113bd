# SPDX-License-Identifier: Apache-2.0
"""The tables of scans and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.own_data.scans import label, make, mr, save


def test_table_counts_scans_sizes_and_millilitres(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    affine = np.array([[0, 0, 3.0, 0], [-2.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])  # stored as P, S, R
    save(near / "turned/images/a.nii.gz", mr(5), affine)
    save(near / "turned/labels/a.nii.gz", label(1), affine)
    make(labeled="turned")
    rows = {line[:10].strip(): line[11:].split() for line in capsys.readouterr().out.splitlines() if line[:10].strip()}
    # x is the third stored axis, y the first, z the second
    assert [rows[f"voxels {axis}"][0] for axis in "xyz"] == ["22", "20", "18"]
    assert [rows[f"mm {axis}"][0] for axis in "xyz"] == ["3", "2", "1"]
    assert rows["stored as"][0] == "PSR"
    # 4 x 5 x 6 voxels of 6 mm^3 are 0.72 ml
    assert any("1 of 1, 0.72" in " ".join(row) for row in rows.values())
