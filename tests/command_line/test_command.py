# SPDX-License-Identifier: Apache-2.0
"""What is read of a command without importing it is what importing it would show."""

from __future__ import annotations

import inspect

import pytest

from dtlp_components.command_line.command import read_command


def copy(source: str, *names: str, sides: list[int] | None = None, share: float = -0.5, **keys: int) -> None:
    """
    Copy something.

    Args:
        source: of it.
    """


def test_function_of_a_table_is_described_as_it_is() -> None:
    read = read_command(copy)
    assert read.function() is copy
    assert read.summary == "Copy something."
    assert not read.takes_words


def test_module_that_is_named_is_read_and_not_imported(monkeypatch) -> None:
    monkeypatch.setattr("dtlp_components.command_line.command.import_module", lambda *_: pytest.fail("imported"))
    read = read_command("bundle.start:train_bundle")
    assert list(read.signature.parameters) == ["bundle", "words"]
    assert read.takes_words


def test_function_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LookupError, match="no function run_nothing in demo"):
        read_command("demo:run_nothing")


def test_every_kind_of_parameter_is_read(tmp_path, monkeypatch) -> None:
    (tmp_path / "some.py").write_text(inspect.getsource(copy))
    monkeypatch.setattr("dtlp_components.command_line.command.PACKAGE", tmp_path)
    assert read_command("some:copy").signature.parameters == inspect.signature(copy).parameters
