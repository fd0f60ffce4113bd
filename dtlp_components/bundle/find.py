# SPDX-License-Identifier: Apache-2.0
"""The bundle that a word on the command line means: a folder, or a name of the recipes, which is rendered first."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..errors import InputError
from ..files import read_object

__all__ = ["BUNDLES", "INDEX", "bundles_here", "find_bundle"]

BUNDLES = Path("bundles")  # in the current folder
INDEX = Path(__file__).parents[1] / "recipes" / "index.json"


def bundles_here() -> list[str]:
    """Names of the bundles in ``./bundles``, sorted."""
    return sorted(file.parents[1].name for file in BUNDLES.glob("*/configs/inference.json"))


def find_bundle(word: str) -> Path:
    """
    Folder of a bundle; it is rendered into ``./bundles`` if there is only its recipe.

    Args:
        word: a folder, a name in ``./bundles``, or a name of the recipes.

    Returns:
        The folder. One that was named as a folder and exists may hold no bundle.

    Raises:
        InputError: if it is none of these.
    """
    folder = Path(word)
    named = BUNDLES / word
    if (folder / "configs").is_dir():
        return folder
    is_name = folder.name == word
    if is_name and (named / "configs").is_dir():
        return named
    recipes = list(read_object(INDEX))
    if word in recipes:
        from .render import write_bundles  # here, since it imports MONAI, and most bundles are there

        write_bundles([word], BUNDLES)
        print(f"{named}: rendered from the recipes.", flush=True)
        return named
    if folder.is_dir():
        return folder
    known = sorted({*bundles_here(), *recipes})
    close = difflib.get_close_matches(folder.name, known, n=3)
    raise InputError(
        f"{word}: no such bundle; expected its folder, or one of the names that `dtlp list` shows"
        + (f"; did you mean {' or '.join(close)}?" if close else ".")
    )
