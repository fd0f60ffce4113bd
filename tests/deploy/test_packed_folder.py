# SPDX-License-Identifier: Apache-2.0
"""Nothing in a packed folder names a place on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from dtlp_components.deploy.pack import pack_bundle
from dtlp_components.errors import InputError
from dtlp_components.files import write_json
from dtlp_components.metrics.calibration import Calibration, checksum_of_weights, load_calibration
from dtlp_components.networks.vnet import VNet
from dtlp_components.own_data.command import new_bundle
from dtlp_components.run_folder import RunFolder
from tests.own_data.scans import labeled, unlabeled

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles/phantom_10"


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


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
    new_bundle("mine", labeled=str(place / "list.json"), unlabeled=str(place / "list.json"),
        skip_broken=True, features=2,
               output=str(tmp_path / "bundles"))  # fmt: skip
    bundle = tmp_path / "bundles/mine"
    remarks = load(bundle / "datalist.json")["notes"]
    assert [str(broken) in remarks[0], str(twin) in remarks[1], len(remarks)] == [True, True, 2]
    assert all(f"Note: {remark}" in capsys.readouterr().out for remark in remarks[:1])
    assert "_doe" not in (bundle / "docs/README.md").read_text(encoding="utf-8")
    settings = load(bundle / "configs/train.json")
    (bundle / "models").mkdir()
    network = VNet(num_classes=settings["num_classes"], features=settings["features"])
    torch.save(network.state_dict(), bundle / "models/model.pt")

    monkeypatch.setattr(
        "dtlp_components.deploy.pack.run_monai", lambda *words, **options: None
    )  # not what is tested here
    pack_bundle(str(bundle), str(tmp_path / "packed"))
    for file in (tmp_path / "packed/mine").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for secret in (str(tmp_path), str(tiny_dataset), "_doe"):
            assert secret.encode() not in content, file
    readme = (tmp_path / "packed/mine/docs/README.md").read_text(encoding="utf-8")
    assert "--config_file configs/train.json" in readme
    assert "Notes on individual scans (duplicates, or left out): 2" in readme


def test_folders_named_after_patients_are_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labeled(Path("jane_doe"))
    unlabeled(Path("john_doe"))
    bundle = new_bundle("mine", labeled="jane_doe", unlabeled="john_doe", features=2)
    (bundle / "models").mkdir()
    torch.save(VNet(num_classes=3, features=2).state_dict(), bundle / "models/model.pt")
    monkeypatch.setattr("dtlp_components.deploy.pack.run_monai", lambda *words, **options: None)
    pack_bundle(str(bundle), "packed")
    assert [f for f in Path("packed/mine").rglob("*") if f.is_file() and b"_doe" in f.read_bytes()] == []


@pytest.mark.parametrize("trained_since", [False, True])
def test_calibration_travels_with_the_weights_that_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained_since: bool
) -> None:
    place = RunFolder(tmp_path / "run")
    place.models.mkdir(parents=True)
    network = VNet(num_classes=7, features=8)
    torch.save(network.state_dict(), place.model)
    calibration = Calibration(0.7, checksum_of_weights(place.model), "validation", 30, 0.1, 0.05)
    write_json(place.calibration, calibration.content())
    if trained_since:
        torch.save(VNet(num_classes=7, features=8).state_dict(), place.model)
    monkeypatch.setattr("dtlp_components.deploy.pack.run_monai", lambda *words, **options: None)
    pack_bundle(str(BUNDLE), str(tmp_path / "packed"), str(place.root))
    packed = RunFolder(tmp_path / "packed/phantom_10")
    assert load_calibration(str(packed.model)) == (None if trained_since else calibration)
    assert packed.calibration.is_file() is not trained_since


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
    with pytest.raises(InputError, match=rf"{file} in the packed folder contains ~?/secret/lab/\w+\.[\w.]+, a path on"):
        pack_bundle(str(bundle), str(tmp_path / "out"), str(run))
    assert list((tmp_path / "out").iterdir()) == []
