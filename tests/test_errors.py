# SPDX-License-Identifier: Apache-2.0
"""Errors of the user's are one message and exit code 1."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dtlp_components.errors import InputError, cause_of, first_line, raise_if_any


def test_message_goes_to_stderr_alone_with_exit_code_1() -> None:
    code = "from dtlp_components.errors import InputError\nraise InputError('a.nii: broken.')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "a.nii: broken.\n")


def test_all_problems_are_listed_the_first_20_in_words() -> None:
    raise_if_any([])
    with pytest.raises(InputError, match=r"^Cannot start, 1 problem found:\n  - a$"):
        raise_if_any(["a"])
    with pytest.raises(InputError) as error:
        raise_if_any([f"p{i}" for i in range(23)], "Cannot pack")
    lines = str(error.value).splitlines()
    assert lines[0] == "Cannot pack, 23 problems found:"
    assert lines[1:] == [*(f"  - p{i}" for i in range(20)), "  ... and 3 more."]


def test_cause_is_the_error_behind_those_of_monai() -> None:
    def wrapped(error: BaseException) -> RuntimeError:
        try:
            raise RuntimeError("applying transform") from error
        except RuntimeError as outer:
            return outer

    assert cause_of(wrapped(wrapped(ValueError("odd.\nmore")))) == "ValueError: odd"
    assert cause_of(wrapped(InputError("a.nii: broken."))) == "a.nii: broken."
    assert first_line(ValueError("")) == ""
