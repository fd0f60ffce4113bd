# SPDX-License-Identifier: Apache-2.0
"""Checks of flags that several commands have."""

from __future__ import annotations

from collections.abc import Collection

from ..errors import InputError

__all__ = ["check_choice", "check_percent", "check_seed"]


def check_seed(seed: int) -> None:
    """Raise :py:class:`InputError` unless ``seed`` is an integer that NumPy's generators take."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed: expected an integer from 0 to {2**32 - 1}, got {seed!r}.")


def check_percent(percent: int) -> None:
    """Raise :py:class:`InputError` unless ``percent`` can name and size a semi-supervised split."""
    if isinstance(percent, bool) or not isinstance(percent, int) or not 1 <= percent <= 99:
        raise InputError(
            f"percent: expected an integer from 1 to 99 (the fully labeled list is always written), got {percent!r}."
        )


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise :py:class:`InputError` unless the flag ``name`` has one of the values ``choices``."""
    if value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(choices)}, got {value!r}.")
