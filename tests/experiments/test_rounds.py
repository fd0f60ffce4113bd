# SPDX-License-Identifier: Apache-2.0
"""Rounds of labeling: what is refused, what each round trains on, and a tiny one to its end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.errors import InputError
from dtlp_components.experiments.command import run_experiment
from dtlp_components.experiments.rounds import read_rounds
from dtlp_components.run_folder import RunFolder
from tests import tiny
from tests.experiments.test_command import EXPERIMENT

ROUNDS: dict[str, Any] = {
    "title": "Tiny rounds",
    # the phantom's bundle with the classes of the tiny scans, see `bundle`
    "bundle": "bundles/phantom_10",
    "overrides": {
        **EXPERIMENT["overrides"], "max_iterations": 2, "ddim_steps": 1, "burn_in": 0.0, "num_classes": 3,
    },
    "strategies": ["random", "diverse"],
    "labels": [1, 2],
    "seeds": [0, 1],
    "pool": 4,
    "held_out": 2,
    "sections": ["testing"],
}  # fmt: skip


@pytest.fixture
def many(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Seven labeled scans: the tiny ones, and others like them."""
    folder = Path(shutil.copytree(tiny_dataset, tmp_path / "many"))
    content = json.loads((folder / "datalist.json").read_text())
    for i in range(5):
        scan, label = (nib.load(folder / f"training_{i % 2}{end}.nii.gz") for end in ("", "_label"))
        noise = np.random.default_rng(i).normal(0, 10, scan.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(np.asarray(scan.dataobj) + noise, scan.affine), folder / f"more_{i}.nii.gz")
        nib.save(label, folder / f"more_{i}_label.nii.gz")
        content["training"].append({"image": f"more_{i}.nii.gz", "label": f"more_{i}_label.nii.gz"})
    content["unlabeled"] = []
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree("bundles/phantom_10/configs", folder / "configs")
    for file in (folder / "configs").glob("*.json"):
        content = json.loads(file.read_text())
        if "label_names" in content:
            content |= {"label_names": tiny.CLASSES["label_names"], "num_classes": 3}
            file.write_text(json.dumps(content))
    return folder


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "rounds.json"
    content = {**ROUNDS, **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return file


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategies": ["best"]}, r"strategies: expected a list of random, .*, got \['best'\]"),
        ({"strategies": []}, "strategies: expected a list"),
        ({"labels": [4]}, r"labels: expected at least two numbers of labeled scans, got \[4\]"),
        ({"labels": None}, "labels: expected at least two numbers"),
        ({"labels": [4, "8"]}, "labels: expected at least two numbers"),
        ({"pool": -1}, "pool: expected a number of scans of at least 0, got -1"),
        ({"variants": {"a": {}, "b": {}}}, "variants: expected only one together with strategies, got 2"),
        ({"ratio": 1}, "expected keys among .*, got 'ratio'"),
    ],
)
def test_wrong_file_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_rounds(write(tmp_path, **changes), 1.0)


def test_file_without_strategies_has_no_rounds(tmp_path: Path) -> None:
    assert read_rounds(write(tmp_path, strategies=None), 1.0) is None


def test_shares_of_all_labels_are_numbers_of_scans(tmp_path: Path) -> None:
    rounds = read_rounds(write(tmp_path, labels=[0.25, 0.5, 1.0]), 1.0)
    assert rounds is not None
    assert rounds.counts(20, "x") == [5, 10, 20]
    with pytest.raises(InputError, match=r"expected increasing numbers of scans from 1 to the 2 labeled ones in x"):
        rounds.counts(2, "x")


def test_rounds_are_no_array_job(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected neither"):
        run_experiment(str(write(tmp_path)), output=str(tmp_path / "out"), slurm=str(tmp_path / "a.sh"))


def names(run: RunFolder, section: str) -> list[str]:
    return [Path(item["image"]).name for item in json.loads((run.root / "datalist.json").read_text())[section]]


@pytest.mark.slow
def test_rounds_reveal_labels_and_end_with_tables(
    tmp_path: Path, many: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(tmp_path), tmp_path / "out"
    for _ in range(2):  # the second finds everything done
        run_experiment(
            str(file), output=str(out), dataset_dir=str(many), datalist=str(many / "datalist.json"), bundle=str(bundle)
        )
    printed = capsys.readouterr().out
    assert printed.count("\nTiny rounds\n") == 2
    first, second = printed.split("\nTiny rounds\n")[1:]
    assert second.splitlines()[:9] == first.splitlines()[:9]
    assert "2 runs, 2 of them already done." in printed
    assert "these runs cannot tell" in first
    assert (out / "rounds_testing.png").stat().st_size > 10_000
    for seed in (0, 1):
        start = RunFolder(out / f"start/seed_{seed}/labels_1")
        rounds = [RunFolder(out / f"{name}/seed_{seed}/labels_2") for name in ("random", "diverse")]
        assert len(names(start, "training")) == 1
        assert len(names(start, "unlabeled")) == 3
        kept_back = set(names(start, "testing"))
        assert len(kept_back) == 2
        for run in rounds:
            assert set(names(start, "training")) < set(names(run, "training"))
            assert len(names(run, "unlabeled")) == 2
            assert not kept_back & {*names(run, "training"), *names(run, "unlabeled")}
            hidden = json.loads((run.root / "datalist.json").read_text())["unlabeled"]
            assert all("label" not in item for item in hidden)
