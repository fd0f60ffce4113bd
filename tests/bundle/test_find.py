# SPDX-License-Identifier: Apache-2.0
"""A word on the command line means a folder, a bundle here, or a recipe; anything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtlp_components.bundle.find import bundles_here, find_bundle
from dtlp_components.bundle.render import render
from dtlp_components.errors import InputError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(folder: str) -> Path:
    (Path(folder) / "configs").mkdir(parents=True)
    (Path(folder) / "configs" / "inference.json").write_text("{}")
    return Path(folder)


def test_folder_is_taken_as_it_is() -> None:
    assert find_bundle(str(make("elsewhere/mine"))) == Path("elsewhere/mine")


def test_folder_goes_before_a_bundle_here_and_that_before_a_recipe() -> None:
    make("bundles/la_5")
    assert find_bundle("la_5") == Path("bundles/la_5")
    assert list(Path("bundles/la_5").rglob("*.json")) == [Path("bundles/la_5/configs/inference.json")]
    make("la_5")
    assert find_bundle("la_5") == Path("la_5")


def test_recipe_is_rendered_once_and_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_bundle("hippocampus_5") == Path("bundles/hippocampus_5")
    assert capsys.readouterr().out == "bundles/hippocampus_5: rendered from the recipes.\n"
    written = {str(file.relative_to("bundles/hippocampus_5")) for file in Path("bundles").rglob("*") if file.is_file()}
    assert written == render("hippocampus_5").keys()
    find_bundle("hippocampus_5")
    assert capsys.readouterr().out == ""


def test_other_folder_of_a_recipes_name_does_not_hide_it() -> None:
    Path("la_10").mkdir()  # such as the output of a run
    assert find_bundle("la_10") == Path("bundles/la_10")


@pytest.mark.parametrize(("word", "meant"), [("lung_20", "liver|lungs_20"), ("hipocampus_5", "hippocampus_5")])
def test_other_name_is_refused_with_the_nearest(word: str, meant: str, empty_folder: Path) -> None:
    make("bundles/lungs_20")
    with pytest.raises(InputError, match=rf"{word}: no such bundle.*did you mean ({meant})"):
        find_bundle(word)
    assert [path.name for path in empty_folder.iterdir()] == ["bundles"]


def test_bundles_here_are_those_with_configurations() -> None:
    make("bundles/b")
    make("bundles/a")
    Path("bundles/notes").mkdir()
    assert bundles_here() == ["a", "b"]
