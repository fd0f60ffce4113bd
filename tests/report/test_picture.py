# SPDX-License-Identifier: Apache-2.0
"""A picture shows the slice with most of the reference, under every label map; tests/bundles draws one of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtlp_components.errors import InputError
from dtlp_components.report.picture import draw_panels, write_picture

SHAPE = (8, 9, 7)


def test_slice_is_the_one_with_most_classes_and_every_panel_has_its_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    reference = np.zeros(SHAPE, np.int64)
    reference[1:7, 1:7, 2] = 1  # most voxels
    reference[1, 1, 5], reference[2, 2, 5] = 1, 2  # most classes
    drawn: list[Any] = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig",
        lambda figure, *args, **kwargs: (drawn.append(figure), save(figure, *args, **kwargs)),
    )
    file = tmp_path / "new" / "scan.png"
    panels = {"reference": reference, "student\nDice 50.0": reference % 2}
    draw_panels(np.random.default_rng(0).random(SHAPE), panels, ["background", "liver", "spleen"], "scan", file)
    assert [path.name for path in file.parent.iterdir()] == ["scan.png"]
    assert file.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert figure.get_suptitle() == "scan, slice 5"
    assert [axis.get_title() for axis in figure.axes][:3] == ["image", *panels]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["liver", "spleen"]


def test_run_without_a_checkpoint_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"No checkpoint at {tmp_path}/checkpoints/last\.pt: train first"):
        write_picture("no bundle", "no data", str(tmp_path))
