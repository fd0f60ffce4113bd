# SPDX-License-Identifier: Apache-2.0
"""What no one would make by hand: sound inputs, changed at random, are used or refused in words, nothing else."""

# Each kind changes a sound input by a fixed seed and asks who reads it. An error of any other kind than InputError
# would end in a traceback. `python -m tests.test_bad_inputs` prints how many of each kind are refused.

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from dtlp_components.checks.input_checks import InputChecks
from dtlp_components.checks.settings import Settings
from dtlp_components.checks.trained_settings import record_of
from dtlp_components.data.datalists import load_datalist
from dtlp_components.data.readers import load_volume
from dtlp_components.data.scans import find_images
from dtlp_components.data.segmentations import read_table
from dtlp_components.data.volumes import scan_problems
from dtlp_components.errors import InputError
from dtlp_components.keys import DatalistKeys
from dtlp_components.networks.vnet import VNet
from dtlp_components.networks.weights import load_weights
from dtlp_components.own_data.find import find_scans
from dtlp_components.run_folder import RunFolder
from tests.conftest import _write_series
from tests.damaged import noise, save
from tests.pairs import pair

STRANGE: list[Any] = [
    None, True, False, 0, -1, 1e308, 2**70, "", " ", "\0", "\ud800", "a" * 300, "$1", "@x", "%x", "../..", "/", ".",
    "x.nii.gz", [], {}, [[]], [None], {"image": 1}, {"": ""}, "\n", "é", "NaN",
]  # fmt: skip


def changed_json(content: Any, dice: random.Random) -> Any:
    """A copy with a value somewhere in it replaced, taken away, doubled or under another key."""
    content = json.loads(json.dumps(content))
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            collect(node[key])

    collect(content)
    node, key = dice.choice(places)
    how = dice.randrange(5)
    if how == 0:
        del node[key]
    elif how == 1 and isinstance(node, list):
        node.append(node[key])
    elif how == 2 and isinstance(node, dict):
        node[dice.choice(["", "$x", "imag", "labels", "\ud800"])] = node.pop(key)
    else:
        node[key] = dice.choice(STRANGE)
    return content


def changed_bytes(content: bytes, dice: random.Random, first: int) -> bytes:
    """A copy, cut off, or with some of its first bytes, or of all, changed."""
    changed = bytearray(content)
    if dice.random() < 0.1:
        return bytes(changed[: dice.randrange(len(changed))])
    for _ in range(dice.choice([1, 1, 2, 5])):
        changed[dice.randrange(min(first, len(changed)))] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
    return bytes(changed)


def write_json(file: Path, content: Any, dice: random.Random) -> None:
    text = json.dumps(content)
    file.write_text(text[: dice.randrange(len(text))] if dice.random() < 0.1 else text)


def ask_datalist(folder: Path, dice: random.Random) -> None:
    names = "abcd"
    items = [{**pair(folder, name), "domain": "x", "patient": name} for name in names]
    content = {
        "labels": {"0": "background", "1": "a"}, "training": items[:2], "validation": items[2:3],
        "unlabeled": [{"image": items[3]["image"], "published_box": [[0, 2], [0, 2], [0, 2]]}],
    }  # fmt: skip
    file = folder / "datalist.json"
    write_json(file, changed_json(content, dice), dice)
    lists = {
        name: load_datalist(str(file), section, str(folder))
        for name, section in (("labeled", "training"), ("unlabeled", "unlabeled"), ("validation", "validation"))
    }
    settings = Settings({"num_classes": 2, "patch_size": [16, 32, 48], "norm": "instance"})
    InputChecks(**lists, settings=settings, datalist=str(file))()


def ask_dataset_json(folder: Path, dice: random.Random) -> None:
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    for name in ("a_0000", "b_0000"):
        save(folder / f"imagesTr/{name}.nii.gz", noise())
        save(folder / f"labelsTr/{name[0]}.nii.gz", noise())
    content = {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "numTraining": 2,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    write_json(folder / "dataset.json", changed_json(content, dice), dice)
    find_scans(str(folder), DatalistKeys.TRAINING)


def judge(path: Path) -> None:
    if problems := scan_problems(str(path)):
        raise InputError(" ".join(problems))
    voxels, affine = load_volume(str(path))
    assert np.isfinite(voxels).all()
    assert voxels.ndim == 3
    assert abs(np.linalg.det(affine)) > 0


def ask_nifti(folder: Path, dice: random.Random) -> None:
    content = save(folder / "a.nii", noise()).read_bytes()
    (folder / "a.nii").write_bytes(changed_bytes(content, dice, nib.Nifti1Header.sizeof_hdr))
    judge(folder / "a.nii")


def ask_compressed_nifti(folder: Path, dice: random.Random) -> None:
    content = save(folder / "a.nii.gz", noise()).read_bytes()
    (folder / "a.nii.gz").write_bytes(changed_bytes(content, dice, len(content)))
    judge(folder / "a.nii.gz")


def ask_dicom(folder: Path, dice: random.Random) -> None:
    series = _write_series(folder / "ct", np.arange(240).reshape(6, 5, 8))
    for file in dice.sample(sorted(series.iterdir()), dice.choice([1, 1, 2])):
        file.write_bytes(changed_bytes(file.read_bytes(), dice, 900))
    for item in find_images(str(folder)):
        judge(Path(item["image"]))


def ask_weights(folder: Path, dice: random.Random) -> None:
    network = VNet(features=2)
    file = folder / "model.pt"
    torch.save(network.state_dict(), file)
    content = file.read_bytes()
    file.write_bytes(changed_bytes(content, dice, len(content)))
    load_weights(network, str(file))


def ask_record(folder: Path, dice: random.Random) -> None:
    run = RunFolder(folder)
    run.logs.mkdir()
    content = {
        "features": 4,
        "norm": "instance",
        "num_classes": 3,
        "patch_size": [16, 32, 16],
        "spacing_mm": [1, 1, 2.0],
    }
    write_json(run.model_settings, changed_json(content, dice), dice)
    record_of(run)


def ask_table(folder: Path, dice: random.Random) -> None:
    text = "scan,label_map,seconds,problem\n/a/b.nii,b_seg.nii.gz,1.0,\n/a/c.nii,,,broken\n"
    (folder / "segmentations.csv").write_bytes(changed_bytes(text.encode(), dice, len(text)))
    for row in read_table(folder):
        assert row["scan"]
        assert row["label_map"]


KINDS: dict[Callable[[Path, random.Random], None], int] = {
    ask_datalist: 120, ask_dataset_json: 60, ask_nifti: 150, ask_compressed_nifti: 60, ask_dicom: 120, ask_weights: 60,
    ask_record: 80, ask_table: 30,
}  # fmt: skip


def is_refused(ask: Callable[[Path, random.Random], None], folder: Path, seed: int) -> bool:
    """Whether an input is refused, in a sentence; anything but InputError is raised."""
    said = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ask(folder, random.Random(seed))
        except InputError as error:
            said = str(error)
    assert not said or len(said) > 20
    assert "Traceback" not in said
    assert "weights_only=False" not in said
    return bool(said)


@pytest.mark.parametrize("ask", KINDS, ids=lambda ask: ask.__name__)
def test_changed_input_is_used_or_refused_in_words(ask: Callable[[Path, random.Random], None], tmp_path: Path) -> None:
    if ask is ask_dicom:
        pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")
    refused = 0
    for seed in range(KINDS[ask]):
        folder = tmp_path / str(seed)
        folder.mkdir()
        refused += is_refused(ask, folder, seed)
        shutil.rmtree(folder)
    assert refused > 0 or ask is ask_table


if __name__ == "__main__":
    print("| kind | tried | refused in words | used | anything else |\n|---|---|---|---|---|")
    for kind, number in KINDS.items():
        counts = {True: 0, False: 0, None: 0}
        for seed in range(number):
            with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()):
                try:
                    counts[is_refused(kind, Path(place), seed)] += 1
                except Exception as error:
                    counts[None] += 1
                    print(seed, repr(error)[:200], file=sys.__stderr__)
        print(f"| {kind.__name__[4:]} | {number} | {counts[True]} | {counts[False]} | {counts[None]} |", flush=True)
