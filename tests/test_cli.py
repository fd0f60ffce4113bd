# SPDX-License-Identifier: Apache-2.0
"""The command line refuses what it does not understand before it does anything, and answers at once."""

from __future__ import annotations

import inspect
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import dtlp_components
from dtlp_components import parts
from dtlp_components.cli import COMMANDS, main
from dtlp_components.errors import InputError
from dtlp_components.signatures import read_command

ROOT = Path(__file__).parents[1]


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
    with pytest.raises(InputError, match=f"'{words[-1]}', expected one of: (copy, group, pass|inner)"):
        main(words, Recorder().commands)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["coppy"], "Did you mean copy?"),
        (["copy", "here", "--dri_run"], r"found --dri_run, .* Did you mean --dry_run"),
        (["copy", "here", "--sede=3"], r"found --sede, .* Did you mean --seed"),
        (["copy", "here", "--nothing"], r"found --nothing, .* copy --help lists them"),
        (["pass"], "expected BUNDLE first"),
        (["pass", "--lr", "1"], "expected BUNDLE first"),
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
        ("--dry_run=true", "--dry_run: found 'true', expected True or False"),
        ("--seed=x", "--seed: found 'x', expected an integer"),
        ("--seed=True", "--seed: found True, expected an integer"),
        ("--source=2018", "--source: found 2018, expected a text"),
        ("--sides=[1,2.5]", r"--sides: found \[1, 2.5\], expected integers in quotes"),
        ("--sides=3", "--sides: found 3, expected integers in quotes"),
    ],
)
def test_value_of_the_wrong_type_is_never_misread(flag, message) -> None:
    recorder = Recorder()
    source = [] if flag.startswith("--source") else ["--source", "here"]
    with pytest.raises(InputError, match=message):
        main(["copy", *source, flag], recorder.commands)
    assert recorder.calls == []


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
            heads = [
                i for i, line in enumerate(lines) if line.startswith((f"  --{name} (", f"  {name.upper()}", "  [NAMES"))
            ]
            assert heads and lines[heads[0] + 1].startswith("      "), name


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
        *(["prepare", name, "nowhere", "out"] for name in COMMANDS["prepare"]),
        ["train", "hipocampus_5"],
    ],
    ids=" ".join,
)
def test_command_that_needs_no_torch_does_not_import_it(words: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIGHT, *words]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_public_name_is_one_of_the_package() -> None:
    assert dtlp_components.__all__ == parts.__all__
    assert set(parts.__all__) <= set(dir(dtlp_components))
    assert all(getattr(dtlp_components, name) is getattr(parts, name) for name in parts.__all__)
    assert not hasattr(dtlp_components, "VNett")


@pytest.mark.slow
def test_first_public_name_imports_all_parts_and_the_package_none() -> None:
    # MONAI Label unloads a packed copy of the package: what is imported later would be missing
    snippet = """
import sys, json, dtlp_components
print(json.dumps(sorted(sys.modules)))
from dtlp_components import LabelDiffusion
print(json.dumps(sorted(sys.modules)))
for name in dtlp_components.__all__:
    getattr(dtlp_components, name)
print(json.dumps(sorted(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, check=True, capture_output=True, text=True)
    package, one, all_names = (set(json.loads(line)) for line in result.stdout.splitlines()[-3:])
    assert not {"torch", "monai", "dtlp_components.parts"} & package
    assert one == all_names and "dtlp_components.engines.trainer" in one


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
