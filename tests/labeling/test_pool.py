# SPDX-License-Identifier: Apache-2.0
"""Scans around a training: found, looked at once, and looked at again when something changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from dtlp_components.errors import InputError
from dtlp_components.labeling import pool as module
from dtlp_components.labeling.pool import Pool, find_pool
from tests.labeling.trained import Trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Trained:
    return Trained.make(tmp_path_factory.mktemp("trained"), tiny_dataset)


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


@pytest.mark.slow
def test_scans_are_those_of_the_datalist_or_of_a_folder(trained: Trained, tmp_path: Path) -> None:
    pool = trained.pool()
    assert names(pool.unlabeled) == ["unlabeled_0.nii.gz", "unlabeled_1.nii.gz", "unlabeled_2.nii.gz"]
    assert names(pool.labeled) == ["training_0.nii.gz", "training_1.nii.gz"]
    assert pool.has_teachers
    # a folder in which a labeled one lies as well, under a link
    shutil.copy(trained.data / "testing_0.nii.gz", tmp_path / "new.nii.gz")
    os.symlink(trained.data / "training_0.nii.gz", tmp_path / "old.nii.gz")
    assert names(trained.pool(unlabeled=str(tmp_path)).unlabeled) == ["new.nii.gz"]


@pytest.mark.slow
def test_opinions_are_kept_until_scan_or_weights_change(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(trained.data, tmp_path / "data"))
    pool, cache = trained.pool(dataset_dir=str(data), datalist=str(data / "datalist.json")), tmp_path / "opinions.json"
    found, problems = pool.opinions(pool.unlabeled, cache)
    assert problems == []
    assert all("foreground_disagreement" in opinion.scores for opinion in found.values() if opinion.scores)
    assert len({tuple(opinion.features) for opinion in found.values()}) == 3
    looked: list[str] = []
    judge = module.judge_scan
    monkeypatch.setattr(module, "judge_scan", lambda path, *rest: looked.append(path) or judge(path, *rest))
    assert pool.opinions(pool.unlabeled, cache)[0] == found
    assert looked == []
    shutil.copy(data / "testing_0.nii.gz", data / "unlabeled_1.nii.gz")
    again, _ = pool.opinions(pool.unlabeled, cache)
    assert names(looked) == ["unlabeled_1.nii.gz"]
    assert again[looked[0]] != found[looked[0]]
    content = json.loads(cache.read_text())
    cache.write_text(json.dumps({**content, "weights": {"model.pt": "of another training"}}))
    looked.clear()
    pool.opinions(pool.unlabeled, cache)
    assert len(looked) == 3


@pytest.mark.slow
def test_broken_scan_is_left_out_and_named(trained: Trained, tmp_path: Path) -> None:
    data = Path(shutil.copytree(trained.data, tmp_path / "data"))
    (data / "unlabeled_1.nii.gz").write_bytes(b"no scan")
    pool: Pool = trained.pool(dataset_dir=str(data), datalist=str(data / "datalist.json"))
    found, (problem,) = pool.opinions(pool.unlabeled, tmp_path / "opinions.json")
    assert names(list(found)) == ["unlabeled_0.nii.gz", "unlabeled_2.nii.gz"]
    assert "unlabeled_1.nii.gz" in problem


@pytest.mark.slow
def test_training_without_teachers_has_none(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    (tmp_path / "run/checkpoints/last.pt").unlink()
    assert not trained.pool(output_dir=str(tmp_path / "run")).has_teachers


def test_missing_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No weights at"):
        find_pool("bundles/phantom_10", str(tmp_path))


@pytest.mark.slow
def test_no_scan_is_refused(trained: Trained, tmp_path: Path) -> None:
    content = json.loads((trained.data / "datalist.json").read_text())
    (tmp_path / "datalist.json").write_text(json.dumps({**content, "unlabeled": []}))
    with pytest.raises(InputError, match="section `unlabeled`: expected scans without a label, got none"):
        trained.pool(datalist=str(tmp_path / "datalist.json"))
