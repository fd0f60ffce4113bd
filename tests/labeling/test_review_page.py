# SPDX-License-Identifier: Apache-2.0
"""The page: texts stay texts, nothing is asked for from elsewhere, and what it saves is what a training takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dtlp_components.data.review import COLUMNS
from dtlp_components.labeling.review_page import ReviewedScan, render_review

EVIL = "</script><script>alert('x')</script>"


def page() -> str:
    row = {"image": "/data/a,b.nii.gz", "label_map": "/out/a.nii.gz", "quality": "0.5", "verdict": "reject"}
    scans = [
        ReviewedScan("a", row, {"entropy": "0.3"}, "pictures/a.png"),
        ReviewedScan(EVIL, {"image": EVIL, "label": EVIL}, {EVIL: EVIL}, problem=EVIL),
    ]
    return render_review(EVIL, [EVIL], scans)


def test_names_are_texts_whatever_they_look_like() -> None:
    html = page()
    assert html.count("<script>") == 1
    assert "alert('x')" not in html.replace("&#39;", "?")
    assert html.count("&lt;/script&gt;") >= 6


def test_page_shows_pictures_beside_it_and_asks_for_nothing_else() -> None:
    html = page()
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["pictures/a.png"]
    assert "default-src 'none'" in html


def test_verdict_is_checked_as_it_was() -> None:
    html = page()
    assert re.findall(r'name="verdict-(\d)" value="(\w*)" checked', html) == [("0", "reject"), ("1", "")]
    # each scan has its own group: a choice in one takes none from another
    assert len(re.findall(r'name="verdict-0"', html)) == 4


@pytest.mark.slow
def test_browser_saves_the_table(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    script = "<script>document.title = 'saved:' + btoa(unescape(encodeURIComponent(table())));</script></body>"
    # the page's own script alone may run; this one belongs to the test
    html = page().replace("</body>", script)
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    found = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", str(tmp_path / "index.html")],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    import base64
    import csv

    (saved,) = re.findall(r"saved:([A-Za-z0-9+/=]*)", found)[:1]
    rows = list(csv.DictReader(base64.b64decode(saved).decode().splitlines()))
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0] == {
        "image": "/data/a,b.nii.gz", "label_map": "/out/a.nii.gz", "quality": "0.5", "verdict": "reject", "label": "",
        "weight": "",
    }  # fmt: skip
    assert rows[1]["image"] == rows[1]["label"] == EVIL
