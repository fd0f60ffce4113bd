# SPDX-License-Identifier: Apache-2.0
"""The checks of a bundle's JSON: each finds its fault, and passes the same file without it."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest
from monai.bundle import ConfigParser

from dtlp_components.bundle.lint import (
    check_config,
    check_expressions,
    check_metadata,
    check_names,
    check_references,
    check_signatures,
)


@pytest.fixture
def config() -> dict[str, Any]:
    """A workflow as small as one that has every kind of thing the checks look at."""
    return {
        "imports": ["$import os", "$from pathlib import Path as P"],
        "num_classes": 3,
        "output_dir": "$os.path.join('a', str(P('b')))",
        "network_def": {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": "@num_classes",
                        "channels": [4, 8], "strides": [2]},
        "loss": {"_target_": "monai.losses.DiceLoss", "_desc_": "see @nothing", "_mode_": "callable"},
        "loader": {"_target_": "DataLoader", "dataset": "$[1, 2]", "batch_size": 2, "num_workers": 0},
        "keys": ["image", "label"],
        "validate": {
            "preprocessing": {"_target_": "Compose", "transforms": [
                {"_target_": "EnsureChannelFirstd", "keys": "@keys"},
                {"_target_": "CopyItemsd", "keys": "image", "names": "image_copy"},
                {"_target_": "EnsureTyped", "keys": ["image_copy"]}]},
            "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [4, 4, 4], "sw_batch_size": 1},
            "key_metric": {"val_mean_dice": {"_target_": "MeanDice",
                                             "output_transform": "$monai.handlers.from_engine(['pred', 'label'])"}},
            "handlers": [{"_target_": "MetricsSaver", "_disabled_": True, "save_dir": "@output_dir",
                          "metrics": ["val_mean_dice"], "metric_details": "*"}],
            "evaluator": {"_target_": "SupervisedEvaluator", "device": "cpu", "val_data_loader": "@loader",
                          "network": "@network_def", "key_val_metric": "@validate::key_metric"},
        },
        "run": ["$[x + y for x in (1, 2)  for y in map(lambda z: z, @validate::inferer)]"],
    }  # fmt: skip


def with_changes(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    parser = ConfigParser(deepcopy(config))
    for id, value in changes.items():
        parser[id] = value
    changed: dict[str, Any] = parser.get()
    return changed


def test_sound_file_has_no_problem(config: dict[str, Any]) -> None:
    assert check_config(config) == []


@pytest.mark.parametrize(
    ("id", "value", "message"),
    [
        ("network_def::out_chanels", 3, "network_def: .*unexpected keyword argument 'out_chanels'"),
        ("validate::inferer", {"_target_": "SlidingWindowInferer"}, "validate::inferer: .*missing .* 'roi_size'"),
        ("loss::_target_", "monai.losses.DiceLos", "loss: `monai.losses.DiceLos` cannot be found"),
        ("loss::_target_", "dtlp_components.NoSuchThing", "loss: `dtlp_components.NoSuchThing` cannot be found"),
        ("loss::_target_", 3, "loss: `_target_`: expected a string, got 3"),
        # monai's DataLoader passes **kwargs on to torch's
        ("loader::num_worker", 1, r"loader: .*unexpected keyword arguments \['num_worker'\]"),
        # no constructor of its own, and nn.Module's takes **kwargs only to refuse them
        ("loss", {"_target_": "torch.nn.Sigmoid", "dim": 1}, r"loss: .*unexpected keyword arguments \['dim'\]"),
        # disabled, yet a flag may enable it
        ("validate::handlers::0::metric_detail", "*", "validate::handlers::0: .*keyword argument 'metric_detail'"),
        # to be called later, so required arguments may be absent, but unknown ones may not
        ("loss::sigmoidal", True, "loss: .*unexpected keyword argument 'sigmoidal'"),
    ],
)
def test_signature_check_finds(config: dict[str, Any], id: str, value: Any, message: str) -> None:
    (problem,) = check_signatures(with_changes(config, {id: value}))
    assert re.match(message, problem), problem


def test_argument_known_only_to_a_base_class_is_accepted(config: dict[str, Any]) -> None:
    assert check_signatures(with_changes(config, {"loader::prefetch_factor": 2})) == []


@pytest.mark.parametrize(
    ("id", "value", "ref"),
    [
        ("network_def::out_channels", "@num_clases", "num_clases"),
        ("output_dir", "$'a' + @bundle_root", "bundle_root"),
        ("validate::evaluator::val_data_loader", "@loader::dataset::2::x", "loader::dataset::2::x"),
        ("validate::evaluator::inferer", "@::infererr", "validate::evaluator::infererr"),
        ("num_classes", "@_meta_::network_data_format", "_meta_::network_data_format"),
    ],
)
def test_reference_check_finds(config: dict[str, Any], id: str, value: Any, ref: str) -> None:
    assert check_references(with_changes(config, {id: value})) == [f"{id}: `@{ref}` does not exist in this file."]


def test_relative_reference_is_resolved(config: dict[str, Any]) -> None:
    assert check_references(with_changes(config, {"validate::evaluator::inferer": "@::::inferer"})) == []


def test_macro_is_a_problem_and_a_percent_sign_is_not(config: dict[str, Any]) -> None:
    assert check_references(with_changes(config, {"network_def::act": "5 % labeled"})) == []
    (problem,) = check_references(with_changes(config, {"loss": "%base.json::loss"}))
    assert problem == "loss: `%base.json::loss` is a macro; the file should be self-contained."


@pytest.mark.parametrize(
    ("id", "value", "message"),
    [
        ("output_dir", "$shutil.which('a')", "uses `shutil`, which no"),
        ("output_dir", "$Path('a')", "uses `Path`, which no"),  # imported as P
        ("output_dir", "$os.path.join('a'", "is not a Python expression"),
        ("output_dir", "$@num_classes @num_classes", "is not a Python expression"),
        ("imports::0", "$import dtlp_components", "uses dtlp_components in an expression"),
        ("imports::0", "$from dtlp_components.keys import LossTerms as os", "uses dtlp_components in an expression"),
    ],
)
def test_expression_check_finds(config: dict[str, Any], id: str, value: Any, message: str) -> None:
    problems = check_expressions(with_changes(config, {id: value}))
    assert [p for p in problems if p.startswith(f"{id}: `{value}` {message}")], problems


@pytest.mark.parametrize(
    ("id", "value", "message"),
    [
        (
            "validate::handlers::0::metrics",
            ["val_dice"],
            "validate::handlers::0: `metrics`: expected one of the metrics .*, got `val_dice`",
        ),
        (
            "validate::preprocessing::transforms::0::keys",
            ["imgae"],
            "validate::preprocessing::transforms::0: .*`imgae`",
        ),
        ("keys", ["image", "lable"], "validate::preprocessing::transforms::0: .*`lable`"),
        (
            "validate::key_metric::val_mean_dice::output_transform",
            "$monai.handlers.from_engine(['pred', 'labels'])",
            "validate::key_metric::val_mean_dice::output_transform: `from_engine`: expected one of .*, got `labels`",
        ),
    ],
)
def test_name_check_finds(config: dict[str, Any], id: str, value: Any, message: str) -> None:
    (problem,) = check_names(with_changes(config, {id: value}))
    assert re.match(message, problem), problem


def sound_metadata() -> dict[str, Any]:
    tensor = {
        "type": "image",
        "format": "magnitude",
        "num_channels": 1,
        "spatial_shape": [4, 5, 6],
        "dtype": "float32",
        "value_range": [0, 1],
    }
    pred = tensor | {"num_channels": 3, "channel_def": {"0": "background", "1": "liver", "2": "spleen"}}
    text = dict.fromkeys(("schema", "task", "description", "authors", "copyright"), "text")
    versions = {"monai_version": "1.6.1", "pytorch_version": "2.13.0", "numpy_version": "2.4.6"}
    return (
        text
        | versions
        | {
            "version": "0.1.0",
            "changelog": {"0.1.0": "first"},
            "required_packages_version": {"nibabel": "5.4.2"},
            "network_data_format": {"inputs": {"image": tensor}, "outputs": {"pred": pred}},
        }
    )


def test_sound_metadata_has_no_problem() -> None:
    assert check_metadata(sound_metadata(), num_classes=3) == []


@pytest.mark.parametrize(
    ("id", "value", "message"),
    [
        ("version", "0.2.0", "`changelog` has no entry for version 0.2.0"),
        ("pytorch_version", "2.13.0+cpu", "`pytorch_version`: expected an exact version"),
        ("required_packages_version::nibabel", ">=5", "`nibabel`: expected an exact version"),
        ("network_data_format::inputs", {"img": {}}, "`inputs`: expected `image` first"),
        ("network_data_format::inputs::image::num_channels", "1", "`inputs::image::num_channels`: expected int"),
        ("network_data_format::outputs::pred::num_channels", 2, "`pred`: expected 3 channels, one per class, got 2"),
        (
            "network_data_format::outputs::pred::channel_def::3",
            "lung",
            "`pred`: expected 3 channels, one per class, got",
        ),
        (
            "network_data_format::outputs::pred::channel_def::2",
            "Liver",
            "expected label names that differ in lower case",
        ),
        (
            "network_data_format::outputs::pred::channel_def::0",
            "Background",
            "expected label names .* being `background`",
        ),
    ],
)
def test_metadata_check_finds(id: str, value: Any, message: str) -> None:
    problems = check_metadata(with_changes(sound_metadata(), {id: value}), num_classes=3)
    assert re.match(message, problems[0]), problems


def test_missing_metadata_is_named() -> None:
    assert "`authors` is missing." in check_metadata({}, num_classes=2)
