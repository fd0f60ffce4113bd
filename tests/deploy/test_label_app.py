# SPDX-License-Identifier: Apache-2.0
"""The app's folder: what is in it, with a training and without, and what is refused."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from dtlp_components.deploy.label_app import MAIN, write_label_app
from dtlp_components.errors import InputError
from dtlp_components.networks.weights import load_weights

BUNDLE = "bundles/phantom_10"
SETTINGS = {"features": 4, "patch_size": [16, 32, 32]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of other numbers than the bundle's, with weights and a checkpoint."""
    folder = tmp_path / "run"
    for name in ("models", "logs", "checkpoints"):
        (folder / name).mkdir(parents=True)
    parser = ConfigParser()
    parser.read_config(f"{BUNDLE}/configs/inference.json")
    parser.update(SETTINGS)
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "models/model.pt")
    (folder / "logs/model_settings.json").write_text(json.dumps(SETTINGS))
    (folder / "checkpoints/last.pt").write_bytes(b"teachers")
    return folder


def test_trained_bundle_has_its_numbers_weights_and_teachers(run: Path, tmp_path: Path) -> None:
    app = write_label_app(str(tmp_path / "app"), f"{BUNDLE}={run}")
    bundle = app / "model/phantom_10"
    for workflow in ("train", "inference"):
        content = json.loads((bundle / f"configs/{workflow}.json").read_text())
        assert {key: content[key] for key in SETTINGS} == SETTINGS
    assert (bundle / "models/model.pt").read_bytes() == (run / "models/model.pt").read_bytes()
    assert (bundle / "checkpoints/last.pt").read_bytes() == b"teachers"
    assert (bundle / "configs/multi_gpu_train.json").is_file()
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    load_weights(parser.get_parsed_content("network_def"), str(bundle / "models/model.pt"))


def test_bundle_without_a_training_starts_with_random_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("bundles/phantom_10/configs", tmp_path / "fresh/configs")
    app = write_label_app(str(tmp_path / "app"), str(tmp_path / "fresh"))
    assert (app / "model/fresh/models/model.pt").is_file()
    assert "fresh: no trained weights found, so it starts with random weights." in capsys.readouterr().out


def test_main_names_a_class_that_monai_label_finds() -> None:
    (imported,) = [node for node in ast.parse(MAIN).body if isinstance(node, ast.ImportFrom)]
    spec = importlib.util.find_spec(str(imported.module))
    assert spec is not None
    assert spec.origin is not None
    classes = [node for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.ClassDef)]
    (app,) = [node for node in classes if node.name == imported.names[0].name]
    # MONAI Label compares the names of direct bases
    assert [base.id for base in app.bases if isinstance(base, ast.Name)] == ["MONAILabelApp"]


def test_wrong_words_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="already exists; expected a new folder for the app"):
        write_label_app(str(tmp_path / "there"), BUNDLE)
    with pytest.raises(InputError, match="expected at least one bundle"):
        write_label_app(str(tmp_path / "app"))
    with pytest.raises(InputError, match="phantom_10: expected every bundle only once"):
        write_label_app(str(tmp_path / "app"), BUNDLE, BUNDLE)
    with pytest.raises(InputError, match="No weights at"):
        write_label_app(str(tmp_path / "app"), f"{BUNDLE}={tmp_path}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
