# SPDX-License-Identifier: Apache-2.0
"""Recipes, read and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dtlp_components.bundle.recipes import RECIPES, bundle_names, read_recipe
from dtlp_components.errors import InputError
from tests.bundle.conftest import HEART, change


def test_bundle_wins_over_its_data_set(recipes: Path) -> None:
    first, second = (read_recipe(name, recipes) for name in ("heart_5", "heart_10"))
    assert first.sections["common"]["spacing_mm"] == [2.0, 2.0, 2.0]
    assert second.sections["common"]["spacing_mm"] == [3.0, 3.0, 3.0]
    assert second.sections["common"]["patch_size"] == [32, 48, 64]
    assert second.sections["train"] == {"amp": True, "max_iterations": 70}
    assert (first.title, first.labels, first.readme["split"]) == ("Heart, 5 %", ["background", "left atrium"], "Few.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable JSON recipe: Expecting property name"),
        ('{"readme": {}, "readme": {}}', "not a readable JSON recipe: Duplicate key: `readme`"),
        ("[]", "expected a JSON object, got list"),
        (json.dumps({**HEART, "trian": {}}), "expected keys among .*train.*, got trian"),
    ],
)
def test_faulty_recipe_file_is_named(recipes: Path, content: str, message: str) -> None:
    (recipes / "datasets/heart.json").write_text(content)
    with pytest.raises(InputError, match=rf"heart\.json: {message}"):
        read_recipe("heart_5", recipes)


def test_missing_facts_files_and_bundles_are_named(recipes: Path) -> None:
    with pytest.raises(InputError, match="expected one of the bundles heart_5, heart_10, got 'heart_7'"):
        read_recipe("heart_7", recipes)
    change(recipes / "datasets/heart.json", labels=None)
    content = {key: value for key, value in HEART.items() if key != "labels"}
    (recipes / "datasets/heart.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"index\.json \(heart_5\): expected labels here or in"):
        read_recipe("heart_5", recipes)
    (recipes / "datasets/heart.json").write_text(json.dumps(HEART))
    (recipes / "datasets/heart.license.txt").unlink()
    with pytest.raises(InputError, match=r"heart\.license\.txt: no such recipe file"):
        read_recipe("heart_5", recipes)
    change(recipes / "index.json", heart_20={"dataset": "lung"})
    with pytest.raises(InputError, match=r"lung\.json: no such recipe file"):
        read_recipe("heart_20", recipes)


def test_recipes_of_the_project_are_short() -> None:
    for file in (RECIPES / "datasets").glob("*.json"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 45, file.name
    lines = (RECIPES / "index.json").read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith('    "')]
    assert len(starts) == len(bundle_names())
    assert max(end - start for start, end in zip(starts, [*starts[1:], len(lines) - 1], strict=True)) <= 8
