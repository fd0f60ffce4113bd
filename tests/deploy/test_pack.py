# SPDX-License-Identifier: Apache-2.0
"""Packing: a folder that runs without this project, is checked by MONAI, and replaces nothing of anybody's."""

from __future__ import annotations

import ast
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
import numpy as np
import pytest
import torch
from monai.bundle import verify_metadata

from dtlp_components.bundle.run_monai import ISOLATED
from dtlp_components.bundle.trained import find_trained
from dtlp_components.deploy.pack import pack_bundle, packed_readme, vendored
from dtlp_components.deploy.path_leaks import PATH
from dtlp_components.errors import InputError
from dtlp_components.networks.vnet import VNet
from dtlp_components.own_data.command import new_bundle

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles/phantom_10"
SETTINGS = {"num_classes": 7, "features": 2, "spacing_mm": [1.0, 1.0, 1.0], "patch_size": [16, 32, 48]}
# names under which packages are installed, where those of their modules differ
INSTALLED_AS = {"ignite": "pytorch-ignite", "skimage": "scikit-image"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training leaves: random weights of a tiny student, their settings, and scores."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network = VNet(num_classes=SETTINGS["num_classes"], features=SETTINGS["features"])
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models/model.pt")
    (folder / "logs").mkdir()
    (folder / "logs/model_settings.json").write_text(json.dumps(SETTINGS))
    (folder / "evaluation").mkdir()
    scores = {"section": "testing", "convention": "native: mm", "units": {"dice": "%", "asd": "mm"}, "cases": 8}
    scores |= {"mean": {"dice": 61.256, "asd": None}, "std": {"dice": 2.5, "asd": None}}
    (folder / "evaluation/testing_summary.json").write_text(json.dumps(scores))
    return folder


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
    expected |= {"configs/inference.json", "configs/logging.conf", "docs/README.md", "docs/data_license.txt"}
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
def test_configurations_and_metadata_have_the_settings_of_the_training(packed: Path) -> None:
    for workflow in ("train", "evaluate", "inference"):
        config = load(packed / f"configs/{workflow}.json")
        assert {key: config[key] for key in SETTINGS} == SETTINGS
        assert config["bundle_root"] == "."
    metadata = load(packed / "configs/metadata.json")
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 32, 48]
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 7
    assert metadata["pytorch_version"] == torch.__version__.partition("+")[0]
    assert metadata["required_packages_version"]["nibabel"] == version("nibabel")


@pytest.mark.slow
def test_nothing_names_the_package_by_its_own_name(packed: Path) -> None:
    for file in [*packed.glob("configs/*.json"), *packed.glob("scripts/**/*.json")]:
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
    with pytest.raises(InputError, match=r"holds models/mine\.pt, changed or added"):
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
    with pytest.raises(InputError, match=r"\.zip: exists and was not written by this command"):
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
    with pytest.raises(InputError, match=r"bundle_name in configs/inference\.json is '\.\./other'"):
        pack_bundle(str(bundle), str(tmp_path / "out"), str(run))
    assert not (tmp_path / "out").exists()


def test_incomplete_bundle_is_told_what_is_missing(run: Path, tmp_path: Path) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    (tmp_path / "bundle/docs/data_license.txt").unlink()
    with pytest.raises(InputError, match=r"no complete bundle; docs/data_license\.txt not found"):
        pack_bundle(str(tmp_path / "bundle"), str(tmp_path / "out"), str(run))


def test_failing_check_in_the_packed_folder_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtlp_components.bundle.run_monai.ISOLATED", "raise SystemExit('no such network')")
    with pytest.raises(InputError, match="(?s)failed in the packed folder .*no such network"):
        pack_bundle(str(BUNDLE), str(tmp_path), str(run))
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/out: cannot be written to"):
        pack_bundle(str(BUNDLE), str(tmp_path / "file/out"), str(run))


def test_targets_at_any_depth_are_rewritten_and_texts_are_not() -> None:
    config = {
        "a": [{"_target_": "dtlp_components.VNet", "note": "dtlp_components.VNet"}],
        "train::x::_target_": "dtlp_components.DualTeacher",
        "b": {"_target_": "monai.networks.nets.VNet"},
    }
    assert vendored(config) == {
        "a": [{"_target_": "scripts.dtlp_components.VNet", "note": "dtlp_components.VNet"}],
        "train::x::_target_": "scripts.dtlp_components.DualTeacher",
        "b": {"_target_": "monai.networks.nets.VNet"},
    }


def test_bundle_made_from_scans_does_not_name_them_when_packed(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items = load(tiny_dataset / "datalist.json")
    listed = {name: items[name] for name in ("training", "unlabeled", "testing")}
    for item in (item for section in listed.values() for item in section):
        item.update({key: str(tiny_dataset / path) for key, path in item.items()})
    # two scans that are remarked on, in a place with a space, which the command has in quotes
    place = tmp_path / "saint mary"
    place.mkdir()
    twin, broken = place / "jane_doe.nii.gz", place / "john_doe.nii.gz"
    shutil.copyfile(listed["unlabeled"][0]["image"], twin)
    nib.save(nib.Nifti1Image(np.full((9, 8, 7), np.nan, np.float32), np.eye(4)), broken)
    listed["unlabeled"] += [{"image": str(twin)}, {"image": str(broken)}]
    (place / "list.json").write_text(json.dumps(listed))
    new_bundle("mine", labeled=str(place / "list.json"), unlabeled=str(place / "list.json"), skip_broken=True, features=2,
               output=str(tmp_path / "bundles"))  # fmt: skip
    bundle = tmp_path / "bundles/mine"
    remarks = load(bundle / "datalist.json")["notes"]
    assert [str(broken) in remarks[0], str(twin) in remarks[1], len(remarks)] == [True, True, 2]
    assert all(f"Note: {remark}" in capsys.readouterr().out for remark in remarks[:1])
    assert "_doe" not in (bundle / "docs/README.md").read_text(encoding="utf-8")
    settings = load(bundle / "configs/inference.json")
    (bundle / "models").mkdir()
    network = VNet(num_classes=settings["num_classes"], features=settings["features"])
    torch.save(network.state_dict(), bundle / "models/model.pt")

    monkeypatch.setattr("dtlp_components.deploy.pack.run_monai", lambda *_, **__: None)  # not what is tested here
    pack_bundle(str(bundle), str(tmp_path / "packed"))
    for file in (tmp_path / "packed/mine").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for secret in (str(tmp_path), str(tiny_dataset), "_doe"):
            assert secret.encode() not in content, file
    readme = (tmp_path / "packed/mine/docs/README.md").read_text(encoding="utf-8")
    assert "--config_file configs/train.json" in readme
    assert "Remarks on single scans (repeated, or left out): 2" in readme


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("docs/README.md", "The scan `/secret/lab/c1.nii.gz` (labeled) is the same as another."),
        ("docs/README.md", "mlflow ui --backend-store-uri sqlite:////secret/lab/mlruns.db"),
        ("docs/data_license.txt", "Terms: ~/secret/lab/terms.pdf"),
        ("configs/logging.conf", "args=('/secret/lab/log.txt',)"),
    ],
)
def test_text_that_names_a_path_is_refused(run: Path, tmp_path: Path, file: str, text: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    with (bundle / file).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{text}\n")
    with pytest.raises(InputError, match=rf"{file} of the packed folder holds [~]?/secret/lab/\w+\.[\w.]+, a path of"):
        pack_bundle(str(bundle), str(tmp_path / "out"), str(run))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "value",
    [
        "/home/me/secret/x",
        "$'/home/me/secret' + '/x'",
        "$os.path.join(@dataset_dir, '/home/me/secret')",
        "$f'/home/me/secret/{@bundle_name}'",
        "$'~/home/me/secret'",
        "$@bundle_name + ' /home/me/secret'",
    ],
)
def test_configuration_that_names_a_path_is_refused(run: Path, tmp_path: Path, value: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    config = load(bundle / "configs/train.json") | {"cache_dir": value}
    (bundle / "configs/train.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"train\.json, cache_dir: .* holds ~?/home/me/secret.*, a path of this machine"
    ):
        pack_bundle(str(bundle), str(tmp_path / "out"), str(run))
    assert not (tmp_path / "out").exists()


def test_what_goes_on_from_a_folder_is_no_path_of_its_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtlp_components.deploy.pack.run_monai", lambda *_, **__: None)  # not what is tested here
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    for value in (
        "$@output_dir + '/cache/x'",
        "$f'{@output_dir}/cache/x'",
        "$@output_dir + '/%s/x' % 'a'",
        "$'/'.join(['a'])",
    ):
        config = load(bundle / "configs/train.json") | {"cache_dir": value}
        (bundle / "configs/train.json").write_text(json.dumps(config))
        pack_bundle(str(bundle), str(tmp_path / "out"), str(run), overwrite=True)
        assert load(tmp_path / "out/phantom_10/configs/train.json")["cache_dir"] == value


@pytest.mark.parametrize(
    "text",
    ["https://a.org/b/c", "$DATA/imagesTr/a", "and/or/not", "left / right", "2>/dev/null", "a #!/usr/bin/env", "`<id>/a/b`",
     "sqlite:///$PWD/mlruns.db", "sqlite:///mlruns.db", "bundles/*/configs/a", "../a/b", "./a/b", "~5 / 10", "<br />"],
)  # fmt: skip
def test_what_only_looks_like_a_path_is_none(text: str) -> None:
    assert PATH.search(text) is None


def test_readme_of_a_packed_bundle_speaks_of_its_own_folder(run: Path) -> None:
    text = (BUNDLE / "docs/README.md").read_text(encoding="utf-8")
    readme = packed_readme(text, find_trained(str(BUNDLE), str(run)), {"../../../docs/images/demo.png": "demo.png"})
    assert "../../.." not in readme and "bundles/phantom_10" not in readme and "repository" not in readme
    assert "python -m scripts.dtlp_components phantom" in readme
    assert "](demo.png)" in readme
    assert "--config_file configs/inference.json" in readme and "$PWD/mlruns.db" in readme
    assert "| `features` | 2 | 8 |" in readme  # as trained, and as in the project
    assert "| testing | 8 | 61.26 ± 2.50 | – |" in readme
    assert readme.index("### The weights in this folder") < readme.index("## MONAI Bundle Commands")


def test_scores_older_than_the_weights_are_not_theirs(run: Path) -> None:
    summary = run / "evaluation/testing_summary.json"
    before = summary.stat()
    os.utime(summary, (0, 0))
    try:
        readme = packed_readme("# Title\n", find_trained(str(BUNDLE), str(run)))
    finally:
        os.utime(summary, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "Their scores were not measured." in readme


def test_metadata_requires_every_package_that_is_imported() -> None:
    # the Model Zoo installs nothing else
    metadata = load(BUNDLE / "configs/metadata.json")
    required = {"monai", "torch", "numpy", *metadata["required_packages_version"]}
    imported = set()
    for file in (ROOT / "dtlp_components").rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:  # optional ones are imported in functions
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").partition(".")[0])
    others = imported - set(sys.stdlib_module_names)
    assert "tqdm" in others
    assert {INSTALLED_AS.get(name, name) for name in others} <= required
