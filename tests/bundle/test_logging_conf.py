# SPDX-License-Identifier: Apache-2.0
"""The log of a bundle: our lines, everybody's warnings, and none of the chatter of Ignite and MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from logging.config import fileConfig

import pytest

from dtlp_components.bundle.recipes import RECIPES

QUIET = ("ignite.engine", "mlflow.store.db.utils")


@pytest.fixture
def configured() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    fileConfig(RECIPES / "base/logging.conf", disable_existing_loggers=False)  # as MONAI does
    yield
    root.handlers[:], root.level = before
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("logger", "says_info"),
    [
        ("dtlp", True), ("mlflow", True), ("monai.data", True), ("ignite", True),
        ("ignite.engine.engine.DTLPTrainer", False), ("mlflow.store.db.utils", False),
    ],
)  # fmt: skip
def test_only_what_our_own_lines_say_better_is_left_out(configured: None, logger: str, says_info: bool) -> None:
    assert logging.getLogger(logger).isEnabledFor(logging.INFO) == says_info
    assert logging.getLogger(logger).isEnabledFor(logging.WARNING)
