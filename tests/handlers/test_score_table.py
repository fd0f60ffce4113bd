# SPDX-License-Identifier: Apache-2.0
"""The score table of a real evaluator on tiny volumes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import AsDiscreted, Compose, EnsureChannelFirstd, LoadImaged

from dtlp_components.errors import InputError
from dtlp_components.handlers.score_table import ScoreTable, origin_of
from dtlp_components.run_folder import RunFolder

SHAPE = (4, 5, 6)
SPACING = (0.5, 2.0, 3.0)  # mm
DIAGONAL = math.sqrt(sum((n * s) ** 2 for n, s in zip(SHAPE, SPACING, strict=True)))
NAMES = {"0": "background", "1": "left", "2": "right"}


class Copy(torch.nn.Module):
    """Predicts the image itself: class indices in, one-hot logits out."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(image[:, 0].long(), 3).movedim(-1, 1).float()


def voxels(**positions: tuple[int, int, int]) -> np.ndarray:
    """A map with one voxel per class named."""
    volume = np.zeros(SHAPE, dtype=np.uint8)
    for name, position in positions.items():
        volume[position] = {"left": 1, "right": 2}[name]
    return volume


# case -> prediction, label, domain
PERFECT = (voxels(left=(1, 1, 1), right=(3, 3, 3)), voxels(left=(1, 1, 1), right=(3, 3, 3)), "A")
LEFT_OFF_BY_2_MM = (voxels(left=(1, 2, 1), right=(3, 3, 3)), voxels(left=(1, 1, 1), right=(3, 3, 3)), "B")
RIGHT_MISSED = (voxels(left=(1, 1, 1)), voxels(left=(1, 1, 1), right=(3, 3, 3)), "B")
RIGHT_ABSENT = (voxels(left=(1, 1, 1)), voxels(left=(1, 1, 1)), "B")


def make_items(folder: Path, cases: dict[str, tuple[np.ndarray, np.ndarray, str]], domains: bool = False) -> list[dict]:
    items = []
    for name, (pred, label, domain) in cases.items():
        item = {}
        for key, array in (("image", pred), ("label", label)):
            path = folder / key / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            # a flipped first axis: spacing is not the affine's diagonal
            nib.save(nib.Nifti1Image(array, np.diag([-SPACING[0], *SPACING[1:], 1])), path)
            item[key] = str(path)
        items.append({**item, "domain": domain} if domains else item)
    return items


def make_evaluator(items: list[dict], table: ScoreTable, batch_size: int = 1) -> SupervisedEvaluator:
    keys = ["image", "label"]
    dataset = Dataset(items, Compose([LoadImaged(keys), EnsureChannelFirstd(keys)]))
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=batch_size),
        network=Copy(),
        postprocessing=AsDiscreted("pred", argmax=True),
        val_handlers=[table],
    )


def evaluate(
    folder: Path, cases: dict, domains: bool = False, batch_size: int = 1, convention: str = "native"
) -> tuple[dict, list[dict], dict]:
    """Metrics of the engine, rows of the case table and summary."""
    table = ScoreTable(str(folder / "out"), NAMES, "testing", convention)
    evaluator = make_evaluator(make_items(folder, cases, domains), table, batch_size)
    evaluator.run()
    out = folder / "out" / "evaluation"
    with open(out / f"testing_{convention}_cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return evaluator.state.metrics, rows, json.loads((out / f"testing_{convention}_summary.json").read_text())


def test_each_case_has_a_row_with_its_name_and_its_scores(tmp_path):
    _, rows, _ = evaluate(tmp_path, {"b": LEFT_OFF_BY_2_MM, "a": PERFECT})
    assert [row["case"] for row in rows] == ["a", "b"]
    assert list(rows[0])[:7] == ["case", "domain", "dice", "jaccard", "hd95", "asd", "nsd"]
    assert list(rows[0])[-2:] == ["missed", "absent"]
    assert float(rows[0]["dice"]) == float(rows[0]["right_jaccard"]) == 100
    assert (float(rows[1]["left_dice"]), float(rows[1]["right_dice"]), float(rows[1]["dice"])) == (0, 100, 50)
    # one voxel along y, 2 mm; nothing on the other side
    assert (float(rows[1]["left_hd95"]), float(rows[1]["left_asd"]), float(rows[1]["asd"])) == (2, 2, 1)


def test_missed_class_is_scored_and_counted(tmp_path):
    metrics, rows, summary = evaluate(tmp_path, {"a": RIGHT_MISSED})
    assert (rows[0]["missed"], rows[0]["absent"]) == ("1", "0")
    assert float(rows[0]["right_dice"]) == 0
    assert metrics["hd95"] == pytest.approx((0 + DIAGONAL) / 2)
    assert (summary["classes"]["right"]["n"], summary["classes"]["right"]["missed"]) == (1, 1)


def test_class_that_is_never_predicted_is_said_in_words(tmp_path, capsys):
    evaluate(tmp_path, {"a": RIGHT_MISSED, "b": RIGHT_ABSENT})
    assert "Warning: `right` was not predicted in any of the 1 cases that have it." in capsys.readouterr().out
    evaluate(tmp_path, {"a": RIGHT_MISSED, "b": PERFECT, "c": RIGHT_ABSENT})
    assert "Warning" not in capsys.readouterr().out


def test_absent_class_has_empty_cells_and_no_weight(tmp_path):
    metrics, rows, summary = evaluate(tmp_path, {"a": RIGHT_ABSENT})
    assert (rows[0]["missed"], rows[0]["absent"]) == ("0", "1")
    assert rows[0]["right_dice"] == rows[0]["right_asd"] == ""
    assert summary["classes"]["right"] == {
        **{metric: {"mean": None, "std": None} for metric in ("dice", "jaccard", "hd95", "asd", "nsd")},
        "n": 0,
        "missed": 0,
        "absent": 1,
    }
    assert metrics["dice"] == 100


def test_mean_is_over_classes_of_means_over_cases(tmp_path):
    # right is absent from one case: the mean of the two cases' means would be (100 + 50 + 100) / 3
    cases = {"a": RIGHT_ABSENT, "b": RIGHT_MISSED, "c": PERFECT}
    metrics, _, summary = evaluate(tmp_path, cases)
    left, right = (100 + 100 + 100) / 3, (0 + 100) / 2
    assert metrics["dice"] == summary["mean"]["dice"] == pytest.approx((left + right) / 2)
    assert summary["classes"]["right"]["dice"] == {"mean": right, "std": np.std([0, 100])}
    assert (summary["cases"], summary["missed"], summary["absent"]) == (3, 1, 1)


def test_domains_have_means_of_their_own(tmp_path, capsys):
    _, rows, summary = evaluate(tmp_path, {"a": PERFECT, "b": LEFT_OFF_BY_2_MM, "c": RIGHT_MISSED}, domains=True)
    assert [row["domain"] for row in rows] == ["A", "B", "B"]
    assert summary["domains"]["A"]["mean"]["dice"] == 100
    # left 0 and 100, right 100 and 0
    assert summary["domains"]["B"]["mean"]["dice"] == 50
    assert summary["domains"]["B"]["cases"] == 2
    with open(tmp_path / "out" / "evaluation" / "testing_native_summary.csv", newline="") as file:
        lines = [(row["domain"], row["class"], row["n"]) for row in csv.DictReader(file)]
    assert lines[2:6] == [("all", "mean", "3"), ("A", "left", "1"), ("A", "right", "1"), ("A", "mean", "1")]
    assert "\ndomain " in capsys.readouterr().out


def test_batch_size_does_not_matter(tmp_path):
    cases = {"a": PERFECT, "b": LEFT_OFF_BY_2_MM, "c": RIGHT_MISSED}
    one = evaluate(tmp_path / "1", cases, domains=True)
    two = evaluate(tmp_path / "2", cases, domains=True, batch_size=2)
    assert one == two


def test_table_names_classes_units_convention_and_files(tmp_path, capsys):
    evaluate(tmp_path, {"a": PERFECT, "b": LEFT_OFF_BY_2_MM})
    printed = capsys.readouterr().out
    left = next(line for line in printed.splitlines() if line.startswith("left"))
    # Dice and Jaccard 100 and 0, both distances 0 and 2 mm, all of the surface within 1 mm and none of it
    assert " ".join(left.split()) == "left 50.00 ± 50.00 50.00 ± 50.00 1.00 ± 1.00 1.00 ± 1.00 50.00 ± 50.00 2 0 0"
    assert "asd [mm]" in printed
    assert "native: mm, scan grid" in printed
    assert f"{tmp_path}/out/evaluation" in printed
    assert "testing_native_cases.csv" in printed
    assert "domain" not in printed


@pytest.mark.parametrize(
    ("convention", "unit", "rule"),
    [
        ("native", "mm", "native: mm, scan grid"),
        ("genericssl", "voxels", "genericssl: voxels of the grid that is scored"),
        ("uamt", "voxels", "uamt: voxels of the grid that is scored"),
    ],
)
def test_print_and_both_summaries_name_convention_and_unit(tmp_path, capsys, convention, unit, rule):
    _, _, summary = evaluate(tmp_path, {"a": PERFECT, "b": RIGHT_MISSED}, domains=True, convention=convention)
    *_, sentence, _ = capsys.readouterr().out.splitlines()  # the last line says where the files are
    assert sentence.startswith(rule)
    assert summary["convention"] == sentence
    assert summary["units"] == {"dice": "%", "jaccard": "%", "hd95": unit, "asd": unit, "nsd": "%"}
    with open(tmp_path / "out" / "evaluation" / f"testing_{convention}_summary.csv", newline="") as file:
        assert {row["convention"] for row in csv.DictReader(file)} == {sentence}


def test_header_of_the_printed_table_has_the_unit_of_the_convention(tmp_path, capsys):
    evaluate(tmp_path, {"a": PERFECT}, domains=True, convention="uamt")
    headers = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("class ", "domain "))]
    assert len(headers) == 2
    for header in headers:
        assert "hd95 [voxels]" in header
        assert "asd [voxels]" in header
        assert "mm" not in header


@pytest.mark.parametrize("convention", ["genericssl", "uamt"])
def test_published_conventions_count_voxels_not_mm(tmp_path, convention):
    # one voxel along y, 2 mm; nothing on the right
    metrics, rows, _ = evaluate(tmp_path, {"a": LEFT_OFF_BY_2_MM}, convention=convention)
    assert (float(rows[0]["left_hd95"]), float(rows[0]["left_asd"])) == (1, 1)
    assert (metrics["dice"], metrics["jaccard"], metrics["hd95"], metrics["asd"]) == (50, 50, 0.5, 0.5)


# right in the cases absent, missed and perfect: Dice, ASD
RIGHT_BY_CONVENTION = {"genericssl": ([1, 0, 100], [0, 128, 0]), "uamt": ([0, 0, 100], [0, 0, 0])}


@pytest.mark.parametrize("convention", RIGHT_BY_CONVENTION)
def test_absent_class_counts_in_a_published_mean_and_is_still_counted_as_absent(tmp_path, convention):
    cases = {"a": RIGHT_ABSENT, "b": RIGHT_MISSED, "c": PERFECT}
    metrics, rows, summary = evaluate(tmp_path, cases, convention=convention)
    dice, asd = RIGHT_BY_CONVENTION[convention]
    assert [float(row["right_dice"]) for row in rows] == dice
    assert summary["classes"]["right"]["dice"] == pytest.approx({"mean": sum(dice) / 3, "std": np.std(dice)})
    assert summary["classes"]["right"]["asd"] == pytest.approx({"mean": sum(asd) / 3, "std": np.std(asd)})
    assert metrics["dice"] == pytest.approx((100 + sum(dice) / 3) / 2)
    assert metrics["asd"] == pytest.approx((0 + sum(asd) / 3) / 2)
    assert {k: summary["classes"]["right"][k] for k in ("n", "missed", "absent")} == {"n": 3, "missed": 1, "absent": 1}


def test_domain_means_follow_the_convention(tmp_path):
    cases = {"a": RIGHT_ABSENT, "b": RIGHT_MISSED, "c": PERFECT}
    _, _, summary = evaluate(tmp_path, cases, domains=True, convention="genericssl")
    # B: left 100 twice; right 1 (absent) and 0 (missed), ASD 0 and 128
    assert summary["domains"]["B"]["mean"]["dice"] == pytest.approx((100 + (1 + 0) / 2) / 2)
    assert summary["domains"]["B"]["mean"]["asd"] == pytest.approx((0 + (0 + 128) / 2) / 2)
    assert summary["domains"]["A"]["mean"]["dice"] == 100


def test_unknown_convention_is_refused_with_the_names_there_are():
    with pytest.raises(InputError, match="expected one of native, genericssl, uamt, got `medpy`"):
        ScoreTable("out", NAMES, "testing", convention="medpy")


def test_cases_of_equal_file_name_are_told_apart_by_folder(tmp_path):
    _, rows, _ = evaluate(tmp_path, {"case_1/scan": PERFECT, "case_2/scan": PERFECT})
    assert [row["case"] for row in rows] == ["case_1/scan", "case_2/scan"]


def test_second_run_replaces_the_first(tmp_path):
    table = ScoreTable(str(tmp_path / "out"), NAMES, "testing")
    evaluator = make_evaluator(make_items(tmp_path, {"a": PERFECT, "b": RIGHT_MISSED}), table)
    evaluator.run()
    first = (tmp_path / "out" / "evaluation" / "testing_native_cases.csv").read_text()
    evaluator.run()
    assert (tmp_path / "out" / "evaluation" / "testing_native_cases.csv").read_text() == first
    assert sorted(path.name for path in (tmp_path / "out" / "evaluation").iterdir()) == [
        "testing_native_cases.csv",
        "testing_native_summary.csv",
        "testing_native_summary.json",
    ]


def test_names_may_be_a_list(tmp_path):
    assert ScoreTable("out", ["background", "left", "right"], "testing").classes == ["left", "right"]
    assert ScoreTable("out", {"2": "right", "0": "background", "1": "left"}, "testing").classes == ["left", "right"]


@pytest.mark.parametrize(
    "names", [{"1": "left", "2": "right"}, {"0": "background", "2": "right"}, ["background"], ["a", "b", "b"]]
)
def test_names_that_do_not_fit_are_refused(names):
    with pytest.raises(ValueError, match="label_names must"):
        ScoreTable("out", names, "testing")


def test_run_without_a_case_is_an_error(tmp_path):
    table = ScoreTable(str(tmp_path), NAMES, "testing")
    evaluator = make_evaluator([], table)
    with pytest.raises(InputError, match="section `testing`: no case was scored"):
        evaluator.fire_event(Events.EPOCH_COMPLETED)
    assert not (tmp_path / "evaluation").exists()


def test_tolerance_of_the_surface_is_stated_and_counts(tmp_path):
    # the left class is one voxel of 2 mm off
    for tolerance, nsd in ((1.9, 50), (2.0, 100)):
        table = ScoreTable(str(tmp_path / "out"), NAMES, "testing", tolerance=tolerance)
        evaluator = make_evaluator(make_items(tmp_path, {"a": LEFT_OFF_BY_2_MM}, False), table)
        evaluator.run()
        assert evaluator.state.metrics["nsd"] == pytest.approx(nsd)
        summary = json.loads((tmp_path / "out/evaluation/testing_native_summary.json").read_text())
        assert summary["convention"].endswith(f"NSD at {tolerance:g} mm.")


def test_conventions_do_not_overwrite_each_other(tmp_path):
    for convention in ("native", "uamt"):
        evaluate(tmp_path, {"a": PERFECT}, convention=convention)
    files = {file.name for file in (tmp_path / "out/evaluation").glob("*.csv")}
    assert files == {f"testing_{c}_{kind}.csv" for c in ("native", "uamt") for kind in ("cases", "summary")}


def test_summary_says_whose_scores_they_are(tmp_path):
    run = RunFolder(tmp_path / "run")
    for file, text in ((run.model, "x"), (run.exported, '{"iteration": 40}'), (run.run_name, "mine_seed0")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert origin_of(str(run.model)) == {"model_file": str(run.model), "iteration": 40, "run": "mine_seed0"}
    alone = origin_of(str(tmp_path / "downloaded/models/model.pt"))
    assert (alone["iteration"], alone["run"]) == (None, None)
