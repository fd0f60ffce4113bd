# SPDX-License-Identifier: Apache-2.0
"""Errors that end a command with one readable message and exit code 1."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence

__all__ = [
    "PIPE_CLOSED",
    "InputError",
    "NonFiniteError",
    "ask_before_telling",
    "cause_of",
    "drop_unread_output",
    "first_line",
    "is_closed_pipe",
    "may_tell",
    "raise_if_any",
    "stand_in",
]

MAX_PROBLEMS = 20
PIPE_CLOSED = 141  # what a shell gives a program that SIGPIPE ended


_ask: list[Callable[[], bool]] = []


def ask_before_telling(ask: Callable[[], bool]) -> None:
    """From now on, ask whether this process may tell why it ends: of several that work together, one does."""
    _ask[:] = [ask]


def may_tell() -> bool:
    """Whether this process may tell why it ends."""
    return all(ask() for ask in _ask)


class _SaidOnce(SystemExit):
    """An end with a message, which one of several processes prints; the exit code of all is 1."""

    @property
    def code(self) -> str | int:  # type: ignore[override]
        """What Python prints and makes of it: a text is printed and gives 1."""
        return str(self) if may_tell() else 1


class InputError(_SaidOnce):
    """
    What the user gave (a file, a key, a number) cannot be used; the message says what was found and what was expected.

    Derives from :py:class:`SystemExit`, not from :py:class:`Exception`: MONAI's config parser wraps every ``Exception``
    in a ``RuntimeError`` of its own, so that the sentence the user needs would stand in the middle of a long traceback.
    A ``SystemExit`` with a text passes through, prints the text alone to stderr and sets the exit code to 1.

    Example:
        >>> try:
        ...     raise InputError("--spacing_mm: expected three numbers, got two.")
        ... except SystemExit as end:
        ...     print(end, end.code)
        --spacing_mm: expected three numbers, got two. --spacing_mm: expected three numbers, got two.
    """


class NonFiniteError(_SaidOnce):
    """
    Training met a loss term or a gradient norm that is NaN or infinite; the message names it.

    Ignite's ``TerminateOnNan`` ends a run when the weights are spoiled already, names no term, and the exit code is 0.

    Example:
        >>> issubclass(NonFiniteError, SystemExit)
        True
    """


def raise_if_any(problems: Sequence[str], start: str = "Cannot start") -> None:
    """
    Raise one error that lists all ``problems``, the first 20 in words; nothing happens if there is none.

    Args:
        problems: one sentence each.
        start: beginning of the message's first line.

    Raises:
        InputError: if there is a problem.
    """
    if problems:
        lines = [f"  - {problem}" for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            lines.append(f"  ... and {len(problems) - MAX_PROBLEMS} more.")
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InputError("\n".join([f"{start}, {count} found:", *lines]))


def first_line(error: BaseException) -> str:
    """First line of an error's text, without its full stop."""
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")


def cause_of(error: BaseException) -> str:
    """What is behind an error that others wrapped, in one line: MONAI wraps what a transform raises."""
    while error.__cause__ is not None and not isinstance(error, InputError):
        error = error.__cause__
    if isinstance(error, Exception):
        return f"{type(error).__name__}: {first_line(error)}"
    return str(error)


def drop_unread_output() -> bool:
    """
    Flush the output and, where its reader has closed the pipe (as ``head`` does), drop the rest; whether that was so.

    Python flushes at its end, too, and would print a traceback then.
    """
    dropped = False
    for stream in (sys.stdout, sys.stderr):
        try:
            has_reader = _has_reader(stream.fileno())
            stream.flush()
        except BrokenPipeError:
            has_reader = False
        except (OSError, ValueError):  # not a file, or closed
            continue
        if not has_reader:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            dropped = True
    return dropped


def _has_reader(file: int) -> bool:
    """Whether somebody may read what is written; a stream may have lost what it could not write, and not tell again."""
    if not hasattr(select, "poll"):  # on Windows
        return True
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def is_closed_pipe(error: BaseException | None) -> bool:
    """
    Whether an error says that the reader of the output has closed the pipe; the rest of the output is dropped then.

    A pipe to another process, such as one that loads scans, is not meant: its end is an error.
    """
    while error is not None and not isinstance(error, BrokenPipeError):
        error = error.__cause__ or error.__context__
    return error is not None and drop_unread_output()


def stand_in(start: bytes) -> str:
    """
    What a file is, by its first bytes, that stands where another one should be: a web page, a pointer, nothing; empty
    if it is none of these.
    """
    if not start:
        return "an empty file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, as a download that needs a login leaves it; download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS; `git lfs pull` fetches the file itself"
    if b"/annex/objects/" in start[:512]:
        return "a pointer of git-annex; `git annex get` fetches the file itself"
    return ""
