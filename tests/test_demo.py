# SPDX-License-Identifier: Apache-2.0
"""The demo's steps, in an empty folder, without the minutes that training takes (``make demo`` takes them)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtlp_components import demo


def test_demo_renders_its_bundle_and_names_one_place_for_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    steps: list[list[str]] = []

    def draw(output: str) -> None:
        (Path(output) / "imagesTs").mkdir(parents=True)
        for number in (12, 11):
            (Path(output) / f"imagesTs/phantom_{number}.nii.gz").touch()

    monkeypatch.setattr(demo, "write_phantom", draw)
    monkeypatch.setattr(demo, "run_monai", steps.append)
    monkeypatch.setattr(demo, "write_picture", lambda *places: steps.append(list(places)) or Path("a.png"))
    monkeypatch.setattr(demo, "write_report", lambda *runs, **flags: steps.append([*runs, flags["output"]]))
    demo.run_demo("tour")

    assert Path("bundles/phantom_10/configs/train.json").is_file()
    places = ["--dataset_dir", "tour/data", "--output_dir", "tour/phantom_10"]
    configs = "bundles/phantom_10/configs"
    assert steps == [
        ["run", "training", "--config_file", f"{configs}/train.json", *places],
        ["run", "evaluating", "--config_file", f"{configs}/evaluate.json", *places],
        [
            "run",
            "run",
            "--config_file",
            f"{configs}/inference.json",
            *places,
            "--input",
            "tour/data/imagesTs/phantom_11.nii.gz",
        ],
        ["bundles/phantom_10", "tour/data", "tour/phantom_10"],
        ["phantom_10=tour/phantom_10", "tour/phantom_10/report.html"],
    ]
    assert "dtlp pack bundles/phantom_10 packed --run_dir tour/phantom_10" in capsys.readouterr().out
