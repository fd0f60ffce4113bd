# SPDX-License-Identifier: Apache-2.0
"""
MONAI's command, ``python -m monai.bundle``: printed, then run, in a process of its own or in the place of this one.
"""

from __future__ import annotations

import logging
import os
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..checks.literals import literal_words
from ..errors import InputError
from .launch import become_torchrun

__all__ = ["become_monai", "run_monai", "run_monai_here", "silence"]

PARSING = "parsing config_file"  # a warning of MONAI's begins so

# MONAI where an installed dtlp_components cannot be imported, as it will be for those who get a packed folder
ISOLATED = (
    "import runpy, sys; sys.modules['dtlp_components'] = None; "
    "runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
)


def run_monai(words: Sequence[str], *, quiet: bool = False, alone_in: Path | None = None) -> None:
    """
    Print a command of MONAI and run it in a process of its own.

    Args:
        words: what follows ``python -m monai.bundle``.
        quiet: show what it prints only if it fails, the end of it.
        alone_in: packed folder to run it in, with nothing but the package's copy that lies there.

    Raises:
        InputError: if it fails.
    """
    words = literal_words(words)
    _show(words)
    start, environment = ["-m", "monai.bundle"], dict(os.environ)
    if alone_in is not None:
        start = ["-c", ISOLATED]
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        environment.pop("PYTHONSAFEPATH", None)  # the folder has to be importable
    done = subprocess.run(
        [sys.executable, *start, *words], capture_output=quiet, text=True, check=False, cwd=alone_in, env=environment
    )
    if done.returncode:
        said = f":\n{done.stderr[-2000:]}" if quiet else "."
        where = "" if alone_in is None else " in the packed folder"
        raise InputError(f"The command above failed{where} with exit code {done.returncode}{said}")


def become_monai(words: Sequence[str], processes: int = 1) -> None:
    """
    Print a command of MONAI and go on as that command, in this process or as the launcher of several.

    Exit code, signals and standard input are its own then, and ``sys.argv`` is what it would be: the bundle's checks of
    the command line read it.

    Args:
        words: what follows ``python -m monai.bundle``.
        processes: copies that work together.

    Raises:
        SystemExit: whatever the command ends with.
    """
    words = literal_words(words)
    if processes > 1:
        # the warning alone of what `silence` leaves out, in processes that import nothing of ours before they warn
        others = [text for text in (os.environ.get("PYTHONWARNINGS"),) if text]
        os.environ["PYTHONWARNINGS"] = ",".join([*others, f"ignore:{PARSING}:UserWarning"])
        become_torchrun(processes, ["-m", "monai.bundle", *words])
    else:
        run_monai_here(words)


def run_monai_here(words: Sequence[str]) -> None:
    """
    Print a command of MONAI and run it in this process, which saves the seconds that importing MONAI takes.

    Args:
        words: what follows ``python -m monai.bundle``.

    Raises:
        Exception: whatever it raises.
    """
    words = literal_words(words)
    _show(words)
    silence()
    sys.argv = ["", *words]  # runpy fills in the first
    if not getattr(sys.flags, "safe_path", False) and sys.path[:1] != [os.getcwd()]:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, and a console script does not
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def silence() -> None:
    """Leave out what MONAI says of every configuration and every start, each for its reason."""
    # that a configuration can run any code: docs/reference/bundles.md says it, once
    warnings.filterwarnings("ignore", message=f"{PARSING} .* invoked with no allow list", category=UserWarning)
    # the words of the command over again, which stand just above
    logging.getLogger("monai.bundle.scripts").addFilter(_is_no_summary)
    # that the bundle's own logging.conf and metadata.json are taken: it is meant, also with an overlay from elsewhere
    logging.getLogger("monai.bundle.workflows").addFilter(_is_no_place)


def _is_no_summary(record: logging.LogRecord) -> bool:
    return record.funcName != "_log_input_summary"


def _is_no_place(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("Setting logging properties based on", "Not all config files are in"))


def _show(words: Sequence[str]) -> None:
    print(f"\n$ {shlex.join(['python', '-m', 'monai.bundle', *words])}", flush=True)
