# SPDX-License-Identifier: Apache-2.0
"""The generator itself, on recipes of a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from dtlp_components.bundle.render import RECIPES, apply_overrides, check_bundles, main, render, write_bundles
from dtlp_components.errors import InputError

ROOT = Path(__file__).parents[2]


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def change(path: Path, **entries: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | entries)


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """One data set with two bundles; base, data set and second bundle each set ``spacing_mm`` or ``weights``."""
    folder = tmp_path / "recipes"
    common = {
        "bundle_name": "",
        "num_classes": 2,
        "in_channels": 1,
        "patch_size": [4, 5, 6],
        "spacing_mm": [1.0, 1.0, 1.0],
        "weights": {"mix": 1.0, "mic": 1.0},
        "device": "$torch.device('cpu')",
    }
    write_json(folder / "base/common.json", common)
    write_json(folder / "base/train.json", {"amp": False, "train": {"handlers": [{"interval": 1}, {"interval": 1}]}})
    write_json(folder / "base/evaluate.json", {"eval_section": "testing"})
    write_json(folder / "base/inference.json", {"run": []})
    pred = {"num_channels": None, "channel_def": {"0": "background", "1": "left atrium"}}
    metadata = {"version": "0.1.0", "network_data_format": {"inputs": {"image": {}}, "outputs": {"pred": pred}}}
    write_json(folder / "base/metadata.json", metadata)
    (folder / "base/logging.conf").write_text("[loggers]\n")
    (folder / "base/LICENSE").write_text("license\n")
    (folder / "base/README.md.in").write_text("# $bundle_name: $title\n\n${patch_size} voxels, $$DATA\n")
    dataset = {"overrides": {"common": {"spacing_mm": [2.0, 2.0, 2.0]}}, "readme": {"title": "Herz größer"}}
    write_json(folder / "datasets/heart.json", dataset)
    (folder / "datasets/heart.license.txt").write_text("research use\n")
    second = {"overrides": {"common": {"spacing_mm": [3.0, 3.0, 3.0]}, "train": {"amp": True}}}
    write_json(folder / "index.json", {"heart_5": {"dataset": "heart"}, "heart_10": {"dataset": "heart", **second}})
    return folder


def overrides(recipes: Path, **sections: dict[str, Any]) -> None:
    """Replace the overrides of the data set."""
    change(recipes / "datasets/heart.json", overrides=sections)


def rendered(recipes: Path, file: str, name: str = "heart_5") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(render(name, recipes)[f"configs/{file}.json"])
    return content


def test_a_bundle_has_the_documented_files(recipes: Path) -> None:
    configs = [f"configs/{c}.json" for c in ("train", "evaluate", "inference", "metadata")]
    others = ["configs/logging.conf", "docs/README.md", "docs/data_license.txt", "LICENSE"]
    assert sorted(render("heart_5", recipes)) == sorted(configs + others)


def test_workflow_is_common_then_own_keys_under_a_comment(recipes: Path) -> None:
    common = json.loads((recipes / "base/common.json").read_text())
    assert list(rendered(recipes, "train")) == ["_comment", *common, "amp", "train"]
    assert list(rendered(recipes, "evaluate")) == ["_comment", *common, "eval_section"]


def test_last_of_base_dataset_bundle_wins(recipes: Path) -> None:
    for file in ("train", "evaluate", "inference"):
        assert rendered(recipes, file, "heart_5")["spacing_mm"] == [2.0, 2.0, 2.0]
        assert rendered(recipes, file, "heart_10")["spacing_mm"] == [3.0, 3.0, 3.0]
    assert (rendered(recipes, "train")["amp"], rendered(recipes, "train", "heart_10")["amp"]) == (False, True)


def test_bundle_beats_dataset_even_through_a_less_specific_section(recipes: Path) -> None:
    overrides(recipes, train={"spacing_mm": [9.0, 9.0, 9.0]})
    assert rendered(recipes, "train", "heart_5")["spacing_mm"] == [9.0, 9.0, 9.0]
    assert rendered(recipes, "train", "heart_10")["spacing_mm"] == [3.0, 3.0, 3.0]


def test_bundle_name_is_the_entry_of_the_index(recipes: Path) -> None:
    assert rendered(recipes, "inference", "heart_10")["bundle_name"] == "heart_10"


def test_nested_and_list_index_ids_change_only_what_they_name(recipes: Path) -> None:
    overrides(recipes, common={"weights::mic": 2.0}, train={"train::handlers::1::interval": 7})
    config = rendered(recipes, "train")
    assert config["weights"] == {"mix": 1.0, "mic": 2.0}
    assert config["train"]["handlers"] == [{"interval": 1}, {"interval": 7}]


@pytest.mark.parametrize(
    "id", ["learning_rte", "weights::mik", "train::handlers::2::interval", "train::handlers::x", "amp::deeper"]
)
def test_unknown_id_is_an_error_that_names_recipe_and_id(recipes: Path, id: str) -> None:
    overrides(recipes, train={id: 1})
    with pytest.raises(InputError, match=rf"heart\.json, overrides of train: `{id}` does not exist"):
        render("heart_5", recipes)


def test_common_override_cannot_reach_an_id_of_one_workflow(recipes: Path) -> None:
    overrides(recipes, common={"amp": True})
    with pytest.raises(InputError, match="overrides of common: `amp` does not exist"):
        render("heart_5", recipes)


def test_plus_merges_a_dict_extends_a_list_and_adds_an_id() -> None:
    parser = ConfigParser({"weights": {"mix": 1, "mic": 1}, "train": {"handlers": ["a"]}})
    apply_overrides(parser, {"+weights": {"mic": 3}, "+train::handlers": ["b"], "+train::seed": 4}, "test")
    assert parser.get() == {"weights": {"mix": 1, "mic": 3}, "train": {"handlers": ["a", "b"], "seed": 4}}


def test_plus_does_not_grow_the_recipes_own_list() -> None:
    addition = {"+handlers": ["b"]}
    apply_overrides(ConfigParser({"other": 1}), addition, "first")
    parser = ConfigParser({"other": 1})
    apply_overrides(parser, addition, "second")
    apply_overrides(parser, addition, "third")
    assert parser["handlers"] == ["b", "b"]
    assert addition == {"+handlers": ["b"]}


def test_plus_needs_a_parent_and_matching_kinds() -> None:
    with pytest.raises(InputError, match=r"test: `\+tarin::seed` cannot be added, since `tarin` does not exist"):
        apply_overrides(ConfigParser({"train": {}}), {"+tarin::seed": 1}, "test")
    with pytest.raises(InputError, match="base recipe has int and the override list"):
        apply_overrides(ConfigParser({"train": 1}), {"+train": [1]}, "test")


def test_key_in_common_and_workflow_is_an_error(recipes: Path) -> None:
    write_json(recipes / "base/evaluate.json", {"device": "cpu"})
    with pytest.raises(InputError, match=r"\['device'\] are in base/common.json and base/evaluate.json"):
        render("heart_5", recipes)


def test_metadata_repeats_the_facts_of_the_bundle(recipes: Path) -> None:
    overrides(recipes, common={"patch_size": [7, 8, 9]})
    formats = rendered(recipes, "metadata")["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert (image["num_channels"], image["spatial_shape"]) == (1, [7, 8, 9])
    assert (pred["num_channels"], pred["spatial_shape"]) == (2, [7, 8, 9])


def test_metadata_that_contradicts_a_fact_is_an_error(recipes: Path) -> None:
    overrides(recipes, metadata={"+network_data_format::inputs::image::spatial_shape": [1, 2, 3]})
    with pytest.raises(InputError, match=r"is \[1, 2, 3\], but `patch_size` in the common recipe is \[4, 5, 6\]"):
        render("heart_5", recipes)


def test_label_names_must_match_num_classes(recipes: Path) -> None:
    overrides(recipes, common={"num_classes": 3})
    with pytest.raises(InputError, match=r"\['0', '1'\], but `num_classes` wants \['0', '1', '2'\]"):
        render("heart_5", recipes)


def test_readme_is_filled_from_facts_and_recipes(recipes: Path) -> None:
    assert render("heart_5", recipes)["docs/README.md"] == "# heart_5: Herz größer\n\n[4, 5, 6] voxels, $DATA\n"


def test_unfilled_placeholder_is_an_error(recipes: Path) -> None:
    change(recipes / "datasets/heart.json", readme={})
    with pytest.raises(InputError, match=r"README\.md\.in: no recipe fills \['title'\]"):
        render("heart_5", recipes)


def test_readme_text_without_a_placeholder_is_an_error(recipes: Path) -> None:
    change(recipes / "datasets/heart.json", readme={"title": "a", "titel": "b"})
    with pytest.raises(InputError, match=r"heart\.json: `readme` fills \['titel'\]"):
        render("heart_5", recipes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable JSON recipe: Expecting property name"),
        ('{"readme": {}, "readme": {}}', "not a readable JSON recipe: Duplicate key: `readme`"),
        ("[]", "a recipe is a JSON object, but got list"),
        ('{"overides": {}}', r"unknown keys \['overides'\]"),
        ('{"overrides": {"trian": {}}}', r"no section \['trian'\]"),
    ],
)
def test_faulty_recipe_file_is_named(recipes: Path, content: str, message: str) -> None:
    (recipes / "datasets/heart.json").write_text(content)
    with pytest.raises(InputError, match=rf"heart\.json: {message}"):
        render("heart_5", recipes)


def test_missing_files_and_bundles_are_named(recipes: Path) -> None:
    with pytest.raises(InputError, match=r"no bundle `heart_7`; there are heart_5, heart_10"):
        render("heart_7", recipes)
    (recipes / "datasets/heart.license.txt").unlink()
    with pytest.raises(InputError, match=r"heart\.license\.txt: no such recipe file"):
        render("heart_5", recipes)


def test_written_bundles_are_current_and_a_second_run_writes_nothing(recipes: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundles"
    assert len(write_bundles(output=output, recipes=recipes)) == 2 * len(render("heart_5", recipes))
    assert check_bundles(output, recipes=recipes) == []
    assert write_bundles(output=output, recipes=recipes) == []
    text = (output / "heart_5/configs/train.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=4, ensure_ascii=False) + "\n"


def test_only_the_named_bundle_is_written(recipes: Path, tmp_path: Path) -> None:
    write_bundles(["heart_10"], tmp_path / "bundles", recipes)
    assert [p.name for p in (tmp_path / "bundles").iterdir()] == ["heart_10"]
    assert check_bundles(tmp_path / "bundles", ["heart_10"], recipes) == []
    assert len(check_bundles(tmp_path / "bundles", recipes=recipes)) == len(render("heart_5", recipes))


def test_edited_file_shows_as_a_diff_towards_the_recipes(recipes: Path, tmp_path: Path) -> None:
    write_bundles(output=tmp_path / "bundles", recipes=recipes)
    config = tmp_path / "bundles/heart_5/configs/train.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"amp": false', '"amp": true'), encoding="utf-8")
    (diff,) = check_bundles(tmp_path / "bundles", recipes=recipes)
    assert diff.startswith(f"--- {config}\n")
    changes = [line for line in diff.splitlines()[2:] if line.startswith(("+", "-"))]
    assert changes == ['-    "amp": true,', '+    "amp": false,']


def test_files_of_the_user_stay(recipes: Path, tmp_path: Path) -> None:
    weights = tmp_path / "bundles/heart_5/models/model.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    (tmp_path / "bundles/by_hand").mkdir()
    write_bundles(output=tmp_path / "bundles", recipes=recipes)
    assert weights.read_bytes() == b"weights"
    assert (tmp_path / "bundles/by_hand").is_dir()


def test_faulty_second_bundle_leaves_the_first_unwritten(recipes: Path, tmp_path: Path) -> None:
    change(recipes / "index.json", heart_20={"dataset": "lung"})
    with pytest.raises(InputError, match=r"lung\.json: no such recipe file"):
        write_bundles(output=tmp_path / "bundles", recipes=recipes)
    assert not (tmp_path / "bundles").exists()


def test_failed_write_keeps_the_old_file(recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundles(output=tmp_path / "bundles", recipes=recipes)
    before = (tmp_path / "bundles/heart_5/configs/train.json").read_bytes()
    overrides(recipes, train={"amp": True})

    def full_disk(source: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_bundles(output=tmp_path / "bundles", recipes=recipes)
    assert (tmp_path / "bundles/heart_5/configs/train.json").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "bundles/heart_5/configs").iterdir()) == sorted(
        ["train.json", "evaluate.json", "inference.json", "metadata.json", "logging.conf"]
    )


def test_command_writes_then_checks(recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--output", str(tmp_path / "bundles"), "--recipes", str(recipes)]
    with pytest.raises(SystemExit, match=r"edit dtlp_components/recipes/, then run python -m dtlp_components\.bundle"):
        main(["--check", *options])
    assert not (tmp_path / "bundles").exists()
    main(options)
    assert str(tmp_path / "bundles/heart_10/configs/train.json") in capsys.readouterr().out
    main(["heart_5", "--check", *options])


def test_bundles_carry_the_licence_of_the_project() -> None:
    assert (RECIPES / "base/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
