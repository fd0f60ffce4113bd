# SPDX-License-Identifier: Apache-2.0
"""A bundle's README."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.bundle.compose import compose_workflow
from dtlp_components.bundle.readme import fill_readme, optimizer_sentence, training_table
from dtlp_components.bundle.recipes import read_recipe
from dtlp_components.errors import InputError


def filled(recipes: Path, template: str, **readme: str) -> str:
    (recipes / "base/README.md.in").write_text(template, encoding="utf-8")
    recipe = read_recipe("heart_5", recipes)
    if readme:
        recipe = replace(recipe, readme=readme)
    return fill_readme(recipe, compose_workflow("train", recipe, recipes), recipes)


def test_placeholders_are_facts_texts_and_what_follows(recipes: Path) -> None:
    text = filled(recipes, "# $title, ${patch_size} voxels, $$DATA: $summary\n$labels\n", summary="Herz größer")
    assert text == "# Heart, 5 %, [32, 48, 64] voxels, $DATA: Herz größer\n| 0 | background |\n| 1 | left atrium |\n"


def test_unfilled_placeholder_is_an_error(recipes: Path) -> None:
    with pytest.raises(InputError, match=r"README\.md\.in: no recipe fills \['nothing'\]"):
        filled(recipes, "$nothing $training_note", training_note="a")


def test_text_without_a_placeholder_is_an_error(recipes: Path) -> None:
    with pytest.raises(InputError, match=r"`readme` fills \['titel'\]"):
        filled(recipes, "$title", titel="b")


def test_table_has_the_common_rows_and_what_the_recipe_sets(recipes: Path) -> None:
    recipe = read_recipe("heart_10", recipes)
    rows = training_table(recipe, compose_workflow("train", recipe, recipes)).splitlines()
    assert "| `max_iterations` | 70 | iterations rounded up to whole epochs." in "\n".join(rows)
    assert "| `spacing_mm` | [3.0, 3.0, 3.0] | mm grid that scans are resampled to" in "\n".join(rows)
    assert rows[-1].startswith("| `amp` | true | half precision; by default")


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        (
            {"_target_": "torch.optim.SGD", "lr": "@x", "momentum": 0.9, "nesterov": True, "weight_decay": 3e-5},
            "Optimizer: SGD (momentum 0.9, Nesterov, weight decay 3e-05)",
        ),
        ({"_target_": "torch.optim.AdamW", "weight_decay": 0.01}, "Optimizer: AdamW (weight decay 0.01)"),
        ({"_target_": "torch.optim.Adam"}, "Optimizer: Adam"),
    ],
)
def test_optimizer_in_words(optimizer: dict[str, Any], sentence: str) -> None:
    assert optimizer_sentence(optimizer) == sentence
