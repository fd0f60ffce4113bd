# SPDX-License-Identifier: Apache-2.0
"""Packing: a folder that runs without this project, is checked by MONAI, and replaces nothing of anybody's."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import torch
from monai.bundle import verify_metadata

from dtlp_components.bundle.run_monai import ISOLATED
from dtlp_components.deploy.pack import pack_bundle
from dtlp_components.errors import InputError

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles/phantom_10"
# names under which packages are installed, where those of their modules differ
INSTALLED_AS = {"ignite": "pytorch-ignite", "skimage": "scikit-image"}


@pytest.fixture(scope="module")
def packed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("packed")
    pack_bundle(str(BUNDLE), str(output), str(run), torchscript=True)
    return output / "phantom_10"


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def monai(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of MONAI in a folder, in a process that cannot import the project's package."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", ISOLATED, *words],
        capture_output=True, text=True, cwd=folder, env=environment, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_packed_folder_holds_what_the_bundle_specification_asks_for(packed: Path) -> None:
    expected = {"LICENSE", "configs/metadata.json", "configs/train.json", "configs/evaluate.json", "models/model.ts"}
    expected |= {
        "configs/methods/uamt.json",
        "configs/inference.json",
        "configs/logging.conf",
        "docs/README.md",
        "docs/data_license.txt",
    }
    expected |= {"models/model.pt", "scripts/__init__.py", "scripts/dtlp_components/__init__.py", "docs/demo.png"}
    assert expected <= files(packed)
    assert not [path for path in files(packed) if "__pycache__" in path or path.startswith(("logs", "checkpoints"))]


@pytest.mark.slow
def test_every_checksum_is_that_of_its_file(packed: Path) -> None:
    lines = [line.split("  ") for line in (packed / "SHA256SUMS").read_text().splitlines()]
    assert {path for _, path in lines} == files(packed) - {"SHA256SUMS"}
    for digest, path in lines:
        assert digest == hashlib.sha256((packed / path).read_bytes()).hexdigest(), path


@pytest.mark.slow
def test_zip_holds_the_same_files(packed: Path) -> None:
    with zipfile.ZipFile(packed.parent / "phantom_10_v0.1.0.zip") as archive:
        assert archive.testzip() is None
        names = {name.removeprefix("phantom_10/") for name in archive.namelist() if not name.endswith("/")}
    assert names == files(packed)


@pytest.mark.slow
def test_configurations_and_metadata_have_the_settings_of_the_training(run: Path, packed: Path) -> None:
    settings = load(run / "logs/model_settings.json")
    for workflow in ("train", "evaluate", "inference"):
        config = load(packed / f"configs/{workflow}.json")
        assert settings
        assert {key: config[key] for key in settings} == settings
        assert config["bundle_root"] == "."
    metadata = load(packed / "configs/metadata.json")
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 32, 48]
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 7
    assert metadata["pytorch_version"] == torch.__version__.partition("+")[0]
    assert metadata["required_packages_version"]["nibabel"] == version("nibabel")


@pytest.mark.slow
def test_nothing_names_the_package_by_its_own_name(packed: Path) -> None:
    for file in [*packed.glob("configs/**/*.json"), *packed.glob("scripts/**/*.json")]:
        assert '"dtlp_components.' not in file.read_text(encoding="utf-8"), file
    assert '"scripts.dtlp_components.VNet"' in (packed / "configs/inference.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_scans_are_segmented_where_the_project_is_not_installed(
    packed: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    arguments = ["--config_file", "configs/inference.json", "--prediction_dir", str(tmp_path), "--device", "cpu"]
    result = monai(packed, "run", *arguments, "--input", str(tiny_dataset / "testing_0.nii.gz"))
    assert result.returncode == 0, result.stderr
    (written,) = tmp_path.glob("*.nii.gz")
    assert nib.load(written).shape == nib.load(tiny_dataset / "testing_0.nii.gz").shape


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif("DTLP_REAL_DATA" not in os.environ, reason="needs the schema, which lies with the real scans")
def test_metadata_passes_the_official_schema(packed: Path) -> None:
    pytest.importorskip("jsonschema")
    schema = Path(os.environ["DTLP_REAL_DATA"], "meta_schema_20240725.json")
    verify_metadata(
        meta_file=str(packed / "configs/metadata.json"),
        filepath=str(schema),
        hash_val="06954cad2cc5d3784e72077ac76f0fc8",
    )  # raises if it does not


@pytest.mark.slow
def test_packed_again_only_over_its_own_unchanged_files(
    run: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtlp_components.deploy.pack.run_monai", lambda *_, **__: None)  # what it checks was checked
    output = tmp_path / "out"
    output.mkdir()
    with zipfile.ZipFile(packed.parent / "phantom_10_v0.1.0.zip") as archive:
        archive.extractall(output)
    with pytest.raises(InputError, match="exists; add --overwrite True"):
        pack_bundle(str(BUNDLE), str(output), str(run))
    (output / "phantom_10/models/mine.pt").write_text("mine")
    with pytest.raises(InputError, match=r"contains models/mine\.pt, changed or added"):
        pack_bundle(str(BUNDLE), str(output), str(run), overwrite=True)
    (output / "phantom_10/models/mine.pt").unlink()
    pack_bundle(str(BUNDLE), str(output), str(run), overwrite=True)  # without model.ts this time
    assert files(output / "phantom_10") == files(packed) - {"models/model.ts"}
    assert sorted(path.name for path in output.iterdir()) == ["phantom_10", "phantom_10_v0.1.0.zip"]


def test_folder_of_somebody_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "phantom_10").mkdir()
    (tmp_path / "phantom_10/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and was not written by this command"):
        pack_bundle(str(BUNDLE), str(tmp_path), str(run), overwrite=True)
    assert files(tmp_path) == {"phantom_10/notes.txt"}


def test_zip_of_somebody_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "phantom_10_v0.1.0.zip", "w") as archive:
        archive.writestr("notes.txt", "mine")
    with pytest.raises(InputError, match=r"\.zip: already exists and was not written by this command"):
        pack_bundle(str(BUNDLE), str(tmp_path), str(run), overwrite=True)


def test_bundle_without_weights_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No weights at .*model\.pt\. Train first .*--run_dir"):
        pack_bundle(str(BUNDLE), str(tmp_path / "out"), str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_name_that_leads_elsewhere_is_refused(run: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    config = load(bundle / "configs/inference.json") | {"bundle_name": "../other"}
    (bundle / "configs/inference.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"bundle_name in configs/inference\.json: expected .*, got '\.\./other'"):
        pack_bundle(str(bundle), str(tmp_path / "out"), str(run))
    assert not (tmp_path / "out").exists()


def test_incomplete_bundle_is_told_what_is_missing(run: Path, tmp_path: Path) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    (tmp_path / "bundle/docs/data_license.txt").unlink()
    with pytest.raises(InputError, match=r"expected a complete bundle, got one without docs/data_license\.txt"):
        pack_bundle(str(tmp_path / "bundle"), str(tmp_path / "out"), str(run))


def test_failing_check_in_the_packed_folder_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtlp_components.bundle.run_monai.ISOLATED", "raise SystemExit('no such network')")
    with pytest.raises(InputError, match=r"(?s)failed in the packed folder .*no such network"):
        pack_bundle(str(BUNDLE), str(tmp_path), str(run))
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/out: cannot be written to"):
        pack_bundle(str(BUNDLE), str(tmp_path / "file/out"), str(run))
