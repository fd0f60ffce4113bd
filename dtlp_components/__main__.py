# SPDX-License-Identifier: Apache-2.0
"""The command line: ``python -m dtlp_components <command>``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import fire
from fire.core import FireExit

from .bench.command import run_bench
from .datasets.amos import prepare_amos
from .datasets.hippocampus import prepare_hippocampus
from .datasets.la import prepare_la
from .datasets.mmwhs import prepare_mmwhs
from .datasets.mnms import prepare_mnms
from .datasets.phantom import write_phantom
from .datasets.synapse import prepare_synapse
from .demo import run_demo
from .deploy.export import export_bundle
from .deploy.pack import pack_bundle
from .deploy.segment import segment_scans
from .errors import InputError
from .own_data.command import new_bundle
from .report.picture import write_picture

__all__ = ["COMMANDS", "main"]

# a command is a function whose parameters are its flags, a group of commands a further dictionary
COMMANDS: dict[str, Any] = {
    "bench": run_bench,
    "demo": run_demo,
    "export": export_bundle,
    "new": new_bundle,
    "pack": pack_bundle,
    "phantom": write_phantom,
    "picture": write_picture,
    "prepare": {
        "amos": prepare_amos,
        "hippocampus": prepare_hippocampus,
        "la": prepare_la,
        "mmwhs": prepare_mmwhs,
        "mnms": prepare_mnms,
        "synapse": prepare_synapse,
    },
    "segment": segment_scans,
}


@dataclass(frozen=True)
class _Call:
    """A command and its arguments, checked but not run."""

    _function: Callable[..., Any]
    _arguments: inspect.BoundArguments


def _deferred(commands: Mapping[str, Any]) -> dict[str, Any]:
    """
    The same commands, which return a :py:class:`_Call` when called.

    Fire calls a function with the arguments it knows and complains of the others only afterwards: a mistyped
    ``--dry_run`` would write everything and then report an error.
    """

    def defer(function: Callable[..., Any]) -> Callable[..., _Call]:
        @functools.wraps(function)
        def bind(*args: Any, **kwargs: Any) -> _Call:
            return _Call(function, inspect.signature(function).bind(*args, **kwargs))

        return bind

    return {
        name: _deferred(command) if isinstance(command, Mapping) else defer(command)
        for name, command in commands.items()
    }


def _check_command(words: Sequence[str], commands: Mapping[str, Any]) -> None:
    """Refuse unknown commands, among them the methods of a dictionary, which Fire would call."""
    level: Any = commands
    for word in words:
        if word.startswith("-") or not isinstance(level, Mapping):
            return
        if word not in level:
            raise InputError(f"found the command {word!r}, expected one of: {', '.join(level)}.")
        level = level[word]


def _fits(value: Any, expected: Any) -> bool:
    """Whether a value is of the type that a parameter names; types other than those of flags are not looked at."""
    if get_origin(expected) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(expected))
    if get_origin(expected) is list:
        return isinstance(value, (list, tuple)) and all(_fits(item, get_args(expected)[0]) for item in value)
    if expected is float:
        return type(value) in (int, float)
    return expected not in (bool, int, str, NoneType) or type(value) is expected


def _check_types(call: _Call) -> None:
    """Refuse what Fire read as something else: ``true`` is a text (and any text is true), ``2018`` is not one."""
    hints = {
        bool: "True or False",
        int: "an integer",
        float: "a number",
        str: "a text (a folder named like a number: ./2018)",
        list[int]: 'integers in quotes, such as "[64,64,48]"',
        list[float]: 'numbers in quotes, such as "[1.5,1.5,2.0]"',
    }
    types = get_type_hints(call._function)
    for name, value in call._arguments.arguments.items():
        expected = types.get(name)
        if expected is not None and not _fits(value, expected):
            options = [option for option in get_args(expected) or [expected] if option is not NoneType]
            known = expected if expected in hints else options[0]
            raise InputError(f"--{name}: found {value!r}, expected {hints[known]}.")


def main(arguments: Sequence[str] | None = None, commands: Mapping[str, Any] = COMMANDS) -> None:
    """
    Run one command.

    Args:
        arguments: words of the command line, those of the process if ``None``.
        commands: name to function, or to a further table of commands.

    Raises:
        SystemExit: with code 2 if a command is missing or a flag missing or unknown, with a message (code 1) if a
            command is unknown or a value of the wrong type, all before anything is done; and whatever the command
            itself raises.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _check_command(words, commands)
    # Fire prints what a command returns; ours report what they did themselves
    run_fire = functools.partial(fire.Fire, _deferred(commands), name="dtlp_components", serialize=lambda result: None)
    call = run_fire(command=words)
    if not isinstance(call, _Call):  # no command, or a group of them without one of its own
        with contextlib.suppress(FireExit):
            run_fire(command=[*words, "--help"])
        raise SystemExit(2)
    _check_types(call)
    call._function(*call._arguments.args, **call._arguments.kwargs)


if __name__ == "__main__":
    main()
