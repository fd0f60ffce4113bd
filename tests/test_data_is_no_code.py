# SPDX-License-Identifier: Apache-2.0
"""
Expressions wherever a string of a file enters: labels, lists, ``dataset.json``, names of files and folders, metadata,
the record of a run. None may be executed, from making a bundle to segmenting with it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from dtlp_components.bundle.catalog import list_bundles
from dtlp_components.bundle.trained import find_trained
from dtlp_components.deploy.segment import segment_scans
from dtlp_components.errors import InputError
from dtlp_components.networks.vnet import VNet
from tests.own_data.scans import label, labeled, make, mr, save, unlabeled

MARK = "EXECUTED"
CODE = f"__import__('os').mkdir('{MARK}')"
PAYLOADS = [
    f"${CODE}",
    f" ${CODE}",
    f"\u00a0${CODE}",
    f"\t${CODE}",
    f"\u2003\u00a0 ${CODE}",
    f"\ufeff${CODE}",
    f"${CODE} or 'liver'",
    f"$[{CODE} for i in '1']",
    "@run",
    " @checks",
    "%names.json",
    "a#b",
    f"{{'_target_': 'os.mkdir', 'path': '{MARK}'}}",
    f"liver', {CODE}, '",
]
SETTINGS: dict[str, Any] = {"features": 4, "patch_size": [16, 32, 32]}


def names_in_a_file(payload: str) -> dict[str, Any]:
    Path("names.json").write_text(json.dumps({"0": "background", "1": payload, "2": "b"}))
    return {"labels": "names.json"}


def names_by_value(payload: str) -> dict[str, Any]:
    Path("names.json").write_text(json.dumps({"background": 0, payload: 1, "b": 2}))
    return {"labels": "names.json"}


def labels_of_dataset_json(payload: str) -> dict[str, Any]:
    content = {"labels": {"background": 0, payload: 1, "b": 2}, "name": payload, "description": payload}
    Path("site_a/dataset.json").write_text(json.dumps({**content, "channel_names": {"0": payload}}))
    return {}


def name_of_a_scan(payload: str) -> dict[str, Any]:
    save(Path("site_a/imagesTr", f"{payload}.nii.gz"), mr(7))
    save(Path("site_a/labelsTr", f"{payload}.nii.gz"), label(1, 2))
    save(Path("site_b", f"{payload}.nii.gz"), mr(8))
    return {}


def name_of_a_folder(payload: str) -> dict[str, Any]:
    labeled(Path(payload))
    unlabeled(Path(payload) / "more")
    return {"labeled": payload, "unlabeled": str(Path(payload) / "more")}


def list_of_somebody(payload: str) -> dict[str, Any]:
    item = {"image": "site_a/imagesTr/case0.nii.gz", "label": "site_a/labelsTr/case0.nii.gz", "domain": payload}
    other = {**item, "image": "site_a/imagesTr/case1.nii.gz", "label": "site_a/labelsTr/case1.nii.gz", payload: payload}
    content = {"training": [item, other], "name": payload, payload: [payload]}
    Path("list.json").write_text(json.dumps(content))
    return {"labeled": "list.json"}


def path_in_a_list(payload: str) -> dict[str, Any]:
    item = {"image": payload, "label": payload}
    Path("list.json").write_text(json.dumps({"training": [item, item]}))
    return {"labeled": "list.json"}


PLACES: list[Callable[[str], dict[str, Any]]] = [
    names_in_a_file, names_by_value, labels_of_dataset_json, name_of_a_scan, name_of_a_folder, list_of_somebody,
    path_in_a_list,
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    labeled(tmp_path / "site_a")
    unlabeled(tmp_path / "site_b")
    return tmp_path


def add_random_weights(bundle: Path, num_classes: int, record: Any = SETTINGS) -> None:
    (bundle / "models").mkdir()
    (bundle / "logs").mkdir(exist_ok=True)
    (bundle / "logs/model_settings.json").write_text(json.dumps(record))
    torch.save(VNet(num_classes=num_classes, features=4).state_dict(), bundle / "models/model.pt")


def look_at_everything(bundle: Path) -> None:
    """What a configuration says of data, then a scan's way through it; what is refused is refused."""
    for workflow in ("train", "evaluate", "inference"):
        config = json.loads((bundle / f"configs/{workflow}.json").read_text(encoding="utf-8"))
        parser = ConfigParser(config)
        for key in ("label_names", "prepare_hint", "dataset_dir", "datalist", "bundle_name"):
            parser.get_parsed_content(key)
        for key in ("train::dataset::data", "unlabeled::items", "dataset::data"):
            if key in parser:
                parser.get_parsed_content(key)
    with contextlib.suppress(InputError):
        segment_scans(str(bundle), "site_b", "out", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_string_of_a_file_is_text(place: Callable[[str], dict[str, Any]], payload: str, here: Path) -> None:
    flags = place(payload)
    made: Path | None = None
    with contextlib.suppress(InputError):
        made = make(**{**SETTINGS, **flags})
    if made is not None:
        add_random_weights(made, 3)
        look_at_everything(made)
        assert (here / "out/segmentations.csv").is_file()
    assert not (here / MARK).exists()


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_record_of_a_run_is_text(payload: str, here: Path) -> None:
    bundle = make(**SETTINGS)
    for name, record in enumerate(({**SETTINGS, "norm": payload}, {**SETTINGS, payload: 1}, {"run": [payload]})):
        other = Path(shutil.copytree(bundle, f"bundles/copy{name}"))
        add_random_weights(other, 3, record)
        with pytest.raises(InputError, match=r"model_settings\.json"):
            segment_scans(str(other), "site_b", "out", device="cpu")
        with pytest.raises(InputError, match=r"model_settings\.json"):
            find_trained(str(other))
    assert not (here / MARK).exists()


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_metadata_is_text(payload: str, here: Path) -> None:
    bundle = make(**SETTINGS)
    file = bundle / "configs/metadata.json"
    metadata = json.loads(file.read_text())
    metadata.update({"name": payload, "task": payload, "description": payload, "intended_use": payload})
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["1"] = payload
    file.write_text(json.dumps(metadata))
    add_random_weights(bundle, 3)
    look_at_everything(bundle)
    with contextlib.suppress(InputError):
        list_bundles()
    find_trained(str(bundle)).load_student()
    assert (here / "out/segmentations.csv").is_file() != payload.startswith(("$", "@", "%"))
    assert not (here / MARK).exists()


def test_expressions_would_be_executed_if_they_reached_a_configuration(here: Path) -> None:
    ConfigParser({"label_names": [PAYLOADS[0]]}).get_parsed_content("label_names")
    assert (here / MARK).exists()
