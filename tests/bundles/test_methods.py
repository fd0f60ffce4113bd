# SPDX-License-Identifier: Apache-2.0
"""Every method trains a bundle: its own terms, a student that moves, a resumed run like an uninterrupted one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from dtlp_components.bundle.compose import method_names
from dtlp_components.bundle.teachers import load_teachers
from dtlp_components.bundle.trained import find_trained
from dtlp_components.engines.student_trainer import loss_terms
from dtlp_components.errors import InputError
from dtlp_components.keys import LossTerms, MethodTerms
from tests.bundles.test_workflows import PHANTOM, losses_of, run, workflow

pytestmark = pytest.mark.slow

TERMS = {
    "supervised": {LossTerms.STUDENT_LABELED},
    "mean_teacher": {MethodTerms.STUDENT_LABELED, MethodTerms.CONSISTENCY},
    "uamt": {MethodTerms.STUDENT_LABELED, MethodTerms.CONSISTENCY},
    "fixmatch": {MethodTerms.STUDENT_LABELED, MethodTerms.STRONG},
    "cps": {MethodTerms.STUDENT_LABELED, MethodTerms.SECOND_LABELED, MethodTerms.CROSS},
    "bcp": {MethodTerms.MIXED_LABELED, MethodTerms.MIXED_UNLABELED},
    "unimatch": {MethodTerms.STUDENT_LABELED, MethodTerms.STRONG, MethodTerms.FEATURES},
    "and": {LossTerms.DENOISING, LossTerms.DIFFICULTY, LossTerms.UNLABELED},
}
# batch norm takes a patch whose deepest grid has more than one voxel; the same for all
NUMBERS: dict[str, Any] = {"burn_in": 0.0}


def method(name: str, data: Path, output: Path, **overrides: Any) -> Any:
    work = workflow(PHANTOM, "train", data, output, overlay=f"methods/{name}", **{**NUMBERS, **overrides})
    return work


def test_all_methods_are_listed_here() -> None:
    assert sorted(TERMS) == method_names()


@pytest.mark.parametrize("name", TERMS)
def test_method_trains_by_its_terms(name: str, tiny_dataset: Path, tmp_path: Path) -> None:
    work = method(name, tiny_dataset, tmp_path / "run")
    work.initialize()
    trainer = work.parser.get_parsed_content("train::trainer")
    student = work.parser.get_parsed_content("network")
    before = {key: value.clone() for key, value in student.state_dict().items()}
    outputs: list[dict[str, float]] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(loss_terms(e.state.output)))
    work.run()
    named = {str(term) for term in (*LossTerms, *MethodTerms)}
    assert set(outputs[-1]) & named == TERMS[name]
    assert all(math.isfinite(value) for output in outputs for value in output.values())
    assert any(not torch.equal(value, before[key]) for key, value in student.state_dict().items())
    assert (tmp_path / "run/models/model.pt").is_file()
    record = json.loads((tmp_path / "run/logs/model_settings.json").read_text())
    assert record["method"] == name
    # whoever loads the run again gets its networks
    config = find_trained(str(PHANTOM), str(tmp_path / "run")).config("train")
    assert config["method"] == name


@pytest.mark.parametrize("name", ["uamt", "unimatch", "cps", "bcp"])
def test_resumed_run_of_a_method_is_like_an_uninterrupted_one(name: str, tiny_dataset: Path, tmp_path: Path) -> None:
    numbers = {"max_iterations": 4, "iterations_per_epoch": 2, "val_interval": 1}
    whole = losses_of(method(name, tiny_dataset, tmp_path / "whole", **numbers))
    first = losses_of(method(name, tiny_dataset, tmp_path / "cut", **numbers), stop_after=3)
    rest = losses_of(method(name, tiny_dataset, tmp_path / "cut", resume=True, **numbers))
    assert list(rest) == [3, 4]
    assert {**first, **rest} == whole


def test_teachers_of_a_method_without_decoders_are_refused_by_its_name(tiny_dataset: Path, tmp_path: Path) -> None:
    run(method("uamt", tiny_dataset, tmp_path))
    with pytest.raises(InputError, match="got method 'uamt', whose only teacher is that average"):
        load_teachers(str(PHANTOM / "configs/train.json"), str(tmp_path / "checkpoints/last.pt"), {})


def test_batch_that_is_not_two_halves_is_refused_before_scans_are_read(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtlp_components.checks.input_checks.list_volume_problems", lambda *_: pytest.fail("read"))
    work = method("bcp", tiny_dataset, tmp_path, batch_size_labeled=1)
    work.initialize()
    with pytest.raises(InputError, match="expected the same even number, because method bcp"):
        work.run()
