# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of public names, as a reader would paste them."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch

import dtlp_components
from dtlp_components import parts

EXAMPLES = [name for name in parts.__all__ if ">>>" in (inspect.getdoc(getattr(parts, name)) or "")]
# made from a whole configuration, from DICOM or for a tracker, so that a few lines would show nothing
WITHOUT = {
    "DTLPTrainer",
    "MLflowLog",
    "MLflowScores",
    "MethodTrainer",
    "PredictionReport",
    "TrainingScreens",  # a training that runs; tests/handlers/test_training_screens.py
    "RunRecordKeeper",  # in RunRecord's
    "TrainingCheckpoint",
    "WriteDicomSegd",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_and_prints_what_it_says(name: str) -> None:
    typed = {"torch": torch} | {public: getattr(dtlp_components, public) for public in parts.__all__}
    torch.manual_seed(0)
    text = inspect.getdoc(getattr(parts, name)) or ""
    said: list[str] = []
    test = doctest.DocTestParser().get_doctest(text, typed, name, None, 0)
    failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not failed, "".join(said)


def test_every_public_class_has_an_example() -> None:
    classes = {name for name in parts.__all__ if inspect.isclass(getattr(parts, name))}
    assert classes - set(EXAMPLES) == WITHOUT
