# SPDX-License-Identifier: Apache-2.0
"""Values that go together, and the machine they are for."""

from __future__ import annotations

import pytest

from dtlp_components.checks.settings import (
    Settings,
    class_weight_problems,
    has_two_voxels,
    method_problems,
    patch_size_problems,
)
from dtlp_components.errors import InputError


@pytest.mark.parametrize(
    ("patch_size", "nearest"),
    [([30, 48, 32], "[16 or 32, 48, 32]"), ([16, 100, 8], "[16, 96 or 112, 16]"), ([1, 20, 32], "[16, 16 or 32, 32]")],
)
def test_patch_size_the_network_cannot_take_names_the_nearest(patch_size: list[int], nearest: str) -> None:
    (message,) = patch_size_problems(patch_size, "instance")
    assert message == f"--patch_size: expected multiples of 16, got {patch_size}; nearest: {nearest}."


@pytest.mark.parametrize("patch_size", [[16, 16, 32], [16, 32, 16], [32, 16, 16]])
def test_two_voxels_at_the_deepest_stage_are_refused_for_instance_norm_alone(patch_size: list[int]) -> None:
    assert has_two_voxels(patch_size)
    (message,) = patch_size_problems(patch_size, "instance")
    assert "two voxels" in message
    assert "[32, 32, 32], or --norm group" in message
    for norm in ("group", "batch"):
        assert list(patch_size_problems(patch_size, norm)) == []


@pytest.mark.parametrize("patch_size", [[16, 16, 48], [16, 32, 32]])
def test_three_voxels_at_the_deepest_stage_pass(patch_size: list[int]) -> None:
    assert list(patch_size_problems(patch_size, "instance")) == []


def test_one_voxel_is_too_few_for_any_norm() -> None:
    (message,) = patch_size_problems([16, 16, 16], "batch")
    assert "one voxel" in message


def test_patch_size_of_a_wrong_kind_is_said_once() -> None:
    (message,) = Settings({"patch_size": [32, 48]}).problems()
    assert message.startswith("--patch_size: expected a list of 3 integers, each at least 1, got [32, 48].")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "mps:x"])
def test_device_that_is_not_there_comes_with_those_that_are(device: str) -> None:
    (message,) = Settings({}, device=device).problems()
    assert message.startswith("--device: expected one of cpu")
    assert f"got {device!r}" in message


def test_check_raises_all_problems() -> None:
    with pytest.raises(InputError, match=r"2 problems found:\n  - --seed: .*\n  - --burn_in: "):
        Settings({"seed": "a", "burn_in": 2.0, "amp": True}).check()


@pytest.mark.parametrize(
    ("weights", "source", "weighs", "wrong"),
    [
        ({"deno": 1.0, "diff": 1.0, "student_labeled": 1.0}, "diffusion", True, False),
        ({"deno": 0.0, "diff": 1.0, "student_labeled": 0.0}, "diffusion", True, True),
        ({"deno": 0.0, "diff": 0.0, "student_labeled": 1.0}, "diffusion", True, True),
        ({"deno": 0.0, "diff": 0.0, "student_labeled": 1.0}, "diffusion", False, False),
        ({"deno": 0.0, "diff": 1.0, "student_labeled": 1.0}, "difficulty", True, False),
        ({"deno": 1.0, "diff": 0.0, "student_labeled": 1.0}, "difficulty", True, True),
    ],
)
def test_classes_are_not_weighed_by_a_decoder_that_is_not_trained(
    weights: dict[str, float], source: str, weighs: bool, wrong: bool
) -> None:
    values = {
        "weights": weights, "difficulty_source": source, "student_difficulty_weights": weighs, "batch_size_unlabeled": 2
    }  # fmt: skip
    problems = list(class_weight_problems(values))
    assert bool(problems) == wrong
    assert all("expected a number greater than 0, because" in problem for problem in problems)
    assert not list(class_weight_problems({**values, "batch_size_unlabeled": 0}))  # labeled only reads no weights


def test_style_of_unlabeled_scans_needs_them() -> None:
    for style in ("none", "fourier"):
        assert not Settings({"style": style, "batch_size_unlabeled": 2}).problems()
    assert not Settings({"style": "none", "batch_size_unlabeled": 0}).problems()
    (message,) = Settings({"style": "fourier", "batch_size_unlabeled": 0}).problems()
    assert message.startswith("--style: expected none without unlabeled scans")
    assert "got 'fourier'" in message


@pytest.mark.parametrize(
    ("method", "unlabeled", "sentence"),
    [
        ("supervised", 2, "expected 0 with method 'supervised', which uses no unlabeled scans, got 2"),
        ("uamt", 0, "expected at least 1 with method 'uamt', which learns from unlabeled scans, got 0"),
        ("and", 0, "expected at least 1 with method 'and'"),
        ("supervised", 0, None),
        ("dtlp", 0, None),
        ("dtlp", 2, None),
        ("uamt", 2, None),
    ],
)
def test_training_is_of_the_method_it_is_recorded_as(method: str, unlabeled: int, sentence: str | None) -> None:
    values = {"method": method, "batch_size_unlabeled": unlabeled}
    problems = list(method_problems(values))
    assert problems == Settings(values).problems()
    assert sentence is None or sentence in problems[0]
    assert bool(problems) == (sentence is not None)
