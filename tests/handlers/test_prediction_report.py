# SPDX-License-Identifier: Apache-2.0
"""The table of an inference run counts what is in each label map, and keeps what is still true of an earlier one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from dtlp_components.data.segmentations import read_table
from dtlp_components.errors import InputError
from dtlp_components.handlers.prediction_report import PredictionReport, count_voxels
from dtlp_components.keys import ScanEvents

NAMES = ["background", "liver", "spleen"]


def labels() -> torch.Tensor:
    """3 x 4 x 5 = 60 voxels: 6 of class 1, 2 of class 3, which has no name."""
    volume = torch.zeros(1, 3, 4, 5, dtype=torch.uint8)
    volume[0, :2, :3, 0] = 1
    volume[0, 2, :2, 4] = 3
    return volume


@pytest.fixture
def segment(tmp_path: Path) -> Callable[..., list[dict[str, str]]]:
    """Rows after a run over scans by name, each of which is a label map, or a problem in words."""

    def run(**scans: torch.Tensor | str) -> list[dict[str, str]]:
        def iteration(engine: Engine, name: str) -> list[dict[str, Any]]:
            result = scans[name]
            if isinstance(result, str):
                return [{"image": f"/scans/{name}.nii", "problem": result}]
            file = tmp_path / f"{name}_seg.nii.gz"
            file.touch()
            affine = torch.diag(torch.tensor([1.0, 2.0, 5.0, 1.0], dtype=torch.float64))
            pred = MetaTensor(result, affine=affine, meta={"saved_to": str(file)})
            return [{"image": f"/scans/{name}.nii", "pred": pred, "quality": {"confidence": 0.98765}}]

        engine = Engine(iteration)
        engine.register_events(*ScanEvents)
        PredictionReport(str(tmp_path), NAMES).attach(engine)
        engine.run(list(scans), max_epochs=1)
        return read_table(tmp_path)

    return run


def test_voxels_are_counted_up_to_the_highest_label() -> None:
    assert count_voxels(labels()) == [52, 6, 0, 2]


def test_row_has_voxels_and_millilitres_of_every_class(segment: Callable[..., list[dict[str, str]]]) -> None:
    (row,) = segment(a=labels())
    assert row["scan"] == "/scans/a.nii"
    assert row["confidence"] == "0.9877"
    assert row["problem"] == ""
    # a voxel has 1 x 2 x 5 mm^3 = 0.01 ml
    assert [row[f"{name} voxels"] for name in (*NAMES, "3")] == ["52", "6", "0", "2"]
    assert [row[f"{name} ml"] for name in (*NAMES, "3")] == ["0.52", "0.06", "0.0", "0.02"]


def test_rows_stay_as_long_as_their_label_map(segment: Callable[..., list[dict[str, str]]], tmp_path: Path) -> None:
    segment(a=labels(), b=labels())
    (tmp_path / "a_seg.nii.gz").unlink()
    assert [row["scan"] for row in segment(c=labels())] == ["/scans/b.nii", "/scans/c.nii"]


def test_map_of_uncertainty_goes_with_the_labels_it_was_of(
    segment: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    (tmp_path / "a_entropy.nii.gz").touch()
    (tmp_path / "b_entropy.nii.gz").touch()
    segment(a=labels())
    assert sorted(file.name for file in tmp_path.glob("*.nii.gz")) == ["a_seg.nii.gz", "b_entropy.nii.gz"]


def test_scan_without_a_label_map_is_an_error_after_the_others(segment: Callable[..., list[dict[str, str]]]) -> None:
    with pytest.raises(InputError, match=r"Segmented 1 of 2 scans(?s:.)*/scans/a\.nii: cannot be read\."):
        segment(a="/scans/a.nii: cannot be read.", b=labels())


def test_table_that_cannot_be_written_is_said_once(
    segment: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    (tmp_path / "segmentations.csv").mkdir()
    with pytest.raises(InputError) as error:
        segment(a=labels(), b=labels())
    assert str(error.value).count("segmentations.csv: cannot be written") == 1
