# SPDX-License-Identifier: Apache-2.0
"""The command line refuses what it does not understand before it does anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.command_line.call import call_command
from dtlp_components.errors import InputError


def main(words: Sequence[str], commands: Mapping[str, Any]) -> None:
    call_command("dtlp", words, commands)


class Recorder:
    """A command table, and the calls that were made."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.commands = {"copy": self.copy, "group": {"inner": self.copy}, "pass": self.hand_on}

    def copy(self, source: str, *, seed: int = 0, dry_run: bool = False, sides: list[int] | None = None) -> Path:
        """Copy something."""
        self.calls.append((source, seed, dry_run))
        return Path(source)

    def hand_on(self, bundle: str, *words: str) -> None:
        """Hand words on."""
        self.calls.append((bundle, *words))


def test_commands_and_groups_receive_their_arguments() -> None:
    recorder = Recorder()
    main(["copy", "--source", "here"], recorder.commands)
    main(["group", "inner", "--source=there", "--seed", "3", "--dry_run"], recorder.commands)
    assert recorder.calls == [("here", 0, False), ("there", 3, True)]


def test_words_to_hand_on_are_not_read() -> None:
    recorder = Recorder()
    words = ["--patch_size", "[16,32,32]", "--lr=1e-3", "--text", "0123", "--weights::kd", "0.0"]
    main(["pass", "mine", *words], recorder.commands)
    assert recorder.calls == [("mine", *words)]


def test_stop_from_the_keyboard_is_one_line_and_no_success(capsys) -> None:
    def wait() -> None:
        """Wait."""
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        main(["wait"], {"wait": wait})
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "\ndtlp wait: interrupted.\n"


def test_returned_object_is_not_printed(capsys) -> None:
    main(["copy", "--source", "here"], Recorder().commands)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [["copy", "--source", "here", "surplus"], ["copy"], ["group", "--source", "here"], ["group"], []],
    ids=" ".join,
)
def test_missing_or_surplus_words_exit_with_2_and_run_nothing(words) -> None:
    recorder = Recorder()
    with pytest.raises(SystemExit) as exit_info:
        main(words, recorder.commands)
    assert exit_info.value.code == 2
    assert recorder.calls == []


@pytest.mark.parametrize("words", [["coppy"], ["items"], ["group", "iner"]], ids=" ".join)
def test_unknown_command_is_named_with_the_known_ones(words) -> None:
    with pytest.raises(InputError, match=rf"expected one of (copy, group, pass|inner), got '{words[-1]}'"):
        main(words, Recorder().commands)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["coppy"], "Did you mean copy?"),
        (["copy", "here", "--dri_run"], r"unknown flag --dri_run. Did you mean --dry_run"),
        (["copy", "here", "--sede=3"], r"unknown flag --sede. Did you mean --seed"),
        (["copy", "here", "--nothing"], r"unknown flag --nothing. See dtlp copy --help"),
        (["pass"], "expected BUNDLE as the first argument"),
        (["pass", "--lr", "1"], "expected BUNDLE as the first argument"),
    ],
)
def test_mistyped_word_is_refused_with_the_nearest_and_runs_nothing(words, message) -> None:
    recorder = Recorder()
    with pytest.raises(InputError, match=message):
        main(words, recorder.commands)
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dry_run=true", "--dry_run: expected True or False, got 'true'"),
        ("--seed=x", "--seed: expected an integer, got 'x'"),
        ("--seed=True", "--seed: expected an integer, got True"),
        ("--source=2018", "--source: expected a string .*, got 2018"),
        ("--sides=[1,2.5]", r"--sides: expected integers in quotes, .* got \[1, 2.5\]"),
        ("--sides=3", "--sides: expected integers in quotes, .* got 3"),
    ],
)
def test_value_of_the_wrong_type_is_never_misread(flag, message) -> None:
    recorder = Recorder()
    source = [] if flag.startswith("--source") else ["--source", "here"]
    with pytest.raises(InputError, match=message):
        main(["copy", *source, flag], recorder.commands)
    assert recorder.calls == []


def test_error_that_nobody_has_foreseen_is_one_line_and_its_traceback_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.excepthook", sys.__excepthook__)

    def fail() -> None:
        """Fail."""
        try:
            raise KeyError("the cause")
        except KeyError as error:
            raise RuntimeError("wrapped") from error

    with pytest.raises(SystemExit) as end:
        call_command("dtlp", ["fail"], {"fail": fail})
    (file,) = tmp_path.iterdir()
    assert end.value.code == f"dtlp fail: cannot continue: KeyError: 'the cause'. The traceback is in {file}"
    assert file.read_text().startswith("Traceback (most recent call last):")


PIPED = """
import sys
from dtlp_components.command_line.call import call_command

def few() -> None:
    '''Few words.'''
    print("few")

def many() -> None:
    '''Many words.'''
    for _ in range(10_000):
        print("many words")

def wrapped() -> None:
    '''As MONAI does.'''
    try:
        many()
    except OSError as error:
        raise RuntimeError("wrapped") from error

def other() -> None:
    '''A pipe that is not the output's.'''
    raise BrokenPipeError("to a process")

def refuse() -> None:
    '''Refuse.'''
    print("few")
    raise SystemExit("a reason")

sys.stdin.readline()  # until the pipe is closed
call_command("dtlp", sys.argv[1:], {"few": few, "many": many, "wrapped": wrapped, "other": other, "refuse": refuse})
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, ""),
        (["few"], 0, ""),
        (["few", "--help"], 0, ""),
        (["many"], 141, ""),
        (["wrapped"], 141, ""),
        (["refuse"], 1, "a reason"),
    ],
)
def test_closed_pipe_ends_a_command_silently(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    read, write = os.pipe()
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", PIPED, *words],
        stdin=subprocess.PIPE, stdout=write, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    os.close(write)
    os.close(read)
    _, error = process.communicate("\n")
    assert error.startswith(said) if said else error == ""
    assert process.returncode == code
    assert list(tmp_path.iterdir()) == []


def test_other_closed_pipe_is_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PIPED, "other"],
        input="\n", capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("dtlp other: cannot continue: BrokenPipeError: to a process. The traceback is in")


def test_run_of_a_bundle_tells_its_own_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.excepthook", lambda *error: None)

    def fail() -> None:
        """Fail."""
        raise RuntimeError("told elsewhere")

    with pytest.raises(RuntimeError, match="told elsewhere"):
        call_command("dtlp", ["fail"], {"fail": fail})
