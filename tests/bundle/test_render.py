# SPDX-License-Identifier: Apache-2.0
"""Bundles written and compared with the recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dtlp_components.bundle.recipes import RECIPES
from dtlp_components.bundle.render import check_bundles, render, write_bundles
from dtlp_components.bundle.start import render_bundles
from dtlp_components.errors import InputError
from tests.bundle.conftest import change

ROOT = Path(__file__).parents[2]


def test_a_bundle_has_the_documented_files(recipes: Path) -> None:
    configs = [
        f"configs/{name}.json" for name in ("train", "multi_gpu_train", "evaluate", "inference", "paper", "metadata")
    ]
    others = ["configs/logging.conf", "docs/README.md", "docs/data_license.txt", "LICENSE"]
    assert sorted(render("heart_5", recipes)) == sorted(configs + others)


def test_readme_of_a_bundle_is_complete(recipes: Path) -> None:
    text = render("heart_5", recipes)["docs/README.md"]
    assert text.startswith("# Heart, 5 %\n")
    assert "$" not in text.replace("$PWD", "")


def test_written_bundles_are_current_and_a_second_run_writes_nothing(recipes: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundles"
    assert len(write_bundles(output=output, recipes=recipes)) == 2 * len(render("heart_5", recipes))
    assert check_bundles(output, recipes=recipes) == []
    assert write_bundles(output=output, recipes=recipes) == []
    assert json.loads((output / "heart_5/configs/train.json").read_text(encoding="utf-8"))["bundle_name"] == "heart_5"


def test_only_the_named_bundle_is_written(recipes: Path, tmp_path: Path) -> None:
    write_bundles(["heart_10"], tmp_path / "bundles", recipes)
    assert [p.name for p in (tmp_path / "bundles").iterdir()] == ["heart_10"]
    assert check_bundles(tmp_path / "bundles", ["heart_10"], recipes) == []
    assert len(check_bundles(tmp_path / "bundles", recipes=recipes)) == len(render("heart_5", recipes))


def test_edited_file_shows_as_a_diff_towards_the_recipes(recipes: Path, tmp_path: Path) -> None:
    write_bundles(output=tmp_path / "bundles", recipes=recipes)
    config = tmp_path / "bundles/heart_5/configs/train.json"
    edited = config.read_text(encoding="utf-8").replace('"export_ema": true', '"export_ema": false')
    config.write_text(edited, encoding="utf-8")
    (diff,) = check_bundles(tmp_path / "bundles", recipes=recipes)
    assert diff.startswith(f"--- {config}\n")
    changes = [line for line in diff.splitlines()[2:] if line.startswith(("+", "-"))]
    assert changes == ['-    "export_ema": false,', '+    "export_ema": true,']


def test_files_of_the_user_stay(recipes: Path, tmp_path: Path) -> None:
    weights = tmp_path / "bundles/heart_5/models/model.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    (tmp_path / "bundles/by_hand").mkdir()
    write_bundles(output=tmp_path / "bundles", recipes=recipes)
    assert weights.read_bytes() == b"weights"
    assert (tmp_path / "bundles/by_hand").is_dir()


def test_faulty_second_bundle_leaves_the_first_unwritten(recipes: Path, tmp_path: Path) -> None:
    change(recipes / "index.json", heart_20={"dataset": "lung"})
    with pytest.raises(InputError, match=r"lung\.json: no such recipe file"):
        write_bundles(output=tmp_path / "bundles", recipes=recipes)
    assert not (tmp_path / "bundles").exists()


def test_failed_write_keeps_the_old_file(recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundles(output=tmp_path / "bundles", recipes=recipes)
    before = (tmp_path / "bundles/heart_5/configs/train.json").read_bytes()
    change(recipes / "datasets/heart.json", train={"amp": True})

    def full_disk(source: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_bundles(output=tmp_path / "bundles", recipes=recipes)
    assert (tmp_path / "bundles/heart_5/configs/train.json").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "bundles/heart_5/configs").iterdir()) == sorted(
        [
            "train.json",
            "multi_gpu_train.json",
            "evaluate.json",
            "inference.json",
            "paper.json",
            "metadata.json",
            "logging.conf",
        ]
    )


def test_command_writes_then_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "bundles")
    with pytest.raises(SystemExit, match=r"edit dtlp_components/recipes/, then run dtlp render"):
        render_bundles("phantom_10", output=output, check=True)
    assert not (tmp_path / "bundles").exists()
    render_bundles("phantom_10", output=output)
    assert str(tmp_path / "bundles/phantom_10/configs/train.json") in capsys.readouterr().out
    render_bundles("phantom_10", output=output, check=True)
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["phantom_10"]


def test_bundles_carry_the_license_of_the_project() -> None:
    assert (RECIPES / "base/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
