# SPDX-License-Identifier: Apache-2.0
"""What ``--help`` shows, of a command and of a group of them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fire import docstrings

from .command import Command, read_command

__all__ = ["help_text", "list_commands"]


def help_text(name: str, command: Command) -> str:
    """
    What ``--help`` of a command shows.

    Args:
        name: the command as it is typed.
        command: what is known of it.
    """
    parsed = docstrings.parse(command.description)
    said = {arg.name: arg.description for arg in parsed.args or []}
    usage, entries = [name], []
    for parameter in command.signature.parameters.values():
        flag, kind = parameter.name, str(parameter.annotation).removesuffix(" | None")
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            term = "[--KEY VALUE ...]" if command.takes_words else f"[{flag.upper()} ...]"
            usage.append(term)
        elif parameter.default is parameter.empty:
            term = flag.upper()
            usage.append(term)
        else:
            shown = f", default {parameter.default!r}" if parameter.default not in (None, "") else ""
            term = f"--{flag} ({kind}{shown})"
        entries.append((term, said.get(flag) or ""))
    kinds = {parameter.kind for parameter in command.signature.parameters.values()}
    if any(p.default is not p.empty for p in command.signature.parameters.values()):
        usage.append("[--FLAG VALUE ...]")
    if inspect.Parameter.VAR_KEYWORD in kinds:
        usage.append("[--KEY VALUE ...]")
    lines = [f"usage: {' '.join(usage)}", "", command.summary]
    if parsed.description:
        lines += ["", parsed.description.replace("``", "`")]
    lines += [""]
    for term, text in entries:
        text = " ".join(text.replace("``", "`").split())
        lines += [f"  {term}", textwrap.fill(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    if not command.takes_words and any(p.default is p.empty for p in command.signature.parameters.values()):
        lines += ["", "Positional arguments may also be given as flags, by their names in lower case."]
    return "\n".join(lines)


def list_commands(path: Sequence[str], level: Mapping[str, Any]) -> str:
    """
    What ``--help`` of a group of commands shows: their summaries.

    Args:
        path: the group as it is typed, word by word.
        level: name to command, or to a further group.
    """
    rows = {
        name: f"one of: {', '.join(command)}" if isinstance(command, Mapping) else read_command(command).summary
        for name, command in level.items()
    }
    width = max(map(len, rows))
    start = " ".join(path)
    return "\n".join(
        [
            f"usage: {start} COMMAND ...",
            "",
            *(f"  {name.ljust(width)}  {summary}" for name, summary in rows.items()),
            "",
            f"Run {start} COMMAND --help for the arguments of a command.",
        ]
    )
