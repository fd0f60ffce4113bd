# SPDX-License-Identifier: Apache-2.0
"""
What MONAI Label 0.8.5 does with a bundle, done without MONAI Label: a call of ``monai.bundle.run`` with its overrides,
a preprocessing of items with its entries. tests/monailabel has the server itself.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Invertd, LoadImaged

from dtlp_components import load_weights
from dtlp_components.errors import InputError
from tests import tiny

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "bundles"
DOC = ROOT / "docs/how-to/monai-label.md"
INFERENCE = sorted(BUNDLES.glob("*/configs/inference.json"))
# a bundle's own numbers, edited in its copy: the server overrides other keys
TINY: dict[str, Any] = {
    **{key: value for key, value in {**tiny.FACTS, **tiny.TRAINING}.items() if key not in ("device", "max_iterations")},
    "iterations_per_epoch": 2,
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the phantom's bundle in the server's app, with tiny numbers."""
    folder = Path(shutil.copytree(BUNDLES / "phantom_10", tmp_path / "app" / "model" / "phantom_10"))
    config = json.loads((folder / "configs/train.json").read_text())
    assert TINY.keys() <= config.keys()
    (folder / "configs/train.json").write_text(json.dumps({**config, **TINY}))
    return folder


@pytest.fixture
def studies(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A server's studies: three with a final label, three without."""
    folder = tmp_path / "studies"
    final = folder / "labels" / "final"
    final.mkdir(parents=True)
    for name in ("training_0", "training_1", "validation_0"):
        shutil.copy(tiny_dataset / f"{name}.nii.gz", folder)
        shutil.copy(tiny_dataset / f"{name}_label.nii.gz", final / f"{name}.nii.gz")
    for name in ("unlabeled_0", "unlabeled_1", "unlabeled_2"):
        shutil.copy(tiny_dataset / f"{name}.nii.gz", folder)
    return folder


def items(studies: Path, *names: str) -> list[dict[str, str]]:
    return [
        {"image": str(studies / f"{name}.nii.gz"), "label": str(studies / "labels/final" / f"{name}.nii.gz")}
        for name in names
    ]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONAI_LABEL_STUDIES", raising=False)


@pytest.fixture
def train(bundle: Path, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """
    Train as the server does: its folder as working directory, its variable, its overrides, Slicer's empty run id.

    Returns the lines of the log.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONAI_LABEL_STUDIES", str(studies))
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("dtlp")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])

    def run(
        labeled: list[dict[str, str]],
        validation: list[dict[str, str]],
        max_epochs: int = 2,
        pretrained: bool = True,
        run_id: str = "",
    ) -> list[str]:
        lines.clear()
        config = ConfigParser()
        config.read_config(str(bundle / "configs/train.json"))
        handlers = config.get("train#handlers")
        model = bundle / "models/model.pt"
        if pretrained and model.exists():
            loader = {"load_path": str(model), "load_dict": {"model": "$@network"}, "strict": False}
            handlers.insert(0, {"_target_": "CheckpointLoader", **loader})
        monai.bundle.run(
            run_id=run_id,
            init_id=None,
            final_id=None,
            meta_file=str(bundle / "configs/metadata.json"),
            config_file=str(bundle / "configs/train.json"),
            **{
                "bundle_root": str(bundle),
                "train#trainer#max_epochs": max_epochs,
                "train#dataset#data": labeled,
                "device": "cpu",
                "train#handlers": handlers,
                "validate#dataset#data": validation,
            },
        )
        return list(lines)

    return run


def count(lines: list[str], start: str) -> int:
    return sum(line.startswith(start) for line in lines)


@pytest.mark.slow
def test_studies_without_a_label_are_trained_on(train, bundle: Path, studies: Path) -> None:
    lines = train(items(studies, "training_0", "training_1"), items(studies, "validation_0"))
    assert f"3 labeled and 3 unlabeled studies in {studies}; labeled: 2 for training, 1 for validation." in lines
    assert lines.count("Training on 2 labeled and 3 unlabeled scans.") == 1  # an empty run id trains once
    assert count(lines, "4/4 ") == 1  # two epochs of two iterations
    assert [file.name for file in (bundle / "models").iterdir()] == ["model.pt"]


@pytest.mark.slow
def test_schedules_follow_the_length_that_the_server_asks_for(train, bundle: Path, studies: Path) -> None:
    # the phantom's: 400 iterations, unlabeled volumes from half of the training on
    lines = train(items(studies, "training_0"), [], max_epochs=3, run_id="run")
    progress = [line for line in lines if "/6 " in line]
    assert len(progress) == 6
    assert ["mix" in line for line in progress] == [False, False, False, True, True, True]
    assert "learning_rate 0.0100" not in progress[-1]


def test_one_labeled_study_and_no_other_is_labeled_only(train, bundle: Path, studies: Path) -> None:
    for file in studies.glob("*.nii.gz"):
        if file.name != "training_0.nii.gz":
            file.unlink()
    lines = train(items(studies, "training_0"), [])
    assert "Training on 1 labeled and 0 unlabeled scans." in lines
    assert count(lines, "No unlabeled scans: the student trains on true labels alone") == 1
    assert (bundle / "models/model.pt").is_file()


@pytest.mark.slow
def test_next_training_goes_on_from_the_model_and_keeps_it(train, bundle: Path, studies: Path) -> None:
    model = bundle / "models/model.pt"
    train(items(studies, "training_0"), [])
    earlier = model.read_bytes()
    # as long as the server's, but its weights move by nothing: what comes out is what went in
    config = json.loads((bundle / "configs/train.json").read_text())
    (bundle / "configs/train.json").write_text(json.dumps({**config, "learning_rate": 1e-30}))
    before = torch.load(model, weights_only=True)
    lines = train(items(studies, "training_0", "training_1"), [])
    assert count(lines, f"The student goes on from {model}, the teachers' decoders with those of") == 1
    after = torch.load(model, weights_only=True)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)
    kept = [file.read_bytes() for file in (bundle / "checkpoints").glob("model-*.pt")]
    assert kept == [earlier]


def test_no_label_yet_is_said_in_words(train, studies: Path) -> None:
    with pytest.raises(InputError, match=f"{studies}: expected at least one MONAI Label study with a submitted"):
        train([], [])


def test_broken_study_is_named_before_anything_is_loaded(train, bundle: Path, studies: Path) -> None:
    broken = studies / "unlabeled_1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{broken}: truncated"):
        train(items(studies, "training_0"), [])
    assert not (bundle / "checkpoints").exists()


def test_without_a_server_the_datalist_names_the_unlabeled_scans() -> None:
    config = json.loads((BUNDLES / "phantom_10/configs/train.json").read_text())
    parser = ConfigParser({**config, "datalist": "/nowhere/datalist.json"})
    assert parser.get_parsed_content("studies_dir") is None
    with pytest.raises(InputError, match="datalist not found: /nowhere"):
        parser.get_parsed_content("unlabeled::items")


@pytest.mark.slow
def test_random_weights_of_the_docs_are_those_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"^python - <<'END'\n(.+?)^END$", DOC.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    shutil.copytree(BUNDLES / "hippocampus_5", tmp_path / "apps/monaibundle/model/hippocampus_5")
    subprocess.run(
        [sys.executable, "-c", snippet], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    config = json.loads((BUNDLES / "hippocampus_5/configs/inference.json").read_text())
    network = ConfigParser(config).get_parsed_content("network_def")
    load_weights(network, str(tmp_path / "apps/monaibundle/model/hippocampus_5/models/model.pt"))


@pytest.mark.parametrize(("value", "expected"), [("", None), ("/data/studies", "/data/studies")])
def test_only_a_variable_with_a_value_makes_a_training_that_of_a_server(
    value: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONAI_LABEL_STUDIES", value)
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / "phantom_10/configs/train.json"))
    assert parser.get_parsed_content("studies_dir") == expected


@pytest.mark.parametrize("config", INFERENCE, ids=lambda path: path.parents[1].name)
def test_preprocessing_takes_the_entries_that_the_server_adds(config: Path, tiny_dataset: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(config))
    preprocessing = parser.get_parsed_content("preprocessing")
    for transform in preprocessing.transforms:
        if isinstance(transform, LoadImaged):
            transform._loader.image_only = False
    image = str(tiny_dataset / "testing_0.nii.gz")
    request = {"model": "m", "image_path": image, "image_tags": [], "label_info": None, "device": "cpu"}
    item = preprocessing({"image": image, **request})
    assert {key: item[key] for key in request} == request
    item["pred"] = item["image"].clone()
    invert = Invertd("pred", preprocessing, "image", nearest_interp=False, to_tensor=True)
    assert invert(item)["pred"].shape == (1, 20, 18, 22)


@pytest.mark.parametrize("file", INFERENCE, ids=lambda file: file.parent.parent.name)
def test_options_that_a_viewer_sets_are_the_ones_that_are_used(file: Path) -> None:
    parser = ConfigParser(json.loads(file.read_text(encoding="utf-8")))
    # what the server shows at its start, and what it does with a request before it preprocesses
    options = parser.get_parsed_content("displayable_configs")
    assert options == {"window_overlap": 0.5, "window_batch_size": 4, "keep_largest_component": False}
    parser["displayable_configs"].update({"window_overlap": 0.25, "window_batch_size": 3})
    parser.parse()
    inferer = parser.get_parsed_content("inferer")
    assert (inferer.overlap, inferer.sw_batch_size) == (0.25, 3)
    kept = [type(t).__name__ for t in parser.get_parsed_content("postprocessing").transforms]
    parser["displayable_configs"].update({"keep_largest_component": True})
    parser.parse()
    with_largest = [type(t).__name__ for t in parser.get_parsed_content("postprocessing").transforms]
    assert {*with_largest} - {*kept} == {"KeepLargestComponentd"}
