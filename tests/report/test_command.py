# SPDX-License-Identifier: Apache-2.0
"""The report: what is on it, and how a browser takes it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.errors import InputError
from dtlp_components.report.command import write_report
from tests.report.trainings import scored

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BASE = [80.0, 82, 84, 86, 88, 5]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    folder = tmp_path / "experiment"
    for seed in (0, 1):
        scored(folder / f"labeled/seed_{seed}", [d + seed for d in BASE], "supervised", seed)
        scored(folder / f"dtlp/seed_{seed}", [d + 3 + i for i, d in enumerate(BASE)], "dtlp", seed)
    plan = {
        "title": "Mine & yours", "bundle": "", "fraction": 0.1, "sections": ["testing"], "convention": "native",
        "variants": {
            "labeled only": ["labeled/seed_0", "labeled/seed_1"],
            "DTLP": ["dtlp/seed_0", "dtlp/seed_1", "dtlp/seed_2"],  # the last of them has not run
        },
    }  # fmt: skip
    (folder / "experiment.json").write_text(json.dumps(plan))
    return folder


def report(*runs: str, folder: Path, **flags: Any) -> str:
    write_report(*runs, output=str(folder / "report.html"), **flags)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_page_of_an_experiment_has_scores_tests_cost_and_what_differed(experiment: Path, tmp_path: Path) -> None:
    html = report(str(experiment), folder=tmp_path)
    assert "<h1>Mine &amp; yours</h1>" in html
    assert "Trained for only 10 % of the iterations: a hint" in html
    assert "2 trainings, up to 2 seeds each, evaluated on 6 cases of section testing." in html
    assert re.search(r">DTLP</th><td class=\"number\">2</td><td class=\"number\">76.33", html)
    for heading in ("Scores", "Missed classes", "Curves", "Cost", "Settings and environment"):
        assert f'heading">{heading}</h2>' in html
    assert ">1.0 to 2.0<" in html  # minutes
    assert re.search(r'>method</th><td class="number">supervised</td><td class="number">dtlp<', html)
    assert "&lt;b&gt;spleen&lt;/b&gt;" in html
    assert "<script" not in html
    assert len(html) < 10e6


def test_runs_can_be_given_by_name(experiment: Path, tmp_path: Path) -> None:
    html = report(f"a={experiment}/labeled/seed_0", f"b={experiment}/dtlp/seed_0", folder=tmp_path)
    assert "Add --bundle to see the worst, the median and the best case." in html
    alone = report(f"{experiment}/dtlp/seed_0", folder=tmp_path)
    assert "Forest plot" not in alone


def test_cases_that_cannot_be_shown_are_said_and_the_page_is_written(experiment: Path, tmp_path: Path) -> None:
    html = report(str(experiment), folder=tmp_path, bundle="bundles/phantom_10")
    assert "Not shown: No checkpoint at" in html


def test_what_cannot_be_meant_is_refused(experiment: Path, tmp_path: Path) -> None:
    for runs, flags, sentence in (
        ((), {}, "expected the folder of an experiment, or training runs, got none"),
        ((str(experiment),), {"convention": "mine"}, "--convention: expected one of native, genericssl, uamt"),
        ((str(experiment),), {"case_of": "A&D"}, "--case_of: expected one of labeled only, DTLP, got 'A&D'"),
        ((str(experiment),), {"section": "validation"}, "expected the scores of a training run. Evaluate it first"),
    ):
        with pytest.raises(InputError, match=sentence):
            write_report(*runs, output=str(tmp_path / "no.html"), **flags)  # type: ignore[arg-type]
    (experiment / "experiment.json").write_text('{"variants": 3}')
    with pytest.raises(InputError, match="expected the record of an experiment, got something else"):
        write_report(str(experiment), output=str(tmp_path / "no.html"))
    assert not (tmp_path / "no.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_browser_shows_it_without_an_error_and_asks_nobody_for_anything(experiment: Path, tmp_path: Path) -> None:
    report(str(experiment), folder=tmp_path)
    page = (tmp_path / "report.html").as_uri()
    log = tmp_path / "net.json"
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--disable-background-networking", "--disable-component-update", "--no-first-run", "--enable-logging=stderr",
        "--v=0", f"--log-net-log={log}", "--dump-dom", page,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    dom = done.stdout
    assert dom.count("<section") == 7
    assert dom.count("<figure") >= 3
    assert 'aria-label="Sections"' in dom
    asked = re.findall(r'"url":"(https?://[^"]+)"', log.read_text())
    assert [url for url in asked if "report" in url or "127.0.0.1" in url] == []
    assert not [url for url in asked if not re.search(r"google|gstatic|gvt1", url)]  # the browser's own, if any
