# SPDX-License-Identifier: Apache-2.0
"""The table of a comparison, by hand, and runs that cannot be compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dtlp_components.cli import main
from dtlp_components.errors import InputError
from dtlp_components.report.compare import compare_runs
from dtlp_components.run_folder import RunFolder


def evaluated(folder: Path, dice: list[float | None], convention: str = "native (mm)", first: int = 0) -> str:
    """A run with scores of as many cases."""
    run = RunFolder(folder)
    run.evaluation.mkdir(parents=True)
    lines = ["case,domain,dice,hd95,missed"]
    lines += [
        f"c{first + i},,{'' if d is None else d},{'' if d is None else 100 - d},{int(d is None)}"
        for i, d in enumerate(dice)
    ]
    run.cases_csv("testing").write_text("\n".join(lines) + "\n")
    run.summary_json("testing").write_text(json.dumps({"convention": convention}))
    return str(folder)


BASE = [80.0, 82.0, 84.0, 86.0, 88.0, 90.0]


def rows_of(tmp_path: Path, *given: str, **flags: str) -> list[dict[str, str]]:
    compare_runs(*given, output=str(tmp_path / "table.csv"), **flags)
    with open(tmp_path / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_table_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = evaluated(tmp_path / "base", BASE)
    better = evaluated(tmp_path / "better", [d + i for i, d in enumerate(BASE, 1)])
    rows = rows_of(tmp_path, base, better)
    assert [row["training"] for row in rows] == ["base", "better"]
    assert [row["mean"] for row in rows] == ["85.00", "88.50"]
    assert (rows[0]["difference"], rows[0]["p (Holm)"], rows[0]["missed"]) == ("", "", "0")
    assert rows[1]["difference"] == "+3.50"
    assert rows[1]["better in"] == "6 of 6"
    assert rows[1]["p (Holm)"] == f"{2 / 2**6:.2g}"
    low, high = (float(end) for end in rows[1]["95 % of it"].split(" to "))
    assert 1.5 < low < 3.5 < high < 5.5
    said = capsys.readouterr().out
    assert said.startswith("dice, section `testing`, 6 cases, native (mm)\n")
    assert "better    1      88.50" in said


def test_missed_classes_are_a_mean_over_seeds(tmp_path: Path) -> None:
    of_seeds: list[list[float | None]] = [[*BASE], [*BASE], [None, *BASE[1:]]]
    seeds = [evaluated(tmp_path / f"a{i}", dice) for i, dice in enumerate(of_seeds)]
    (row,) = rows_of(tmp_path, ",".join(seeds))
    assert row["missed"] == "0.3"


def test_seeds_are_averaged_and_several_comparisons_cost(tmp_path: Path) -> None:
    base = ",".join(evaluated(tmp_path / f"b{i}", [d + i for d in BASE]) for i in (-1, 1))
    others = [evaluated(tmp_path / f"o{k}", [d + k + i for i, d in enumerate(BASE)]) for k in (1, 2)]
    rows = rows_of(tmp_path, f"labeled only={base}", *(f"o{k}={run}" for k, run in enumerate(others)))
    assert (rows[0]["training"], rows[0]["seeds"]) == ("labeled only", "2")
    assert rows[0]["mean"] == "85.00 ± 1.41"
    assert [row["difference"] for row in rows[1:]] == ["+3.50", "+4.50"]
    assert [row["p (Holm)"] for row in rows[1:]] == [f"{2 * 2 / 2**6:.2g}"] * 2


def test_smaller_distances_are_better(tmp_path: Path) -> None:
    base, better = evaluated(tmp_path / "a", BASE), evaluated(tmp_path / "b", [d + 1 for d in BASE])
    row = rows_of(tmp_path, base, better, metric="hd95")[1]
    assert (row["difference"], row["better in"]) == ("-1.00", "6 of 6")


def test_case_without_a_value_is_left_out_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, other = evaluated(tmp_path / "a", BASE), evaluated(tmp_path / "b", [None, *BASE[1:]])
    assert rows_of(tmp_path, base, other)[0]["mean"] == "86.00"
    assert "Left out of all, since some run has no value for them: 1 case." in capsys.readouterr().out


def refusal(*given: str, **flags: str) -> str:
    with pytest.raises(InputError) as error:
        compare_runs(*given, **flags)
    return str(error.value)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    base = evaluated(tmp_path / "a", BASE)
    assert "expected the scores of a training run. Evaluate it first" in refusal(base, str(tmp_path / "none"))
    voxels = evaluated(tmp_path / "voxels", BASE, "genericssl (voxels)")
    assert "expected the convention of a, 'native (mm)', got 'genericssl (voxels)'" in refusal(base, voxels)
    others = evaluated(tmp_path / "others", BASE, first=1)
    assert "got others: 1 missing (c0), 1 more (c6)" in refusal(base, others)
    assert "expected the cases and the convention of" in refusal(base, f"x={base},{others}")
    assert "expected one of dice, jaccard, hd95, asd, nsd, got 'f1'" in refusal(base, metric="f1")
    assert "expected FOLDER or NAME=FOLDER" in refusal(base, "x=")
    nothing = evaluated(tmp_path / "nothing", [None] * 6)
    assert "--metric dice: expected at least one case with a value in all runs" in refusal(base, nothing)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", evaluated(tmp_path / "a", BASE), evaluated(tmp_path / "b", BASE), "--metric", "dice"])
    assert "+0.00" in capsys.readouterr().out
