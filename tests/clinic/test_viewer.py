# SPDX-License-Identifier: Apache-2.0
"""A real viewer: OHIF, as it comes with MONAI Label, in a headless Chromium, on the archive."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clinic.clinic import Clinic, open_clinic

playwright = pytest.importorskip("playwright.sync_api", reason="drives a browser: make test-clinic installs it")

pytestmark = [pytest.mark.monailabel, pytest.mark.slow]

MILLISECONDS = 60_000


@pytest.fixture(scope="module")
def clinic(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with open_clinic(tiny_dataset, tmp_path_factory.mktemp("clinic")) as found:
        yield found


@pytest.fixture(scope="module")
def page(clinic: Clinic) -> Iterator[Any]:
    """The viewer with the first study open and the server known to it."""
    browser_file = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_file is None:
        pytest.skip("needs Chromium")
    server, series = clinic.server.client._server_url, clinic.series["training_0"]
    (found,) = [s for s in clinic.archive.find("CT") if s["MainDicomTags"]["SeriesInstanceUID"] == series]
    study = clinic.archive.ask(f"/studies/{found['ParentStudy']}")["MainDicomTags"]["StudyInstanceUID"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=browser_file,
            args=["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
        )
        opened = browser.new_page(viewport={"width": 1500, "height": 900})
        opened.goto(f"{server}/ohif/monai-label?StudyInstanceUIDs={study}", timeout=MILLISECONDS)
        opened.get_by_text("Confirm and Hide").click(timeout=MILLISECONDS)
        # its default is port 8000
        address = opened.locator("input[type=text]").last
        address.fill(f"{server}/")
        address.press("Tab")
        opened.locator("button").last.click()
        opened.get_by_text("DTLP bundles").wait_for(timeout=MILLISECONDS)
        yield opened
        browser.close()


def test_viewer_shows_the_study_and_the_app(page: Any) -> None:
    text = page.inner_text("body")
    assert "abdomen" in text
    for strategy in ("random", "first", "disagreement", "diverse", "mixed"):
        assert strategy in text


def test_segmentation_lies_over_the_slices(page: Any) -> None:
    page.get_by_text("Auto-Segmentation", exact=True).click()
    time.sleep(1)
    before = page.screenshot()
    runs = page.get_by_text("Run", exact=True)
    (visible,) = [runs.nth(i) for i in range(runs.count()) if runs.nth(i).is_visible()][:1]
    with page.expect_response(lambda answer: "/infer/phantom_10" in answer.url, timeout=MILLISECONDS) as answer:
        visible.click()
    assert answer.value.status == 200
    # colors that a gray image does not have appear over it
    end = time.monotonic() + 30
    while _colored(page.screenshot()) <= _colored(before) + 500:
        assert time.monotonic() < end
        time.sleep(1)


def test_next_sample_asks_for_random_whatever_is_chosen(page: Any) -> None:
    # of MONAI Label's OHIF: docs/how-to/monai-label.md says what to do about it; once this fails, it need not any more
    page.get_by_text("Active Learning", exact=True).click()
    time.sleep(1)
    page.locator("select").first.select_option("disagreement")
    with page.expect_response(lambda answer: "/activelearning/" in answer.url, timeout=MILLISECONDS) as answer:
        page.get_by_text("Next Sample", exact=True).click()
    assert answer.value.url.endswith("/activelearning/random")
    assert answer.value.json()["id"]


def _colored(png: bytes) -> int:
    """Pixels of a screenshot's middle, where the scan is, that are no shade of gray."""
    import io

    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)[200:700, 300:1200]
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 25).sum())
