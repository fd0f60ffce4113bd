# SPDX-License-Identifier: Apache-2.0
"""The package's public names: none is imported with the package, all of them with the first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

import dtlp_components
from dtlp_components import parts

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_one_of_the_package() -> None:
    assert dtlp_components.__all__ == parts.__all__
    assert set(parts.__all__) <= set(dir(dtlp_components))
    assert all(getattr(dtlp_components, name) is getattr(parts, name) for name in parts.__all__)
    assert not hasattr(dtlp_components, "VNett")


def test_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'VNett'"):
        _ = dtlp_components.VNett


def test_configuration_finds_a_public_name() -> None:
    parser = ConfigParser({"ramp": {"_target_": "dtlp_components.SigmoidRampUp", "length": 10}})
    assert isinstance(parser.get_parsed_content("ramp"), parts.SigmoidRampUp)


@pytest.mark.slow
def test_first_public_name_imports_all_parts_and_the_package_none() -> None:
    # MONAI Label unloads a packed copy of the package: what is imported later would be missing
    snippet = """
import sys, json, dtlp_components
print(json.dumps(sorted(sys.modules)))
from dtlp_components import LabelDiffusion
print(json.dumps(sorted(sys.modules)))
for name in dtlp_components.__all__:
    getattr(dtlp_components, name)
print(json.dumps(sorted(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, check=True, capture_output=True, text=True)
    package, one, all_names = (set(json.loads(line)) for line in result.stdout.splitlines()[-3:])
    assert not {"torch", "monai", "dtlp_components.parts"} & package
    assert one == all_names
    assert "dtlp_components.engines.trainer" in one


@pytest.mark.slow
@pytest.mark.parametrize(("given", "expected"), [(None, "True"), ("false", "False")])
def test_mlflow_reports_to_nobody_unless_told_to(given: str | None, expected: str) -> None:
    # MLflow is silent by itself under pytest and in CI, which a user is not
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {} if given is None else {"MLFLOW_DISABLE_TELEMETRY": given}
    snippet = (
        "import monai.bundle, dtlp_components; from mlflow.telemetry.utils import is_telemetry_disabled as f; "
        "print(f())"
    )
    command = [sys.executable, "-c", snippet]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert result.stdout.split()[-1] == expected
