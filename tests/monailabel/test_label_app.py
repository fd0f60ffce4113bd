# SPDX-License-Identifier: Apache-2.0
"""The app of ``dtlp label-app`` in a running server: the loop of a clinic, from first labels to the next training."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.deploy.label_app import write_label_app
from tests.monailabel.server import Server, running
from tests.monailabel.test_server import STUDIES, TINY_TRAINING, edit, make_tiny_bundle

pytestmark = [pytest.mark.monailabel, pytest.mark.slow]

FIRST = ("training_0", "training_1", "validation_0")
SECONDS = 120


@pytest.fixture(scope="module")
def server(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one bundle that was not trained and six studies; the tests go on where the one before ended."""
    folder = tmp_path_factory.mktemp("app")
    make_tiny_bundle(folder / "phantom_10")
    edit(folder / "phantom_10/configs/train.json", **{**TINY_TRAINING, "burn_in": 0.0})
    app = write_label_app(str(folder / "app"), str(folder / "phantom_10"))
    studies = folder / "studies"
    studies.mkdir()
    for name in STUDIES:
        shutil.copy(tiny_dataset / f"{name}.nii.gz", studies)
    with running(app, studies, folder, "--conf", "proposals", "2") as found:
        yield found


def next_study(server: Server, strategy: str) -> dict[str, str]:
    found: dict[str, str] = server.client.next_sample(strategy, {})
    return found


def label(server: Server, data: Path, *names: str) -> None:
    for name in names:
        # those without a label of their own get that of another: what it says does not matter here
        source = data / f"{name}_label.nii.gz"
        file = source if source.is_file() else data / "training_0_label.nii.gz"
        server.client.save_label(name, str(file), tag="final", params={})


def wait_for_scores(server: Server, since: float) -> None:
    file, end = server.app / "model/phantom_10/study_scores.json", time.monotonic() + SECONDS
    while not (file.is_file() and file.stat().st_mtime > since and "Scores of phantom_10" in server.log):
        assert time.monotonic() < end, server.log[-3000:]
        time.sleep(0.5)


def split(server: Server) -> dict[str, str]:
    found: dict[str, str] = json.loads((server.app / "model/phantom_10/validation_split.json").read_text())
    return found


def test_app_offers_strategies_and_scores(server: Server) -> None:
    info = server.client.info()
    assert set(info["strategies"]) == {"random", "first", "disagreement", "diverse", "mixed"}
    assert set(info["scoring"]) == {"dtlp_phantom_10"}
    assert info["models"]["phantom_10"]["labels"] == {"first": 1, "second": 2}
    assert info["trainers"]["phantom_10"]["config"]["max_epochs"] == 50


def test_next_study_is_drawn_before_anything_is_scored(server: Server) -> None:
    assert next_study(server, "disagreement")["id"] in STUDIES


def test_training_uses_studies_without_a_label_and_remembers_its_validation(server: Server, tiny_dataset: Path) -> None:
    began = time.time()
    label(server, tiny_dataset, *FIRST)
    status, log = server.train("phantom_10", max_epochs=2)
    assert status == "DONE", log[-3000:]
    assert "2 labeled studies for training, 3 unlabeled." in log
    assert "Training on 2 labeled and 3 unlabeled scans." in log
    assert sorted(split(server).values()) == ["training", "training", "validation"]
    wait_for_scores(server, began)


def test_scores_stand_in_the_studies_infos_and_proposals_wait_for_correction(server: Server) -> None:
    infos = server.client.datastore()["objects"]
    assert all("dtlp_phantom_10" in infos[name]["image"]["info"] for name in STUDIES)
    end = time.monotonic() + SECONDS
    while len(files := sorted((server.studies / "labels/original").glob("*.nii.gz"))) < 2:
        assert time.monotonic() < end, server.log[-3000:]
        time.sleep(0.5)
    assert len(files) == 2
    for file in files:
        name = file.name.removesuffix(".nii.gz")
        assert name.startswith("unlabeled_")
        proposal, scan = nib.load(file), nib.load(server.studies / file.name)
        assert proposal.shape == scan.shape
        np.testing.assert_allclose(proposal.affine, scan.affine, atol=1e-5)
        info = server.client.datastore()["objects"][name]["labels"]["original"]["info"]
        assert info["dtlp"]["source"] == "ensemble"


@pytest.mark.parametrize("strategy", ["disagreement", "diverse", "mixed"])
def test_next_study_comes_with_its_reason_and_not_twice(server: Server, strategy: str) -> None:
    found = [next_study(server, strategy) for _ in range(3)]
    assert sorted(study["id"] for study in found) == ["unlabeled_0", "unlabeled_1", "unlabeled_2"]
    assert all(study["reason"] for study in found)
    assert Path(found[0]["path"]).name == f"{found[0]['id']}.nii.gz"


def test_later_training_validates_on_the_same_study(server: Server, tiny_dataset: Path) -> None:
    before = split(server)
    label(server, tiny_dataset, "unlabeled_0", "unlabeled_1")
    status, log = server.train("phantom_10", max_epochs=1)
    assert status == "DONE", log[-3000:]
    (validated,) = [name for name, part in before.items() if part == "validation"]
    assert f"validation_split.json: {validated}\n" in log
    assert split(server) == {**before, "unlabeled_0": "training", "unlabeled_1": "training"}
    assert "The student goes on from" in log


def test_batch_inference_leaves_a_label_map_of_each_study_to_correct(server: Server) -> None:
    import requests

    url = f"{server.client._server_url}/batch/infer/phantom_10?images=unlabeled&run_sync=true"
    # without a GPU, MONAI Label 0.8.5 divides by their number, unless it is told that there are none
    words = {"device": "cpu", "max_workers": 1, "multi_gpu": False, "label_tag": "batch"}
    answer = requests.post(url, json=words, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    assert [file.name for file in (server.studies / "labels/batch").glob("*.nii.gz")] == ["unlabeled_2.nii.gz"]
