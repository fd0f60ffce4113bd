# SPDX-License-Identifier: Apache-2.0
"""``make`` says which Python it needs, renews the environment of an old one, and works in a folder with spaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
# runs what make asks of Python's version, as the version that it says it is; writes down the rest
STANDS_FOR_PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then
    exec {python} -c 'import sys; sys.version_info = {version}; exec(sys.argv[2])' "$@"
fi
if [ "$2" = venv ]; then
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg"
fi
echo "$@" >> calls.txt
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder of mine's"
    folder.mkdir()
    shutil.copy(MAKEFILE, folder)
    for name in ("setup.cfg", "pyproject.toml"):
        (folder / name).touch()
    python(folder / "old", (3, 9, 2))
    python(folder / "new", (3, 12, 1))
    return folder


def python(file: Path, version: tuple[int, int, int]) -> None:
    file.write_text(STANDS_FOR_PYTHON.format(python=sys.executable, version=version))
    file.chmod(0o755)


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # nothing of a make that runs these tests: it hands the variables of its command line down by MAKEFLAGS
    return subprocess.run(
        ["make", *words, ".venv/.installed"],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def test_old_python_is_named_before_pip_is_asked(clone: Path) -> None:
    done = make(clone, "PYTHON=./old")
    assert done.returncode
    assert "Python 3.9 found, 3.10 or later needed: make PYTHON=python3.11" in done.stderr
    assert not (clone / "calls.txt").exists()


@pytest.mark.parametrize("made_by", ["old", "new"])
def test_environment_is_renewed_if_an_old_python_made_it_and_kept_else(clone: Path, made_by: str) -> None:
    (clone / ".venv/bin").mkdir(parents=True)
    shutil.copy(clone / made_by, clone / ".venv/bin/python")
    for name in ("pyvenv.cfg", "mine"):
        (clone / ".venv" / name).touch()
    done = make(clone, "PYTHON=./new")
    assert done.returncode == 0, done.stderr
    assert (clone / ".venv/mine").exists() == (made_by == "new")
    calls = (clone / "calls.txt").read_text().splitlines()
    assert calls[0] == "-m venv .venv"
    assert [call.split()[:3] for call in calls[1:]] == [["-m", "pip", "install"]] * 2
    assert (clone / ".venv/.installed").exists()
