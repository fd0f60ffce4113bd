# SPDX-License-Identifier: Apache-2.0
"""What is read from disk, and what MONAI's readers may say meanwhile."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

import dtlp_components.data.readers  # noqa: F401 - holds the message back

SET_UP = "import dtlp_components; from monai.transforms import LoadImage; LoadImage(); LoadImage()"


# in a process of its own: pytest replaces the filters of warnings
@pytest.mark.slow
@pytest.mark.parametrize(("asked_for", "said"), [("", False), ("nvimgcodec", True)])
def test_missing_accelerator_is_named_only_to_who_asked_for_it(asked_for: str, said: bool) -> None:
    pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")
    environment = {**os.environ, "MONAI_DICOM_READER": asked_for}
    result = subprocess.run([sys.executable, "-c", SET_UP], capture_output=True, text=True, env=environment, check=True)
    assert ("nvImageCodec" in result.stdout + result.stderr) == said


def test_only_that_message_is_held_back(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    logger.warning("nvImageCodec is not available; skipping pydicom decoder plugin registration.")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
