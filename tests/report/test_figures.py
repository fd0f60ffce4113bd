# SPDX-License-Identifier: Apache-2.0
"""Drawings: sides, proportions, errors and what is said of panels that would be the same."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot

from dtlp_components.report.cases import BINS, CaseMaps
from dtlp_components.report.figures import (
    PLANES,
    _errors,
    draw_calibration,
    draw_case,
    draw_class_weights,
    draw_differences,
    draw_dots,
    plane_of,
)  # fmt: skip
from dtlp_components.report.scores import compare, read_training
from tests.report.trainings import scored


@pytest.fixture(autouse=True)
def close() -> None:
    pyplot.close("all")


def case(**changes: object) -> CaseMaps:
    """A volume (6, 8, 10) of 1 x 2 x 3 mm with a reference on the patient's right, in front, at the feet."""
    reference = np.zeros((6, 8, 10), int)
    reference[4:, 5:, :3] = 1
    prediction = np.roll(reference, -1, axis=1)
    facts = {
        "name": "scan", "image": np.arange(480.0).reshape(6, 8, 10), "spacing": (1.0, 2.0, 3.0), "reference": reference,
        "labels": {"student": prediction, "diffusion": reference},
        "dice": {"student": 0.8, "diffusion": 1.0, "ensemble": 0.8},
        "entropy": np.zeros((6, 8, 10)), "same": ["ensemble"], "calibration": np.ones((3, BINS)), **changes,
    }  # fmt: skip
    return CaseMaps(**facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plane", "cut", "quarter"),
    [
        ("axial", 1, (0, 0)),  # right side on the left, front at the top
        ("coronal", 6, (1, 0)),  # right side on the left, feet at the bottom
        ("sagittal", 5, (1, 0)),  # front on the left, feet at the bottom
    ],
)
def test_sides_of_the_picture_are_those_a_radiologist_expects(plane: str, cut: int, quarter: tuple[int, int]) -> None:
    picture = plane_of(case().reference, plane, cut)
    rows, columns = (np.nonzero(picture.any(axis=axis))[0].mean() / picture.shape[1 - axis] for axis in (1, 0))
    assert (rows > 0.5, columns > 0.5) == tuple(map(bool, quarter))
    left, right, top, bottom = PLANES[plane][2]
    assert left + right in ("RL", "AP")
    assert top + bottom in ("AP", "HF")


def test_kinds_of_errors() -> None:
    reference, prediction = np.array([0, 1, 0, 1, 2]), np.array([0, 0, 2, 1, 1])
    assert _errors(reference, prediction).tolist() == [0, 1, 2, 0, 3]


def test_panels_have_the_patients_proportions_and_one_for_each_source_that_differs() -> None:
    figure = draw_case(case(), ["background", "liver"])
    axes = np.array(figure.axes).reshape(3, 5)
    assert [axis.get_title().split("\n")[0] for axis in axes[0]] == [
        "image",
        "contours",
        "errors",
        "entropy",
        "diffusion",
    ]
    # mm: 6 x 1, 8 x 2, 10 x 3
    sides = {plane: axes[i, 0].images[0].get_extent() for i, plane in enumerate(PLANES)}
    assert sides == {"axial": [0, 6, 0, 16], "coronal": [0, 6, 0, 30], "sagittal": [0, 16, 0, 30]}
    assert figure._suptitle.get_text() == "scan; ensemble: the same as the prediction"
    marks = {text.get_text() for text in axes[0, 0].texts}
    assert marks == {"R", "L", "A", "P"}


def test_contours_are_drawn_where_there_is_something() -> None:
    figure = draw_case(case(), ["background", "liver"], ["axial"])
    _, contours, *_ = figure.axes
    assert len(contours.collections) == 2  # reference and prediction
    nothing = draw_case(
        case(labels={"student": np.zeros((6, 8, 10), int)}, dice={"student": 0.0}), ["background", "liver"]
    )
    assert len(nothing.axes) == 12


def test_interval_is_drawn_where_it_lies_and_filled_where_it_is_sure(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = 80 + rng.normal(0, 1, 20)
    rows = {"base": base, "same": base + rng.normal(0, 1, 20), "better": base + 3 + rng.normal(0, 1, 20)}
    trainings = [read_training(n, [scored(tmp_path / n, list(v))], "testing") for n, v in rows.items()]
    lines, _ = compare(trainings)
    (axis,) = draw_differences(lines, "Dice", "%").axes
    intervals, points = axis.lines[:4:2], axis.lines[1:4:2]
    for line, interval, point in zip(lines[1:], intervals, points, strict=True):
        assert tuple(interval.get_xdata()) == line.difference_interval
        assert (point.get_markerfacecolor() != "white") == (line.p < 0.05)
    assert [line.p < 0.05 for line in lines[1:]] == [False, True]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["same", "better"]


def test_dots_are_the_cases_and_the_line_their_mean(tmp_path: Path) -> None:
    training = read_training("a", [scored(tmp_path / str(i), [60 + i, 80, 90]) for i in (0, 2)], "testing")
    (axis,) = draw_dots([training], "dice", "Dice", "%").axes
    dots, mean = axis.lines
    assert sorted(dots.get_xdata()) == [61, 80, 90]
    assert mean.get_xdata()[0] == pytest.approx((61 + 80 + 90) / 3)


def test_calibration_is_the_share_of_right_voxels_by_confidence() -> None:
    sums = np.zeros((3, BINS))
    sums[:, 5], sums[:, 9] = (10, 4, 5.5), (100, 90, 97)
    (axis,) = draw_calibration({"a": sums}).axes
    curve = axis.lines[1]
    assert curve.get_xdata().tolist() == pytest.approx([0.55, 0.97])
    assert curve.get_ydata().tolist() == pytest.approx([0.4, 0.9])


def test_class_weights_that_never_move_are_not_drawn() -> None:
    names = ["background", "liver"]
    assert draw_class_weights({}, names) is None
    assert draw_class_weights({"class_weight/1": ([1, 2], [1.0, 1.0])}, names) is None
    figure = draw_class_weights({"class_weight/1": ([1, 2], [1.0, 1.5])}, names)
    assert figure is not None
    assert figure.axes[0].lines[0].get_ydata()[1] == pytest.approx(1.5)
    assert not math.isnan(figure.get_size_inches()[0])


def test_names_are_no_formulas() -> None:
    figure = draw_case(case(name=r"a$\frac$b", same=["$x$"]), ["background", r"$\liver_$"], ["axial"])
    figure.savefig("/dev/null", format="png")
    assert figure.legends[0].get_texts()[0].get_text() == r"$\liver_$"
