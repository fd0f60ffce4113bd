# SPDX-License-Identifier: Apache-2.0
"""A server replayed: no training validates on what an earlier one learned from."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from monai.data import partition_dataset

from dtlp_components.data.study_split import assign_studies


def arrivals(seed: int) -> list[list[str]]:
    """Labeled studies at each of a server's trainings: they come in any order, and their list is sorted."""
    rng = random.Random(seed)
    studies = [f"study_{i:02d}" for i in range(30)]
    rng.shuffle(studies)
    return [sorted(studies[:count]) for count in range(3, 31, 3)]


def seen_again(splits: list[tuple[list[str], list[str]]]) -> int:
    """Trainings that validate on a study that an earlier one was trained on."""
    trained: set[str] = set()
    spoiled = 0
    for training, validation in splits:
        spoiled += bool(trained & set(validation))
        trained |= set(training)
    return spoiled


def assigned(studies: list[str], file: Path) -> tuple[list[str], list[str]]:
    found = assign_studies(studies, 0.2, file)
    training, validation = ([s for s in studies if found[s] == name] for name in ("training", "validation"))
    return training, validation


def test_no_training_validates_on_what_an_earlier_one_learned_from(tmp_path: Path) -> None:
    ours, theirs, trainings = 0, 0, 0
    for seed in range(20):
        lists = arrivals(seed)
        trainings += len(lists)
        ours += seen_again([assigned(studies, tmp_path / str(seed) / "split.json") for studies in lists])
        theirs += seen_again([tuple(partition_dataset(studies, ratios=[0.8, 0.2])) for studies in lists])  # type: ignore[misc]
    assert ours == 0
    assert theirs > 0.2 * trainings  # what this is for


def test_share_is_kept_while_studies_arrive(tmp_path: Path) -> None:
    for studies in arrivals(0):
        training, validation = assigned(studies, tmp_path / "split.json")
        assert len(validation) == max(1, round(0.2 * len(studies)))
        assert training


def test_assignment_does_not_depend_on_the_order(tmp_path: Path) -> None:
    studies = [f"study_{i}" for i in range(10)]
    one = assign_studies(studies, 0.3, tmp_path / "a.json")
    assert one == assign_studies(studies[::-1], 0.3, tmp_path / "b.json")


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 0), (3, 1), (5, 1)])
def test_few_studies_are_trained_on(tmp_path: Path, count: int, expected: int) -> None:
    found = assign_studies([str(i) for i in range(count)], 0.2, tmp_path / "split.json")
    assert list(found.values()).count("validation") == expected


def test_share_of_everything_leaves_one_to_train_on(tmp_path: Path) -> None:
    assert sorted(assign_studies(["a", "b", "c"], 1.0, tmp_path / "split.json").values()) == [
        "training", "validation", "validation"
    ]  # fmt: skip


def test_what_was_once_trained_on_is_never_validated_on(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    assert set(assign_studies(["a", "b", "c"], 0.0, file).values()) == {"training"}
    later = assign_studies(["a", "b", "c", "d", "e"], 0.5, file)
    assert [later[name] for name in "abc"] == ["training"] * 3
    assert [later[name] for name in "de"] == ["validation"] * 2


def test_study_that_is_gone_for_a_while_comes_back_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    first = assign_studies(["a", "b", "c", "d"], 0.5, file)
    assign_studies(["a"], 0.5, file)
    assert assign_studies(["a", "b", "c", "d"], 0.5, file) == first
