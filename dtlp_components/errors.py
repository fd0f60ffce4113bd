# SPDX-License-Identifier: Apache-2.0
"""Errors that end a command with one readable message and exit code 1."""

from __future__ import annotations

__all__ = ["InputError", "NonFiniteError"]


class InputError(SystemExit):
    """
    What the user gave (a file, a key, a number) cannot be used; the message says what was found and what was wanted.

    Derives from :py:class:`SystemExit`, not from :py:class:`Exception`: MONAI's config parser wraps every ``Exception``
    in a ``RuntimeError`` of its own, so that the sentence the user needs would stand in the middle of a long traceback.
    A ``SystemExit`` with a text passes through, prints the text alone to stderr and sets the exit code to 1.
    """


class NonFiniteError(SystemExit):
    """Training met a loss term or a gradient norm that is NaN or infinite; the message names it."""
