# SPDX-License-Identifier: Apache-2.0
"""The table of keys: for every key a wrong kind and a value out of bounds are refused, by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.checks.key_table import Key, check_values, key_table, model_keys

KEYS = [key for key in key_table().values() if key.is_value and key.kind != "device"]
KINDS = {
    "flag", "integer", "number", "text", "path", "choice", "integers", "numbers", "names", "weights", "device",
    "component", "block", "computed", "list",
}  # fmt: skip


def just_inside(key: Key) -> float:
    """A number that every bound of the key allows: the smaller the range, the nearer to its middle."""
    low = key.minimum if key.minimum is not None else key.above if key.above is not None else 0
    high = key.maximum if key.maximum is not None else key.below if key.below is not None else low + 2
    return low if low == high else int(low) + 1 if key.kind.startswith("integer") else (low + high) / 2


def good_values(key: Key) -> list[Any]:
    if key.kind in ("integer", "number"):
        return [just_inside(key)]
    if key.kind in ("integers", "numbers"):
        return [[just_inside(key)] * (key.length or 1), *([just_inside(key)] if key.scalar else [])]
    return {
        "flag": [True, False],
        "text": ["words"],
        "path": ["./2024"],
        "choice": list(key.choices),
        "names": [["background", "liver"]],
        "weights": [{"mix": 0, "mic": 1.5}],
    }[key.kind]


def wrong_kinds(key: Key) -> list[Any]:
    wrong: list[Any] = [object(), *([] if key.null else [None])]
    if key.kind in ("integer", "number", "integers", "numbers"):
        wrong += ["1", True, float("nan"), float("inf"), {}]
    if key.kind.startswith("integer"):
        wrong += [1.5]
    if key.length:
        wrong += [[just_inside(key)] * (key.length + 1), []]
    if key.kind == "flag":
        wrong += ["true", "False", 1, 0]
    if key.kind in ("text", "path"):
        wrong += [2024, True, ["a"]]
    if key.kind == "choice":
        wrong += ["", "no such choice", 1]
    if key.kind == "names":
        wrong += ["background", [1]]
    if key.kind == "weights":
        wrong += [[1.0], {"mix": -1.0}, {"mix": "1"}, {"mix": True}]
    return wrong


def out_of_bounds(key: Key) -> list[Any]:
    outside = [
        *([key.minimum - 1] if key.minimum is not None else []),
        *([key.above] if key.above is not None else []),
        *([key.maximum + 1] if key.maximum is not None else []),
        *([key.below] if key.below is not None else []),
    ]
    if key.kind in ("integers", "numbers"):
        inside = just_inside(key)
        outside = [[*[inside] * ((key.length or 1) - 1), number] for number in outside]
    return outside


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_wrong_kinds_and_values_out_of_bounds_are_refused_with_key_expected_and_got(key: Key) -> None:
    bad = wrong_kinds(key) + out_of_bounds(key)
    assert bad
    for value in bad:
        (sentence,) = check_values({key.name: value})
        assert sentence.startswith(f"--{key.name}: expected {key.expected}, got {value!r}.")
    if key.kind in ("integer", "number", "integers", "numbers"):
        assert out_of_bounds(key), "a number without bounds"


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_values_inside_the_bounds_pass(key: Key) -> None:
    for value in [*good_values(key), *([None] if key.null else [])]:
        assert check_values({key.name: value}) == [], value


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gradient_checkpointing": "false"}, "--gradient_checkpointing: expected True or False, capitalized, got "
         "'false'. Write --gradient_checkpointing False"),
        ({"checkpoint_interval": 0}, "--checkpoint_interval: expected an integer of at least 1, got 0."),
        ({"batch_size_unlabeled": -1}, "--batch_size_unlabeled: expected an integer of at least 0, got -1."),
        ({"burn_in": 2.0}, "--burn_in: expected a number of at least 0 and less than 1, got 2.0."),
        ({"seed": "a"}, "--seed: expected an integer from 0 to 4294967294, got 'a'."),
        ({"iterations_per_epoch": 1.5}, "--iterations_per_epoch: expected an integer of at least 1, got 1.5."),
        ({"norm": "layer"}, "--norm: expected one of 'instance', 'group', 'batch', got 'layer'."),
        ({"flip_axes": [0, 0]}, "--flip_axes: expected a list of integers from 0 to 2, all different, got [0, 0]."),
    ],
)  # fmt: skip
def test_sentences(values: dict[str, Any], sentence: str) -> None:
    assert check_values(values) == [sentence]


def test_keys_of_others_and_components_are_left_alone() -> None:
    assert check_values({"my_own_key": object(), "network": 3}) == []


def test_every_entry_says_what_it_is() -> None:
    for key in key_table().values():
        assert key.kind in KINDS, key.name
        assert key.meaning, key.name
        assert key.kind != "choice" or key.choices, key.name
        assert key.kind in ("choice", "flag", "number") or not key.choices, key.name


def test_keys_that_shape_the_networks() -> None:
    student = ["in_channels", "channel_dropout", "num_classes", "preprocessing_variant", "spacing_mm", "patch_size"]
    student += ["features", "norm"]
    assert model_keys() == student
    assert set(model_keys(teachers=True)) == {*student, "method", "correlation_stage", "image_shortcut"}


def test_table_needs_neither_torch_nor_monai() -> None:
    file = Path(sys.modules["dtlp_components.checks.key_table"].__file__ or "")
    code = (
        "import importlib.util, json, sys\n"
        f"spec = importlib.util.spec_from_file_location('key_table', {str(file)!r})\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['key_table'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(json.dumps([len(module.key_table()), 'torch' in sys.modules, 'monai' in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [len(key_table()), False, False]
