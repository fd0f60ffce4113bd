# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong before training, and that all of it is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtlp_components.checks.input_checks import InputChecks
from dtlp_components.checks.settings import Settings
from tests.checks.checking import check, problem, problems
from tests.pairs import pair, save


def test_good_data_pass(tmp_path):
    check(labeled=[pair(tmp_path)], unlabeled=[{"image": save(tmp_path / "u.nii")}], validation=[pair(tmp_path, "v")])


@pytest.mark.parametrize("list_name", ["labeled", "unlabeled", "validation"])
def test_missing_file_of_any_list_is_named(tmp_path, list_name):
    lists = {"labeled": [pair(tmp_path)], list_name: [{"image": "none.nii", "label": "none.nii"}]}
    assert problem(**lists) == "none.nii: no such file."


def test_label_of_an_unlabeled_item_is_never_opened(tmp_path):
    forbidden = tmp_path / "forbidden.nii"
    forbidden.write_text("not an image")
    check(labeled=[pair(tmp_path)], unlabeled=[{"image": save(tmp_path / "u.nii"), "label": str(forbidden)}])


def test_patch_larger_than_every_volume_passes(tmp_path):
    check(labeled=[pair(tmp_path)], settings={"patch_size": [64, 64, 64]})


def test_the_21st_problem_is_only_counted(tmp_path):
    found = problems(labeled=[pair(tmp_path)], unlabeled=[{"image": f"{i}.nii"} for i in range(25)])
    assert len(found) == 20
    assert found[-1].endswith("... and 5 more.")


def test_constructor_does_no_work() -> None:
    settings = Settings({"num_classes": 0, "patch_size": "?"}, ["-", "run", "--x", "1"])
    InputChecks(labeled=[{"image": "none.nii"}], settings=settings)


def test_all_problems_come_in_one_message() -> None:
    found = problems(settings={"patch_size": [1, 2, 3], "amp": "true", "ddim_steps": 0})
    assert [text.split()[0] for text in found] == ["--amp:", "--ddim_steps:", "--patch_size:", "section"]


@pytest.mark.parametrize(
    "arguments", [[], ["pytest"], ["pytest", "-q", "--x", "1"], ["m", "ckpt_export", "--config_file", "none.json"]]
)
def test_other_commands_are_left_alone(tmp_path: Path, arguments: list[str]) -> None:
    check(labeled=[pair(tmp_path)], arguments=arguments)
