# SPDX-License-Identifier: Apache-2.0
"""Help shows every flag with its kind, its default and its sentence."""

from __future__ import annotations

from dtlp_components.command_line.command import read_command
from dtlp_components.command_line.help import help_text, list_commands


def copy(source: str, *, seed: int = 3, sides: list[int] | None = None, **keys: str) -> None:
    """
    Copy ``something``.

    More on it.

    Args:
        source: what to copy.
        seed: of the draw.
        sides: in voxels,
            unequal ones too.
        keys: others.
    """


def test_every_parameter_is_shown_with_kind_default_and_sentence() -> None:
    lines = help_text("dtlp copy", read_command(copy)).splitlines()
    assert lines[0] == "usage: dtlp copy SOURCE [--FLAG VALUE ...] [--KEY VALUE ...]"
    assert lines[2:5] == ["Copy `something`.", "", "More on it."]
    assert lines[6:12] == [
        "  SOURCE",
        "      what to copy.",
        "  --seed (int, default 3)",
        "      of the draw.",
        "  --sides (list[int])",
        "      in voxels, unequal ones too.",
    ]


def test_group_is_listed_with_its_commands() -> None:
    lines = list_commands(["dtlp"], {"copy": copy, "prepare": {"la": copy, "amos": copy}}).splitlines()
    assert lines[0] == "usage: dtlp COMMAND ..."
    assert lines[2:4] == ["  copy     Copy `something`.", "  prepare  one of: la, amos"]
