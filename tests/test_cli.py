# SPDX-License-Identifier: Apache-2.0
"""The command line refuses what it does not understand before it does anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dtlp_components.__main__ import COMMANDS, main
from dtlp_components.errors import InputError


class Recorder:
    """A command table, and the calls that were made."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.commands = {"copy": self.copy, "group": {"inner": self.copy}}

    def copy(self, source: str, *, seed: int = 0, dry_run: bool = False) -> Path:
        """Copy something."""
        self.calls.append((source, seed, dry_run))
        return Path(source)


def test_commands_and_groups_receive_their_arguments() -> None:
    recorder = Recorder()
    main(["copy", "--source", "here"], recorder.commands)
    main(["group", "inner", "--source=there", "--seed", "3", "--dry_run"], recorder.commands)
    assert recorder.calls == [("here", 0, False), ("there", 3, True)]


def test_returned_object_is_not_printed(capsys) -> None:
    main(["copy", "--source", "here"], Recorder().commands)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["copy", "--source", "here", "--dri_run"],
        ["copy", "--source", "here", "surplus"],
        ["copy"],
        ["group", "--source", "here"],
        ["group"],
        [],
    ],
    ids=" ".join,
)
def test_mistyped_or_missing_words_exit_with_2_and_run_nothing(words) -> None:
    recorder = Recorder()
    with pytest.raises(SystemExit) as exit_info:
        main(words, recorder.commands)
    assert exit_info.value.code == 2
    assert recorder.calls == []


@pytest.mark.parametrize("words", [["coppy"], ["items"], ["group", "iner"]], ids=" ".join)
def test_unknown_command_is_named_with_the_known_ones(words) -> None:
    with pytest.raises(InputError, match=f"'{words[-1]}', expected one of: (copy, group|inner)"):
        main(words, Recorder().commands)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dry_run=true", "--dry_run: found 'true', expected True or False"),
        ("--seed=x", "--seed: found 'x', expected an integer"),
        ("--seed=True", "--seed: found True, expected an integer"),
        ("--source=2018", "--source: found 2018, expected a text"),
    ],
)
def test_value_of_the_wrong_type_is_never_misread(flag, message) -> None:
    recorder = Recorder()
    source = [] if flag.startswith("--source") else ["--source", "here"]
    with pytest.raises(InputError, match=message):
        main(["copy", *source, flag], recorder.commands)
    assert recorder.calls == []


def test_help_of_every_command_is_shown_and_exits_with_0(capsys) -> None:
    for words in (["phantom"], ["prepare", "hippocampus"], ["prepare", "la"]):
        with pytest.raises(SystemExit) as exit_info:
            main([*words, "--help"], COMMANDS)
        assert exit_info.value.code == 0
        assert "output" in "".join(capsys.readouterr()).lower()


@pytest.mark.slow
@pytest.mark.parametrize(("given", "expected"), [(None, "True"), ("false", "False")])
def test_mlflow_reports_to_nobody_unless_told_to(given: str | None, expected: str) -> None:
    # MLflow is silent by itself under pytest and in CI, which a user is not
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {} if given is None else {"MLFLOW_DISABLE_TELEMETRY": given}
    snippet = "import monai.bundle, dtlp_components; from mlflow.telemetry.utils import is_telemetry_disabled as f; print(f())"
    command = [sys.executable, "-c", snippet]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert result.stdout.split()[-1] == expected
