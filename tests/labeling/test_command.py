# SPDX-License-Identifier: Apache-2.0
"""``dtlp next`` on a tiny training: table, files and pictures; and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from dtlp_components.data.review import COLUMNS
from dtlp_components.errors import InputError
from dtlp_components.labeling.command import next_scans
from dtlp_components.labeling.strategies import STRATEGIES
from tests.labeling.trained import Trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Trained:
    return Trained.make(tmp_path_factory.mktemp("trained"), tiny_dataset)


def ask(trained: Trained, **flags: object) -> list[str]:
    data = trained.data
    return next_scans(
        str(trained.bundle), output_dir=str(trained.run), dataset_dir=str(data), datalist=str(data / "datalist.json"),
        device="cpu", **flags,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_chosen_scans_come_with_reasons_and_pictures(
    trained: Trained, strategy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ask(trained, strategy=strategy, count=2, output=str(tmp_path))
    assert len(set(chosen)) == 2
    assert all(Path(path).name.startswith("unlabeled_") for path in chosen)
    rows = list(csv.DictReader((tmp_path / "next.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == chosen
    assert all(row["reason"] for row in rows)
    assert len(list(tmp_path.glob("0[12]_unlabeled_*.png"))) == 2
    review = list(csv.DictReader((tmp_path / "review.csv").read_text().splitlines()))
    assert list(review[0]) == list(COLUMNS)
    assert [(row["image"], row["verdict"]) for row in review] == [(path, "") for path in chosen]
    printed = capsys.readouterr().out
    assert f"2 of 3 scans chosen by strategy {strategy}" in printed
    assert f"--review {tmp_path / 'review.csv'}" in printed


@pytest.mark.slow
def test_asking_again_loses_no_verdict(trained: Trained, tmp_path: Path) -> None:
    (first,) = ask(trained, count=1, output=str(tmp_path))
    file = tmp_path / "review.csv"
    file.write_text(file.read_text().replace(f"{first},,,,", f"{first},,,corrected,drawn.nii.gz"))
    ask(trained, count=2, output=str(tmp_path), seed=1)
    rows = {row["image"]: row for row in csv.DictReader(file.read_text().splitlines())}
    assert (rows[first]["verdict"], rows[first]["label"]) == ("corrected", "drawn.nii.gz")


@pytest.mark.slow
def test_random_looks_at_no_more_scans_than_it_draws(trained: Trained, tmp_path: Path) -> None:
    chosen = ask(trained, strategy="random", count=1, output=str(tmp_path), seed=3)
    assert list(json.loads((tmp_path / "opinions.json").read_text())["scans"]) == chosen


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"strategy": "best"}, "--strategy: expected one of random, disagreement, diverse, mixed, got 'best'"),
        ({"count": 0}, "--count: expected an integer of at least 1, got 0"),
    ],
)
def test_wrong_flag_is_refused_before_anything_is_read(flags: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        next_scans("nowhere", **flags)  # type: ignore[arg-type]


@pytest.mark.slow
def test_strategy_that_needs_teachers_is_refused_before_any_scan_is_read(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    (tmp_path / "run/checkpoints/last.pt").unlink()
    alone = Trained(trained.bundle, tmp_path / "run", trained.data)
    with pytest.raises(InputError, match="--strategy mixed: expected a training run with teachers"):
        ask(alone, strategy="mixed")
    assert not (tmp_path / "run/next").exists()
    assert len(ask(alone, strategy="diverse")) == 3
