# SPDX-License-Identifier: Apache-2.0
"""The call of a command: nothing is imported, and nothing done, before every word of the line is understood."""

from __future__ import annotations

import difflib
import inspect
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fire

from ..errors import PIPE_CLOSED, InputError, cause_of, drop_unread_output, is_closed_pipe
from .command import Command, read_command
from .help import help_text, list_commands

__all__ = ["call_command"]

HELP = ("--help", "-h")
STOPPED = 130  # what a shell gives a program that SIGINT ended
TYPES = {
    "bool": "True or False",
    "int": "an integer",
    "float": "a number",
    "str": "a string (write ./2018 for a folder named 2018)",
    "list[int]": 'integers in quotes, such as "[64,64,48]"',
    "list[float]": 'numbers in quotes, such as "[1.5,1.5,2.0]"',
}


@dataclass(frozen=True)
class _Call:
    """A command's arguments, bound but not used."""

    _arguments: inspect.BoundArguments


def call_command(name: str, words: Sequence[str], commands: Mapping[str, Any]) -> None:
    """
    Call the command that words name.

    Args:
        name: of the program, for help and messages.
        words: of the command line.
        commands: name to function (or ``module:function`` in this package), or to a further table of commands.

    Raises:
        SystemExit: with code 2 if a command or a flag's value is missing or there is a word too many; with a message
            (code 1) if a command or flag is unknown or a value of the wrong type; all before anything is imported or
            done. With code 0 after help, 130 after Ctrl-C, 141 if whoever reads the output has closed the pipe, and
            whatever the command itself raises; an error that nobody has foreseen is told in one line (code 1), its
            traceback goes into a file.
    """
    path = [name]
    try:
        _call(path, list(words), commands)
    except KeyboardInterrupt:
        print(f"\n{' '.join(path)}: interrupted.", file=sys.stderr)
        raise SystemExit(STOPPED) from None
    except Exception as error:
        if is_closed_pipe(error):
            raise SystemExit(PIPE_CLOSED) from None
        if sys.excepthook is not sys.__excepthook__:  # a bundle's run tells it, with the key that it is of
            raise
        raise SystemExit(_unforeseen(" ".join(path), error)) from error
    finally:
        drop_unread_output()  # short output is written only now, or by Python at its end, with a traceback


def _call(path: list[str], words: list[str], level: Any) -> None:
    """Find the command, adding its words to the path, and run it."""
    while isinstance(level, Mapping):
        if not words or words[0].startswith("-"):
            asked = words[:1] and words[0] in HELP
            print(list_commands(path, level), file=sys.stdout if asked else sys.stderr)
            raise SystemExit(0 if asked else 2)
        if words[0] not in level:
            raise InputError(
                f"{' '.join(path)}: expected one of {', '.join(level)}, got {words[0]!r}."
                + _nearest(words[0], list(level))
            )
        path.append(words[0])
        level = level[words.pop(0)]
    _run(" ".join(path), read_command(level), words)


def _unforeseen(name: str, error: Exception) -> str:
    """One line on an error that nobody has foreseen, and where its traceback is."""
    with tempfile.NamedTemporaryFile("w", prefix="dtlp-error-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    return f"{name}: cannot continue: {cause_of(error)}. The traceback is in {file.name}"


def _run(name: str, command: Command, words: list[str]) -> None:
    own = words[: words.index("--")] if "--" in words else words
    if any(word in HELP for word in own):
        print(help_text(name, command))
        raise SystemExit(0)
    if command.takes_words:
        first, *_ = command.signature.parameters
        if not words or words[0].startswith("-"):
            raise InputError(f"{name}: expected {first.upper()} as the first argument; see {name} --help.")
        command.function()(*words)
        return
    _check_flags(name, command, own)
    # Fire prints what a command returns; ours report what they did themselves
    call = fire.Fire(_binder(command), command=words, name=name, serialize=lambda result: None)
    if not isinstance(call, _Call):  # a word too many named something inside of what Fire had bound
        raise SystemExit(2)
    _check_types(command, call._arguments.arguments)
    command.function()(*call._arguments.args, **call._arguments.kwargs)


def _binder(command: Command) -> Callable[..., _Call]:
    """
    A function with the command's parameters that returns a :py:class:`_Call`.

    Fire calls a function with the arguments it knows and complains of the others only afterwards: a word too many after
    a command that writes would write everything and then report an error.
    """

    def bind(*args: Any, **kwargs: Any) -> _Call:
        return _Call(command.signature.bind(*args, **kwargs))

    bind.__signature__ = command.signature  # type: ignore[attr-defined]
    bind.__doc__ = command.description
    return bind


def _nearest(word: str, known: Sequence[str], mark: str = "") -> str:
    close = difflib.get_close_matches(word, known, n=2)
    return f" Did you mean {' or '.join(mark + name for name in close)}?" if close else ""


def _check_flags(name: str, command: Command, words: Sequence[str]) -> None:
    """Refuse flags that the command does not have, with those that look like them."""
    parameters = command.signature.parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for word in words:
        flag = word[2:].partition("=")[0].replace("-", "_")
        if word.startswith("--") and flag not in parameters and flag.removeprefix("no") not in parameters:
            known = _nearest(flag, list(parameters), "--") or f" See {name} --help."
            raise InputError(f"{name}: unknown flag --{flag}.{known}")


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value is of the type that an annotation names; types other than those of flags are not looked at."""
    options = annotation.split(" | ")
    if len(options) > 1:
        return any(_fits(value, option) for option in options)
    if annotation in ("list[int]", "list[float]"):
        return isinstance(value, (list, tuple)) and all(_fits(item, annotation[5:-1]) for item in value)
    if annotation == "float":
        return type(value) in (int, float)
    types = {"bool": bool, "int": int, "str": str, "None": type(None)}
    return annotation not in types or type(value) is types[annotation]


def _check_types(command: Command, arguments: Mapping[str, Any]) -> None:
    """Refuse what Fire read as something else: ``true`` is a text (and any text is true), ``2018`` is not one."""
    for name, value in arguments.items():
        parameter = command.signature.parameters[name]
        values = value if parameter.kind is parameter.VAR_POSITIONAL else [value]
        annotation = str(parameter.annotation)
        for found in values:
            if not _fits(found, annotation):
                expected = next(option for option in annotation.split(" | ") if option != "None")
                raise InputError(f"--{name}: expected {TYPES[expected]}, got {found!r}.")
