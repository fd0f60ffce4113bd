# SPDX-License-Identifier: Apache-2.0
"""Every command of the table can be read without importing it, explains itself, and answers at once."""

from __future__ import annotations

import inspect
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dtlp_components import __version__
from dtlp_components.cli import COMMANDS, main
from dtlp_components.command_line.command import read_command

ROOT = Path(__file__).parents[1]


def commands(level: Mapping[str, Any] = COMMANDS, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, command in level.items():
        if isinstance(command, Mapping):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def dtlp(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dtlp_components", *words]
    return subprocess.run(command, cwd=cwd or ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("path", "command"), [*commands()], ids=lambda value: " ".join(value))
def test_signature_that_is_read_is_that_of_the_function(path: tuple[str, ...], command: str) -> None:
    read = read_command(command)
    function = read.function()
    assert read.signature.parameters == inspect.signature(function).parameters
    assert read.description == inspect.getdoc(function)


@pytest.mark.parametrize(("path", "command"), [*commands()], ids=lambda value: " ".join(value))
def test_help_says_a_sentence_on_every_flag(path: tuple[str, ...], command: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*path, "--help"])
    assert exit_info.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name, parameter in read_command(command).signature.parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD and name != "words":
            beginnings = (f"  --{name} (", f"  {name.upper()}", f"  [{name.upper()}")
            heads = [i for i, line in enumerate(lines) if line.startswith(beginnings)]
            assert heads, name
            assert lines[heads[0] + 1].startswith("      "), name


@pytest.mark.parametrize(
    ("words", "code"),
    [
        *(([*path, "--help"], 0) for path, _ in commands()),
        (["--help"], 0),
        (["trian"], 1),
        (["new", "--lable", "x"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answer_takes_less_than_a_second(words: list[str], code: int) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert dtlp(*words).returncode == code
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


LIGHT = """
import sys
from dtlp_components.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code)
assert not {"torch", "monai"} & sys.modules.keys()
"""


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["phantom", "out", "--num_training", "4", "--num_validation", "0", "--num_testing", "0"],
        ["keys", str(ROOT / "bundles/phantom_10")],
        ["train", "hipocampus_5"],
    ],
    ids=" ".join,
)
def test_command_that_needs_no_torch_does_not_import_it(words: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIGHT, *words]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_version_is_that_of_the_package(capsys) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"dtlp {__version__}\n"


def test_module_is_the_same_command_line() -> None:
    result = dtlp("prepare", "la", "--outptu", "x")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines() == ["dtlp prepare la: unknown flag --outptu. Did you mean --output?"]
