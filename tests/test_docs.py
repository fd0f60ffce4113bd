# SPDX-License-Identifier: Apache-2.0
"""The documentation against what it describes: keys, defaults, paths, examples, links."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from dtlp_components.bench.memory import POINTS
from dtlp_components.bundle.compose import with_overlay
from dtlp_components.bundle.key_docs import with_key_tables
from dtlp_components.bundle.lint import check_config, check_metadata
from dtlp_components.bundle.recipes import RECIPES
from dtlp_components.bundle.render import render
from dtlp_components.data.datalists import load_datalist
from dtlp_components.deploy.export import export_bundle
from dtlp_components.deploy.pack import pack_bundle
from dtlp_components.keys import DatalistKeys
from dtlp_components.own_data.command import new_bundle
from dtlp_components.own_data.memory import MARGIN, SECOND_MOMENT, estimate_bytes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DIFFERENCES = DOCS / "explanation/what-differs-from-the-paper.md"
WORKFLOWS = ("train", "evaluate", "inference")
READMES = sorted(ROOT.glob("bundles/*/docs/README.md"))
TEXTS = [*sorted(DOCS.rglob("*.md")), *READMES, ROOT / "CHANGELOG.md", ROOT / "README.md"]
COMPUTED = re.compile(r"[$@]")
# what bundles.md leaves to the recipes or says in a sentence instead of a literal
IN_WORDS = {"bundle_name", "dataset_name", "datalist_suffix", "prepare_hint", "preprocessing_keys", "interpolation"}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(read(path))
    return content


def rows(text: str) -> list[list[str]]:
    """Cells of every line of every table."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]


def code(cell: str) -> str:
    """The first piece of code in a cell."""
    match = re.search(r"`([^`]+)`", cell)
    assert match, cell
    return match[1]


def is_computed(value: Any) -> bool:
    return isinstance(value, str) and COMPUTED.match(value) is not None


def is_component(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, (dict, str)) for v in value))


def test_tables_of_keys_are_those_of_the_table_and_the_base() -> None:
    text = read(DOCS / "reference/bundles.md")
    assert text == with_key_tables(text), "run python -m dtlp_components.bundle.key_docs docs/reference/bundles.md"


def test_weights_in_bundles_md_are_those_of_the_base() -> None:
    (sentence,) = re.findall(r"^`weights` holds (.*)$", read(DOCS / "reference/bundles.md"), flags=re.MULTILINE)
    named = {name: float(value) for name, value in re.findall(r"`(\w+)` ([\d.]+\d|\d)", sentence)}
    assert named == load(RECIPES / "base/train.json")["weights"]


def method_table(title: str) -> list[list[str]]:
    text = read(DIFFERENCES).split(f"## {title}\n")[1].split("\n#")[0]
    return [row for row in rows(text) if row[0].startswith("`")]


def test_table_of_the_overlay_is_what_the_overlay_does() -> None:
    common, config, overlay = (load(RECIPES / f"base/{name}.json") for name in ("common", "train", "paper"))
    config = common | config
    table = {code(row[0]): (row[1], row[2]) for row in method_table("Set by the overlay")}
    in_words = {"optimizer"} | {id for id in overlay if "random_transforms" in id}
    assert set(table) == set(overlay) - in_words | {"optimizer"}
    for merged, cell in ((config, 0), (with_overlay(config, overlay), 1)):
        parser = ConfigParser(merged)
        kind, *numbers = table["optimizer"][cell].split(", ")
        assert parser["optimizer"]["_target_"] == f"torch.optim.{kind}"
        said = {word for number in numbers for word in number.split()[-1:]} - {"Nesterov"}
        assert {float(word) for word in said} == {
            value for name, value in parser["optimizer"].items() if name in ("momentum", "weight_decay")
        }
        for id, cells in table.items():
            if id not in in_words:
                assert parser[id] == ast.literal_eval(code(cells[cell])), id


def test_defaults_of_the_other_switches_are_those_of_the_base() -> None:
    parser = ConfigParser(load(RECIPES / "base/common.json") | load(RECIPES / "base/train.json"))
    table = method_table("Not touched by the overlay")
    assert table
    for row in table:
        value = parser[code(row[0])]
        assert code(row[1]) == (value if isinstance(value, str) else repr(value)), row[0]


@pytest.mark.parametrize("page", [DOCS / "explanation/method.md", DIFFERENCES], ids=lambda path: path.stem)
def test_files_and_names_on_the_pages_of_the_method_exist(page: Path) -> None:
    package = ROOT / "dtlp_components"
    mentions = re.findall(r"`((?:\w+/)+\w+\.py): ([\w.]+)`", read(page))
    assert mentions
    for file, name in mentions:
        text = read(package / file)
        for part in name.split("."):
            assert re.search(rf"^ *(class|def) {part}\b", text, flags=re.MULTILINE), f"{file}: {name}"


@pytest.mark.parametrize("readme", READMES, ids=lambda p: p.parts[-3])
def test_readme_of_a_bundle_has_the_numbers_of_its_configuration(readme: Path) -> None:
    config = load(readme.parents[1] / "configs/train.json")
    parser = ConfigParser(config)
    table = {code(row[0]): row[1] for row in rows(read(readme)) if row[0].startswith("`")}
    assert {"patch_size", "max_iterations", "learning_rate", "weights::mic"} <= set(table)
    for id, value in table.items():
        assert json.loads(value) == parser[id], id
    labels = [row[1] for row in rows(read(readme)) if row[0].isdecimal()]
    assert labels == config["label_names"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", read(path)):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def example(kind: str) -> Any:
    text = read(DOCS / "get-started/own-scans.md")
    (block,) = re.findall(rf"^```json {kind}\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    return json.loads(block)


def test_every_flag_of_new_is_documented_with_its_default() -> None:
    text = read(DOCS / "get-started/own-scans.md")
    table = {code(row[0]): row[1].strip("`") for row in rows(text) if row[0].startswith("`--")}
    parameters = inspect.signature(new_bundle).parameters
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            cell = table.pop(f"--{name}")
            computed = parameter.default is None or parameter.default == ""
            assert cell in ("guessed", "as found", "none") if computed else cell == str(parameter.default), name
        else:
            assert name == "name" or f"--{name} DIR" in text
    assert table == {}


@pytest.mark.parametrize("command", [export_bundle, pack_bundle], ids=lambda c: c.__name__)
def test_every_flag_of_export_and_pack_is_documented_with_its_default(command: Callable[..., None]) -> None:
    title = {"export_bundle": "Export", "pack_bundle": "Pack"}[command.__name__]
    text = read(DOCS / "how-to/deploy.md").split(f"## {title}\n")[1].split("\n## ")[0]
    table = {code(row[0]): row[1] for row in rows(text) if row[0].startswith("`--")}
    flags = {n: p.default for n, p in inspect.signature(command).parameters.items() if p.default is not p.empty}
    assert set(table) == {f"--{name}" for name in flags}
    for name, default in flags.items():
        if default != "":  # in words
            assert table[f"--{name}"] == str(default), name


def test_memory_table_holds_every_point_and_its_estimate() -> None:
    table = [row for row in rows(read(DOCS / "reference/memory.md")) if row[0][0].isdecimal()]
    for row, (patch, *others) in zip(table, POINTS, strict=True):
        assert [int(cell) for cell in (*row[0].split(",")[0].split(" × "), *row[1:4])] == [*patch, *others]
        # measured with SGD, which keeps one number less for each weight than AdamW
        second_moment = MARGIN * SECOND_MOMENT * others[0] ** 2
        measured, estimated = int(row[4]), (estimate_bytes(patch, *others) - second_moment) / 1e6
        assert int(row[5]) == round(estimated)
        assert measured <= estimated <= 1.2 * measured  # never too low for what was measured, nor far off


@pytest.mark.parametrize("bundle", sorted((ROOT / "bundles").glob("*_*")), ids=lambda path: path.name)
def test_memory_in_the_readme_of_a_bundle_is_what_its_numbers_were_measured_to_take(bundle: Path) -> None:
    config = json.loads((bundle / "configs/train.json").read_text(encoding="utf-8"))
    batch_size = max(config["batch_size_labeled"], config["batch_size_unlabeled"])
    numbers = [*config["patch_size"], config["features"], batch_size, config["num_classes"]]
    cells = [row for row in rows(read(DOCS / "reference/memory.md")) if row[0][0].isdecimal()]
    measured = {(*map(int, row[0].split(",")[0].split(" × ")), *map(int, row[1:4])): int(row[4]) for row in cells}
    assert f"took {measured[tuple(numbers)] / 1000:.1f} GB on a CPU" in read(bundle / "docs/README.md")


def test_example_datalist_is_read(tmp_path: Path) -> None:
    file = tmp_path / "datalist_10.json"
    file.write_text(json.dumps(example("datalist")), encoding="utf-8")
    sizes = {
        s: len(load_datalist(str(file), s, str(tmp_path))) for s in ("training", "unlabeled", "validation", "testing")
    }
    assert sizes == {"training": 2, "unlabeled": 2, "validation": 1, "testing": 1}
    (test_case,) = load_datalist(str(file), DatalistKeys.TESTING, str(tmp_path))
    assert test_case["domain"] == "scanner 2"


def test_example_recipe_renders_a_faultless_bundle(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    shutil.copytree(RECIPES, recipes)
    (recipes / "datasets/my_ct.json").write_text(json.dumps(example("dataset")), encoding="utf-8")
    (recipes / "datasets/my_ct.license.txt").write_text("terms\n", encoding="utf-8")
    index = load(recipes / "index.json") | example("index")
    (recipes / "index.json").write_text(json.dumps(index), encoding="utf-8")
    files = render("my_ct_10", recipes)
    for workflow in WORKFLOWS:
        config = json.loads(files[f"configs/{workflow}.json"])
        assert check_config(config) == []
        assert len(config["label_names"]) == 3
    assert check_metadata(json.loads(files["configs/metadata.json"]), 3) == []
    train = ConfigParser(json.loads(files["configs/train.json"]))
    assert train.get_parsed_content("datalist") == "data/my_ct/datalist_10.json"


def test_citation_names_the_version_of_the_package() -> None:
    import re

    import dtlp_components

    (version,) = re.findall(r"^version: (.*)$", Path("CITATION.cff").read_text(), re.MULTILINE)
    assert version == dtlp_components.__version__
