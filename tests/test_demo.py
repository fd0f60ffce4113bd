# SPDX-License-Identifier: Apache-2.0
"""The demo's steps, in an empty folder, without the minutes that training takes (``make demo`` takes them)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dtlp_components import demo
from dtlp_components.demo import STEPS, run_demo
from dtlp_components.run_folder import RunFolder

DICE = {"labeled_only": 61.25, "phantom_10": 70.0}


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the demo does, in its order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    done: list[Any] = []

    def draw(output: str) -> None:
        (Path(output) / "imagesTs").mkdir(parents=True)
        for number in (12, 11):
            (Path(output) / f"imagesTs/phantom_{number}.nii.gz").touch()

    def monai(words: Sequence[str]) -> None:
        done.append(words)
        if words[1] == "evaluating":
            run = RunFolder(words[words.index("--output_dir") + 1])
            run.evaluation.mkdir(parents=True)
            run.summary_json("testing").write_text(json.dumps({"mean": {"dice": DICE[run.root.name]}}))

    monkeypatch.setattr(demo, "write_phantom", draw)
    monkeypatch.setattr(demo, "run_monai_here", monai)
    monkeypatch.setattr(demo, "write_picture", lambda *places: done.append(list(places)) or Path("a.png"))
    monkeypatch.setattr(demo, "write_report", lambda *runs, **flags: done.append([*runs, flags["output"]]))
    return done


def test_demo_renders_its_bundle_and_trains_without_and_with_unlabeled_scans(steps: list[Any]) -> None:
    run_demo("tour")
    assert Path("bundles/phantom_10/configs/train.json").is_file()
    alone = ["--dataset_dir", "tour/data", "--output_dir", "tour/labeled_only"]
    both = ["--dataset_dir", "tour/data", "--output_dir", "tour/phantom_10"]
    train, evaluate, infer = (f"bundles/phantom_10/configs/{name}.json" for name in ("train", "evaluate", "inference"))
    assert steps == [
        ["run", "training", "--config_file", train, *alone, "--batch_size_unlabeled", "0"],
        ["run", "evaluating", "--config_file", evaluate, *alone],
        ["run", "training", "--config_file", train, *both],
        ["run", "evaluating", "--config_file", evaluate, *both],
        ["run", "run", "--config_file", infer, *both, "--input", "tour/data/imagesTs/phantom_11.nii.gz"],
        ["bundles/phantom_10", "tour/data", "tour/phantom_10"],
        ["labeled only=tour/labeled_only", "DTLP=tour/phantom_10", "tour/phantom_10/report.html"],
    ]


def test_demo_says_first_what_it_does_and_last_what_it_shows_and_what_to_open(
    steps: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_demo("a tour")
    lines = capsys.readouterr().out.splitlines()
    assert "about 4 minutes on two free CPU cores" in lines[0]
    headings = [line for line in lines if line.startswith("[")]
    assert [heading.split(", about ")[0] for heading in headings] == [
        f"[{i}/7] {step}" for i, step in enumerate(STEPS, start=1)
    ]
    assert all(heading.endswith(" left") for heading in headings[1:])
    end = "\n".join(lines)
    assert "61.2 % from the labeled scans alone, 70.0 % with the unlabeled ones, 8.8 points more." in end
    assert "report      a tour/phantom_10/report.html" in end
    assert "dtlp pack bundles/phantom_10 packed --run_dir 'a tour/phantom_10'" in end  # can be pasted


def test_a_demo_in_which_unlabeled_scans_do_not_help_says_so(
    steps: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DICE, "labeled_only", 71.0)
    run_demo()
    assert (
        "71.0 % from the labeled scans alone, 70.0 % with the unlabeled ones, 1.0 points less."
        in capsys.readouterr().out
    )


def test_shares_of_the_steps_make_a_whole() -> None:
    assert sum(STEPS.values()) == pytest.approx(1)
