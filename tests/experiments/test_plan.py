# SPDX-License-Identifier: Apache-2.0
"""An experiment's file: what it may hold, and the commands that follow from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.bundle.recipes import RECIPES
from dtlp_components.errors import InputError
from dtlp_components.experiments.plan import EXPERIMENTS, find_experiment, read_experiment

PHANTOM = "bundles/phantom_10"
GOOD: dict[str, Any] = {
    "title": "Two ways",
    "bundle": PHANTOM,
    "overrides": {"features": 8},
    "variants": {"labeled only": {"method": "supervised"}, "UA-MT": {"method": "uamt", "overrides": {"features": 4}}},
    "seeds": [0, 7],
    "sections": ["testing", "validation"],
}
SHIPPED = sorted(file for file in EXPERIMENTS.glob("*.json") if "variants" in json.loads(file.read_text()))


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "mine.json"
    file.write_text(json.dumps({key: value for key, value in {**GOOD, **changes}.items() if value is not None}))
    return file


def value(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_every_variant_is_trained_with_every_seed_seed_by_seed(tmp_path: Path) -> None:
    runs = read_experiment(write(tmp_path)).runs(tmp_path / "out", {"dataset_dir": "scans"})
    assert [run.label for run in runs] == [
        "labeled only, seed 0", "UA-MT, seed 0", "labeled only, seed 7", "UA-MT, seed 7"
    ]  # fmt: skip
    last = runs[-1]
    assert last.run.root == tmp_path / "out/UA-MT/seed_7"
    assert last.training[:3] == ["run", "training", "--config_file"]
    assert (
        value(last.training, "--config_file")
        == f"['{PHANTOM}/configs/train.json','{PHANTOM}/configs/methods/uamt.json']"
    )
    expected = {"--seed": "7", "--features": "4", "--dataset_dir": "scans", "--output_dir": str(last.run.root)}
    assert {flag: value(last.training, flag) for flag in expected} == expected
    assert list(last.evaluations) == ["testing", "validation"]
    words = last.evaluations["validation"]
    assert (value(words, "--eval_section"), value(words, "--metric_convention")) == ("validation", "native")
    assert "--features" not in words  # evaluation takes it from the run's record


def test_baseline_comes_first(tmp_path: Path) -> None:
    experiment = read_experiment(write(tmp_path, baseline="UA-MT"))
    assert [variant.name for variant in experiment.variants] == ["UA-MT", "labeled only"]


@pytest.mark.parametrize(("overrides", "full"), [({"max_iterations": 300}, 300), ({}, 400)])
def test_fraction_is_of_the_iterations_of_the_experiment_or_of_the_bundle(
    tmp_path: Path, overrides: dict[str, Any], full: int
) -> None:
    assert json.loads(Path(PHANTOM, "configs/train.json").read_text())["max_iterations"] == 400
    runs = read_experiment(write(tmp_path, overrides=overrides), fraction=0.1).runs(tmp_path, {})
    assert {value(run.training, "--max_iterations") for run in runs} == {str(full // 10)}
    whole = read_experiment(write(tmp_path, overrides=overrides)).runs(tmp_path, {})[0].training
    assert ("--max_iterations" in whole) == bool(overrides)


def test_overlays_and_files_are_laid_over_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("{}")
    variants = {"one": {"method": "uamt", "overlays": ["paper"], "files": ["b.json"]}}
    (run,) = read_experiment(write(tmp_path, variants=variants, files=["a.json"], seeds=[0])).runs(tmp_path, {})
    configs = f"{PHANTOM}/configs"
    files = [
        f"{configs}/train.json",
        f"{configs}/paper.json",
        f"{configs}/methods/uamt.json",
        *(str(tmp_path / f"{n}.json") for n in "ab"),
    ]
    assert list(run.files) == ["/".join(Path(file).parts[-2:]) for file in files]
    assert value(run.training, "--config_file") == "[" + ",".join(f"'{file}'" for file in files) + "]"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bundle": None}, "expected bundle, got none"),
        ({"variants": {}}, "expected variants, got none"),
        ({"seed": [0]}, "expected keys among title, bundle, .*, got 'seed'"),
        ({"seeds": "0"}, "seeds: expected a list, got '0'"),
        ({"seeds": [True]}, r"seeds: expected a list of integers of at least 0, got \[True\]"),
        ({"seeds": []}, r"seeds: expected a list of integers of at least 0, got \[\]"),
        ({"sections": [3]}, r"sections: expected a list of sections of the datalist, got \[3\]"),
        ({"baseline": "DTLP"}, "baseline: expected one of labeled only, UA-MT, got 'DTLP'"),
        ({"variants": {"a": 3}}, "variants: a: expected an object with method, overlays, .*, got 3"),
        ({"variants": {"a": {"methods": "uamt"}}}, "variants: a: expected keys among method, .*, got 'methods'"),
        ({"variants": {"a": {"method": "vat"}}}, "--method vat: found no .*, expected one of: and, bcp, "),
        ({"variants": {"a": {"overlays": [3]}}}, "overlays: expected a list of names such as paper"),
        ({"variants": {"a": {"overlays": ["papers"]}}}, "--variant papers: found no"),
        ({"variants": {"a": {"files": ["none.json"]}}}, "variants: a: files: .*none.json: no such file"),
        ({"variants": {"a=b": {}}}, "expected a name without = or a comma"),
        ({"variants": {"a b": {}, "a_b": {}}}, "names that give distinct folders, got a_b more than once"),
        ({"overrides": {"output_dir": "x"}}, "expected no output_dir, which is set by the command line or by seeds"),
        ({"overrides": {"learning_rate": "$__import__('os').system('x')"}}, "learning_rate: expected a plain value"),
        ({"overrides": {"optimizer": {"_target_": "os.system"}}}, "optimizer: expected a plain value, got"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_its_place(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_experiment(write(tmp_path, **changes))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_fraction_lies_between_nothing_and_all(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(InputError, match="--fraction: expected a number greater than 0 and at most 1"):
        read_experiment(write(tmp_path), fraction)


def test_name_that_means_no_file_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"nothing: no such file; expected .* one of .*methods_hippocampus"):
        find_experiment("nothing")
    assert find_experiment("methods_la") == EXPERIMENTS / "methods_la.json"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_experiment_that_comes_with_the_package_can_be_read(file: Path, tmp_path: Path) -> None:
    assert EXPERIMENTS == RECIPES / "experiments"
    own = json.loads(file.read_text())["bundle"].startswith("bundles/")  # made by `dtlp new`, so not here
    runs = read_experiment(file, bundle=PHANTOM if own else "").runs(tmp_path, {})
    assert runs
    assert len({run.run.root for run in runs}) == len(runs)
