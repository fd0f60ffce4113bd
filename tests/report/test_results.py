# SPDX-License-Identifier: Apache-2.0
"""Experiments as a page of documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.errors import InputError
from dtlp_components.report.command import write_report
from dtlp_components.report.results import machines
from tests.report.trainings import scored


def experiment(folder: Path, fraction: float) -> str:
    scored(folder / "a", [80.0, 82, 84], "supervised")
    scored(folder / "b", [81.0, 83, 85])
    plan = {
        "name": "mine",
        "title": "Mine",
        "fraction": fraction,
        "sections": ["testing"],
        "variants": {"labeled": ["a"], "DTLP": ["b"]},
    }
    (folder / "experiment.json").write_text(json.dumps(plan))
    return str(folder)


def test_page_says_how_to_repeat_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_report(
        experiment(Path("one"), 0.1), experiment(Path("two"), 1), output="results.md", note="It was a full moon."
    )
    text = Path("results.md").read_text()
    assert "Written by `python -m dtlp_components report one two --output results.md`" in text
    assert "\nIt was a full moon.\n" in text
    first, second = text.split("## Mine\n")[1:]
    assert "`python -m dtlp_components experiment mine --fraction 0.1`; CPU, 2 x Test, 1 thread;" in first
    assert "**Trained for only 10 % of the iterations: a hint" in first
    assert "experiment mine`" in second
    assert "no result" not in second
    assert "| DTLP | 1 | 83.00 | 81.00 to 85.00 | 0 | +1.00 | +1.00 to +1.00 | 3 of 3 | 0.25 |" in first
    assert "hd95 [mm], 3 cases." in first
    assert "| DTLP | 120 | 0.50 | 1.50 |" in first
    assert "2 labeled" in first


def test_sections_of_an_experiment_are_told_apart(tmp_path: Path) -> None:
    folder = Path(experiment(tmp_path / "two", 1))
    for name in ("a", "b"):
        for file in list((folder / name / "evaluation").glob("testing_*")):
            file.with_name(file.name.replace("testing", "source")).write_bytes(file.read_bytes())
    plan = json.loads((folder / "experiment.json").read_text())
    (folder / "experiment.json").write_text(json.dumps({**plan, "sections": ["testing", "source"]}))
    write_report(str(folder), output=str(tmp_path / "results.md"))
    headings = [line for line in (tmp_path / "results.md").read_text().splitlines() if line.startswith("## ")]
    assert headings == ["## Mine, section `testing`", "## Mine, section `source`"]


def test_folder_that_is_no_experiment_is_refused(tmp_path: Path) -> None:
    run = scored(tmp_path / "run", [80.0])
    with pytest.raises(InputError, match=r"expected the folder of an experiment, got one without experiment\.json"):
        write_report(str(run.root), output=str(tmp_path / "results.md"))


def test_trainings_in_other_precision_or_on_another_machine_are_told() -> None:
    def record(processor: str, half: bool) -> dict[str, Any]:
        environment = {"device": "CPU", "processor": processor, "threads": 2, "torch": "2.13.0"}
        return {"environment": environment, "settings": {"amp": half}}

    plain = "CPU, 2 x Xeon, 2 threads, torch 2.13.0"
    assert machines([record("2 x Xeon", False)] * 3) == plain
    assert machines([record("2 x Xeon", False), record("2 x Xeon", True)]) == f"{plain}; {plain}, half precision"
