# SPDX-License-Identifier: Apache-2.0
"""MONAI's command is printed and run; what it ends with is passed on. A small package stands for MONAI."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.bundle import run_monai as run_monai_module
from dtlp_components.bundle.run_monai import become_monai, run_monai, run_monai_here, silence
from dtlp_components.errors import InputError

ROOT = Path(__file__).parents[2]
STANDS_FOR_MONAI = """
import importlib.util, json, os, sys
try:
    project = importlib.util.find_spec("dtlp_components") is not None
except ValueError:  # None among the modules
    project = False
program = os.path.basename(os.path.dirname(sys.argv[0]))
print(json.dumps([sys.argv[1:], program, os.getcwd(), sys.stdin.read(), project]))
if sys.argv[1] == "fail":
    print("what went wrong", file=sys.stderr)
    sys.exit(int(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with a package `monai.bundle` that only says how it was called; processes find it first."""
    folder = tmp_path / "packages"
    (folder / "monai/bundle").mkdir(parents=True)
    for file in ("monai/__init__.py", "monai/bundle/__init__.py"):
        (folder / file).touch()
    (folder / "monai/bundle/__main__.py").write_text(STANDS_FOR_MONAI)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    monkeypatch.chdir(tmp_path)
    return folder


WORDS = ["run", "training", "--text", "two words", "--patch_size", "[16,32,48]"]
SHOWN = "$ python -m monai.bundle run training --text 'two words' --patch_size '[16,32,48]'"


def test_command_is_shown_and_so_is_what_it_prints(capfd: pytest.CaptureFixture[str]) -> None:
    run_monai(WORDS)
    shown, said = capfd.readouterr().out.strip().splitlines()
    assert shown == SHOWN
    assert json.loads(said)[:2] == [WORDS, "bundle"]


def test_quiet_command_shows_nothing_unless_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    run_monai(WORDS, quiet=True)
    assert capfd.readouterr().out.strip() == SHOWN
    with pytest.raises(InputError, match=r"failed with exit code 3:\nwhat went wrong"):
        run_monai(["fail", "3"], quiet=True)


def test_failure_of_a_shown_command_is_an_error() -> None:
    with pytest.raises(InputError, match=r"failed with exit code 4\.$"):
        run_monai(["fail", "4"])


def test_packed_folder_is_alone(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    (stand_in / "monai/bundle/__main__.py").write_text(
        "import os, sys; open('here.txt', 'w').write(os.getcwd())\n"
        "import scripts\n"  # of the packed folder
        "try:\n    import dtlp_components\nexcept ImportError:\n    sys.exit(5)\n"
    )
    (packed / "scripts.py").touch()
    with pytest.raises(InputError, match="failed in the packed folder with exit code 5"):
        run_monai(["verify_net_in_out"], quiet=True, alone_in=packed)
    assert (packed / "here.txt").read_text() == str(packed)
    assert not list(packed.rglob("__pycache__"))


@pytest.mark.parametrize(("words", "code"), [(WORDS, 0), (["fail", "7"], 7)], ids=["works", "fails"])
def test_command_that_is_become_has_arguments_input_and_exit_code_of_its_own(
    words: list[str], code: int, tmp_path: Path
) -> None:
    snippet = f"from dtlp_components.bundle.run_monai import become_monai; become_monai({words!r})"
    command = [sys.executable, "-c", snippet]
    result = subprocess.run(command, input="typed", capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert json.loads(result.stdout.splitlines()[-1]) == [words, "bundle", str(tmp_path), "typed", True]


def test_command_runs_in_this_process_and_may_do_so_twice(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)
    (stand_in / "monai/bundle/__main__.py").write_text(
        "import os, sys; open('said.txt', 'a').write(f'{os.getpid()} {sys.argv[1:]}\\n')"
    )
    monkeypatch.setattr(sys, "path", [str(stand_in), *sys.path])
    monkeypatch.setattr(sys, "argv", ["dtlp", "demo"])
    for _ in range(2):
        run_monai_here(WORDS)
    assert (tmp_path / "said.txt").read_text() == f"{os.getpid()} {WORDS}\n" * 2
    assert capsys.readouterr().out.count(SHOWN) == 2


def test_only_what_monai_says_of_every_configuration_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    scripts, workflows = (logging.getLogger(f"monai.bundle.{name}") for name in ("scripts", "workflows"))
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO):
        silence()
        warnings.warn('parsing config_file a.json: any "_target_" … invoked with no allow list, …', stacklevel=1)
        warnings.warn("parsing config_file failed", stacklevel=1)
        for logger in (scripts, workflows):
            logger.addHandler(caplog.handler)
        workflows.info("Setting logging properties based on config: a/logging.conf.")
        workflows.warning("Not all config files are in a/configs. If logging_file …")
        workflows.warning("Loaded bundle does not contain the following required properties: x")
        scripts.handle(scripts.makeRecord(scripts.name, logging.INFO, "", 1, "---", (), None, "_log_input_summary"))
        scripts.info("Downloading: a.zip.")
    for logger in (scripts, workflows):
        logger.removeHandler(caplog.handler)
    assert [str(warning.message) for warning in caught] == ["parsing config_file failed"]
    assert "Setting" not in caplog.text
    assert "Not all" not in caplog.text
    assert "---" not in caplog.text
    assert "required properties" in caplog.text
    assert "Downloading" in caplog.text


def test_several_processes_keep_the_warnings_that_they_were_told_to_ignore(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Any] = []
    monkeypatch.setattr(run_monai_module, "become_torchrun", lambda *words: launched.append(words))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::DeprecationWarning")
    become_monai(WORDS, 2)
    assert launched == [(2, ["-m", "monai.bundle", *WORDS])]
    assert os.environ["PYTHONWARNINGS"] == "ignore::DeprecationWarning,ignore:parsing config_file:UserWarning"
    code = "import warnings; warnings.warn('parsing config_file a.json: …'); warnings.warn('another')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "parsing" not in done.stderr.partition("UserWarning")[2].partition("\n")[0]
    assert "UserWarning: another" in done.stderr
