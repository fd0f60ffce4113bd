# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of own data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.own_data.scans import labeled, unlabeled


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with two labeled scans in ``site_a`` and three unlabeled ones in ``site_b``."""
    monkeypatch.chdir(tmp_path)
    # a second for every bundle; tests/own_data/test_duration.py measures it
    monkeypatch.setattr("dtlp_components.own_data.command.seconds_of_a_step", lambda *_: 0.5)
    labeled(tmp_path / "site_a")
    unlabeled(tmp_path / "site_b")
    return tmp_path
