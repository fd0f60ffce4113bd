# SPDX-License-Identifier: Apache-2.0
"""Bundles in an unmodified MONAI Label server: information, inference, labels and training through its own client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from dtlp_components.deploy.pack import pack_bundle
from tests import tiny
from tests.monailabel.server import ROOT, Server, monailabel_client, running

pytestmark = [pytest.mark.monailabel, pytest.mark.slow]

PARAMETERS = {"device": "cpu", "result_dtype": "uint8"}
LABELED = ("training_0", "training_1", "validation_0")
STUDIES = (*LABELED, "unlabeled_0", "unlabeled_1", "unlabeled_2")
# what the packed bundle's weights were trained with and the repository's configuration does not say
PACKED = {"features": 8}
# a bundle's own numbers, edited in the copy that the server gets; it overrides others
TINY: dict[str, Any] = {
    **{key: tiny.FACTS[key] for key in tiny.FACTS if key != "device"},
    "spacing_mm": [1.5, 1.0, 1.0],
}
TINY_TRAINING: dict[str, Any] = {
    "ddim_steps": 1,
    "iterations_per_epoch": 1,
    "monitor_cases": 1,
    "log_interval": 10,
    # fifty iterations at 0.01 lead to background everywhere, at which nothing can be compared
    "learning_rate": 1e-4,
}


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file, by their ids."""
    parser = ConfigParser(json.loads(file.read_text(encoding="utf-8")))
    for id, value in changes.items():
        assert id in parser, id
        parser[id] = value
    file.write_text(json.dumps(parser.get()), encoding="utf-8")


def write_random_weights(bundle: Path, output_dir: Path, **settings: Any) -> None:
    """As docs/how-to/monai-label.md says to start without a trained model."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    parser.update(settings)
    torch.manual_seed(0)
    (output_dir / "models").mkdir(parents=True, exist_ok=True)
    torch.save(parser.get_parsed_content("network_def").state_dict(), output_dir / "models/model.pt")


def make_tiny_bundle(bundle: Path) -> None:
    """A copy of the phantom's bundle in the app, with tiny numbers and random weights."""
    shutil.copytree(ROOT / "bundles" / "phantom_10", bundle)
    edit(bundle / "configs/inference.json", **TINY)
    edit(bundle / "configs/train.json", **TINY, **TINY_TRAINING)
    names = {str(i): label for i, label in enumerate(TINY["label_names"])}
    edit(bundle / "configs/metadata.json", **{"network_data_format::outputs::pred::channel_def": names})
    write_random_weights(bundle, bundle)


def make_packed_bundle(app: Path, folder: Path) -> None:
    """
    The hippocampus bundle with a run's random weights and fewer features, packed as docs/how-to/monai-label.md says.
    """
    bundle, run = ROOT / "bundles/hippocampus_5", folder / "run"
    write_random_weights(bundle, run, **PACKED)
    (run / "logs").mkdir()
    (run / "logs/model_settings.json").write_text(json.dumps(PACKED))
    pack_bundle(str(bundle), str(folder / "packed"), str(run))
    shutil.copytree(folder / "packed/hippocampus_5", app / "model/hippocampus_5")
    edit(app / "model/hippocampus_5/configs/train.json", **{**TINY_TRAINING, "iterations_per_epoch": 2})


def write_torchrun(folder: Path) -> None:
    """The server's command is right but for its number of processes, which is that of the GPUs here, none: of two."""
    folder.mkdir()
    script = f'exec {sys.executable} -m torch.distributed.run "${{@/--nproc_per_node=0/--nproc_per_node=2}}"'
    (folder / "torchrun").write_text(f"#!/bin/bash\n{script}\n")
    (folder / "torchrun").chmod(0o755)


@pytest.fixture(scope="module")
def server(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two bundles and six studies, none of them labeled; the tests submit labels in their order."""
    folder = tmp_path_factory.mktemp("server")
    write_torchrun(folder / "bin")
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": path}
    command = [sys.executable, "-m", "monailabel.main"]
    subprocess.run(
        [*command, "apps", "--download", "--name", "monaibundle", "--output", str(folder)], check=True, env=environment
    )
    app, studies = folder / "monaibundle", folder / "studies"
    make_tiny_bundle(app / "model" / "phantom_10")
    make_packed_bundle(app, folder)
    studies.mkdir()
    for name in STUDIES:
        shutil.copy(tiny_dataset / f"{name}.nii.gz", studies)
    conf = {"models": "phantom_10,hippocampus_5", "zoo_source": "local", "sam2": "false"}
    words = [word for name, value in conf.items() for word in ("--conf", name, value)]
    with running(app, studies, folder, *words, PATH=path) as server:
        yield server


def segment(config: Path, images: Path, output: Path, **overrides: Any) -> dict[str, np.ndarray]:
    """Label maps of ``python -m monai.bundle run``, in a process of its own, by the scan's name."""
    words = {"config_file": config, "input": images, "prediction_dir": output, **overrides}
    flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", "run", *flags], check=True, cwd=ROOT)
    return {f.name.removesuffix("_seg.nii.gz"): np.asarray(nib.load(f).dataobj) for f in output.glob("*_seg.nii.gz")}


def assert_server_segments_like_the_command(
    server: Server, model: str, config: Path, images: Path, output: Path, **settings: Any
) -> None:
    """Every NIfTI file of a folder, sent to the server and segmented by the command line, with the server's weights."""
    expected = segment(config, images, output, model_file=server.app / "model" / model / "models/model.pt", **settings)
    files = sorted(images.glob("*.nii.gz"))
    assert len(files) == len(expected) > 0
    for file in files:
        found, answer = server.client.infer(model, "", PARAMETERS, file=str(file))
        label_map, scan = nib.load(found), nib.load(file)
        np.testing.assert_array_equal(np.asarray(label_map.dataobj), expected[file.name.removesuffix(".nii.gz")])
        np.testing.assert_allclose(label_map.affine, scan.affine, atol=1e-5)
        assert answer["label_names"] == server.client.info()["models"][model]["labels"]
    # maps of one class would be equal whatever was done
    assert len(np.unique(np.concatenate([label_map.ravel() for label_map in expected.values()]))) > 1


def test_server_knows_the_classes_and_offers_the_training(server: Server) -> None:
    info = server.client.info()
    assert info["models"]["phantom_10"]["labels"] == {"first": 1, "second": 2}
    assert info["models"]["hippocampus_5"]["labels"] == {"anterior": 1, "posterior": 2}
    assert info["trainers"]["phantom_10"]["config"]["max_epochs"] == 50
    assert info["datastore"]["total"] == len(STUDIES)


def test_server_segments_like_the_command(server: Server, tmp_path: Path) -> None:
    config = server.app / "model/phantom_10/configs/inference.json"
    assert_server_segments_like_the_command(server, "phantom_10", config, server.studies, tmp_path)


def test_server_offers_options_and_uses_them(server: Server, tmp_path: Path) -> None:
    options = server.client.info()["models"]["phantom_10"]["config"]
    assert options["keep_largest_component"] is False
    assert options["window_overlap"] == 0.5
    file = next(server.studies.glob("*.nii.gz"))
    config = server.app / "model/phantom_10/configs/inference.json"
    weights = server.app / "model/phantom_10/models/model.pt"
    expected = segment(config, file, tmp_path, model_file=weights, keep_largest_component=True)
    found, _ = server.client.infer("phantom_10", "", {**PARAMETERS, "keep_largest_component": True}, file=str(file))
    plain, _ = server.client.infer("phantom_10", "", {**PARAMETERS, "keep_largest_component": False}, file=str(file))
    (label_map,) = expected.values()
    np.testing.assert_array_equal(np.asarray(nib.load(found).dataobj), label_map)
    assert (np.asarray(nib.load(plain).dataobj) != label_map).any()  # random weights leave many parts


@pytest.mark.real_data
def test_server_segments_real_scans_like_the_command(server: Server, tmp_path: Path) -> None:
    if "DTLP_REAL_DATA" not in os.environ:
        pytest.skip("DTLP_REAL_DATA names no folder with real scans")
    images = tmp_path / "images"
    images.mkdir()
    for file in sorted(Path(os.environ["DTLP_REAL_DATA"], "hippocampus/imagesTr").glob("hippocampus_*.nii.gz"))[:3]:
        shutil.copy(file, images)
    # the packed bundle there, the repository's here
    config = ROOT / "bundles/hippocampus_5/configs/inference.json"
    assert_server_segments_like_the_command(server, "hippocampus_5", config, images, tmp_path / "out", **PACKED)


def test_broken_scan_gets_an_answer_and_the_server_stays(server: Server, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes((server.studies / f"{STUDIES[0]}.nii.gz").read_bytes()[:1000])
    with pytest.raises(monailabel_client.client.MONAILabelClientException):
        server.client.infer("phantom_10", "", PARAMETERS, file=str(broken))
    assert server.is_up()


def test_training_with_a_wrong_label_says_so_in_the_server_log(server: Server, tiny_dataset: Path) -> None:
    label = nib.load(tiny_dataset / "training_0_label.nii.gz")
    wrong = server.studies.parent / "wrong.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj) + np.uint8(5), label.affine), wrong)
    server.client.save_label("training_0", str(wrong), tag="final", params={})
    status, log = server.train("phantom_10")
    assert status == "ERROR"
    assert "final/training_0.nii.gz: expected only the values [0, 1, 2], got [5, 6, 7]. --num_classes is 3." in log
    assert "Traceback" not in log
    assert server.is_up()


def test_training_with_slicers_parameters_uses_the_studies_without_a_label(
    server: Server, tiny_dataset: Path, tmp_path: Path
) -> None:
    bundle = server.app / "model/phantom_10"
    earlier = (bundle / "models/model.pt").read_bytes()
    for name in LABELED:
        server.client.save_label(name, str(tiny_dataset / f"{name}_label.nii.gz"), tag="final", params={})
    # a prediction that somebody submitted is no label
    server.client.save_label("unlabeled_0", str(tiny_dataset / "training_0_label.nii.gz"), tag="original", params={})
    status, log = server.train("phantom_10")
    assert status == "DONE", log
    assert f"3 labeled and 3 unlabeled studies in {server.studies}" in log
    assert log.count("Training on 2 labeled and 3 unlabeled scans.") == 1  # of three, a fifth is one to validate on
    assert "The student goes on from" in log
    assert "50/50 " in log
    assert " mix " in log
    kept = [file.read_bytes() for file in (bundle / "checkpoints").glob("model-*.pt")]
    assert kept == [earlier]
    assert (bundle / "models/model.pt").read_bytes() != earlier
    config = server.app / "model/phantom_10/configs/inference.json"
    assert_server_segments_like_the_command(server, "phantom_10", config, server.studies, tmp_path)


@pytest.mark.parametrize("model", ["phantom_10", "hippocampus_5"])  # the repository's code, and a packed bundle's own
def test_several_processes_train_as_the_server_starts_them(server: Server, model: str) -> None:
    """On a machine with several GPUs it does so by itself; here it is forced to."""
    weights = server.app / "model" / model / "models/model.pt"
    earlier = weights.read_bytes()
    status, log = server.train(model, max_epochs=2, force_multi_gpu=True)
    assert status == "DONE", log
    assert "Return code: 0" in log, log  # MONAI Label reports success whatever it was
    assert log.count("A step takes 2 batches: 2 processes, accumulation_steps 1.") == 1
    assert log.count("Training on 2 labeled and 3 unlabeled scans.") == 1
    assert weights.read_bytes() != earlier


def test_packed_bundle_trains_with_the_code_in_its_folder(server: Server) -> None:
    bundle = server.app / "model/hippocampus_5"
    earlier = (bundle / "models/model.pt").read_bytes()
    status, log = server.train("hippocampus_5", max_epochs=1)
    assert status == "DONE", log
    assert log.count("Training on 2 labeled and 3 unlabeled scans.") == 1
    assert '"dtlp_components.' not in (bundle / "configs/train.json").read_text()
    assert (bundle / "models/model.pt").read_bytes() != earlier


def test_one_labeled_study_alone_trains(server: Server) -> None:
    for file in (*server.studies.glob("*.nii.gz"), *server.studies.glob("labels/*/*.nii.gz")):
        if file.name != "training_0.nii.gz":
            file.unlink()
    status, log = server.train("phantom_10", max_epochs=2)
    assert status == "DONE", log
    assert f"1 labeled and 0 unlabeled studies in {server.studies}" in log
    assert "No unlabeled scans: the student trains on true labels alone" in log
    assert "the teachers' decoders with those of" in log
