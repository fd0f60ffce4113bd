# SPDX-License-Identifier: Apache-2.0
"""Resuming, switches and bad input, with the phantom's bundle on tiny volumes; test_datasets runs all bundles."""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from dtlp_components.deploy.segment import segment_scans
from dtlp_components.errors import InputError
from tests import tiny

# the phantom's seven classes become the three of tiny_dataset
TRAINING: dict[str, Any] = {**tiny.TRAINING, "ddim_steps": 2, "max_iterations": 2, "val_interval": 2}


def workflow(
    bundle: Path, config: str, data: Path, output: Path, overlay: str = "", **overrides: Any
) -> ConfigWorkflow:
    numbers = {**tiny.FACTS, **(TRAINING if config == "train" else {})}
    return ConfigWorkflow(
        workflow_type="train" if config == "train" else "infer",
        config_file=[str(bundle / "configs" / f"{name}.json") for name in (config, *([overlay] if overlay else []))],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=str(bundle / "configs" / "logging.conf"),
        dataset_dir=str(data),
        datalist=str(data / "datalist.json"),
        output_dir=str(output),
        **{**numbers, **overrides},
    )


def run(work: ConfigWorkflow) -> None:
    work.initialize()
    work.run()
    work.finalize()


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set that a test may spoil."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "data"))


PHANTOM = Path("bundles/phantom_10")


def losses_of(work: ConfigWorkflow, stop_after: int | None = None) -> dict[int, float]:
    """Run a training and record its total loss; ``stop_after`` breaks it off in the middle of an iteration's event."""
    losses: dict[int, float] = {}
    work.initialize()
    trainer = work.parser.get_parsed_content("train::trainer")

    def record(engine: Any) -> None:
        losses[engine.state.iteration] = float(engine.state.output["loss"])
        if engine.state.iteration == stop_after:
            raise KeyboardInterrupt

    trainer.add_event_handler(Events.ITERATION_COMPLETED, record)
    try:
        trainer.run()
    except KeyboardInterrupt:
        assert stop_after is not None
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_run_has_the_losses_of_an_uninterrupted_one(data: Path, tmp_path: Path, num_workers: int) -> None:
    numbers = {
        "max_iterations": 6,
        "iterations_per_epoch": 2,
        "val_interval": 1,
        "dropout": 0.2,
        "recycling": 0.5,
        "num_workers": num_workers,
    }
    whole = losses_of(workflow(PHANTOM, "train", data, tmp_path / "whole", **numbers))
    first = losses_of(workflow(PHANTOM, "train", data, tmp_path / "cut", **numbers), stop_after=3)
    rest = losses_of(workflow(PHANTOM, "train", data, tmp_path / "cut", resume=True, **numbers))
    assert list(whole) == [1, 2, 3, 4, 5, 6]
    assert list(first) == [1, 2, 3]
    assert list(rest) == [3, 4, 5, 6]  # the last checkpoint is that of iteration 2
    assert {**first, **rest} == pytest.approx(whole, rel=1e-6)
    final = [torch.load(tmp_path / name / "models" / "model.pt", weights_only=True) for name in ("whole", "cut")]
    for name, value in final[0].items():
        torch.testing.assert_close(final[1][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_mlflow_record_of_a_killed_run_is_continued_on_resume_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    now = iter(f"2025010{day}-000000" for day in range(1, 9))
    clock = SimpleNamespace(
        localtime=time.localtime,
        monotonic=time.monotonic,
        strftime=lambda text, *at: time.strftime(text, *at) if at else next(now),
    )
    monkeypatch.setattr("dtlp_components.handlers.checkpoints.time", clock)
    numbers = {"mlflow": True, "max_iterations": 3, "monitor_cases": 0, "val_interval": 1}
    output = tmp_path / "out"

    def records() -> dict[str, str]:
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{output}/mlruns.db")
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        # but for the random digits at its end
        return {re.sub("-[0-9a-f]{4}$", "", run.info.run_name): run.info.status for run in client.search_runs(ids)}

    first, second = (f"phantom_10_seed0_2025010{day}-000000" for day in (1, 2))
    losses_of(workflow(PHANTOM, "train", data, output, **numbers), stop_after=2)
    assert records() == {first: "RUNNING"}
    losses_of(workflow(PHANTOM, "train", data, output, **numbers), stop_after=2)
    assert records() == {first: "RUNNING", second: "RUNNING"}
    losses_of(workflow(PHANTOM, "train", data, output, resume=True, **numbers))
    assert records() == {first: "RUNNING", second: "FINISHED"}
    losses_of(workflow(PHANTOM, "train", data, output, run_name="mine", **numbers), stop_after=1)
    assert records() == {first: "RUNNING", second: "FINISHED", "mine": "RUNNING"}


@pytest.mark.slow
def test_resume_without_a_checkpoint_starts_from_the_beginning(data: Path, tmp_path: Path) -> None:
    assert list(losses_of(workflow(PHANTOM, "train", data, tmp_path / "out", resume=True))) == [1, 2]


@pytest.mark.slow
def test_resuming_a_finished_run_trains_no_further(data: Path, tmp_path: Path) -> None:
    losses_of(workflow(PHANTOM, "train", data, tmp_path / "out"))
    before = (tmp_path / "out" / "models" / "model.pt").read_bytes()
    assert losses_of(workflow(PHANTOM, "train", data, tmp_path / "out", resume=True)) == {}
    assert (tmp_path / "out" / "models" / "model.pt").read_bytes() == before


@pytest.mark.slow
def test_resume_with_another_length_is_refused(data: Path, tmp_path: Path) -> None:
    losses_of(workflow(PHANTOM, "train", data, tmp_path / "out"))
    with pytest.raises(InputError, match="total_iterations was 2, is 5"):
        losses_of(workflow(PHANTOM, "train", data, tmp_path / "out", resume=True, max_iterations=5))


@pytest.mark.slow
def test_new_run_keeps_the_files_of_an_earlier_one(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    losses_of(workflow(PHANTOM, "train", data, output))
    earlier = (output / "models" / "model.pt").read_bytes()
    losses_of(workflow(PHANTOM, "train", data, output, seed=1))
    kept = list((output / "checkpoints").glob("model-*.pt"))
    assert [file.read_bytes() for file in kept] == [earlier]
    assert (output / "models" / "model.pt").read_bytes() != earlier


@pytest.mark.slow
def test_labeled_only_baseline_says_so_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = workflow(PHANTOM, "train", data, tmp_path / "out", batch_size_unlabeled=0)
    work.initialize()
    trainer = work.parser.get_parsed_content("train::trainer")
    outputs: list[set[str]] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(set(engine.state.output)))
    messages: list[str] = []  # not caplog: logging.conf takes its handler away
    monkeypatch.setattr(logging.getLogger("dtlp"), "warning", messages.append)
    trainer.run()
    assert outputs == [{"image", "label", "loss", "student_labeled", "grad_norm", "learning_rate"}] * 2
    assert sum("labeled-only baseline" in message for message in messages) == 1


@pytest.mark.slow
def test_no_validation_list_is_fine_and_the_last_weights_are_kept(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "datalist.json").read_text())
    content["validation"] = []
    (data / "datalist.json").write_text(json.dumps(content))
    run(workflow(PHANTOM, "train", data, tmp_path / "out"))
    assert (tmp_path / "out" / "models" / "model.pt").is_file()
    assert not (tmp_path / "out" / "checkpoints" / "best.pt").exists()


@pytest.mark.slow
def test_overlay_paper_trains(data: Path, tmp_path: Path) -> None:
    work = workflow(PHANTOM, "train", data, tmp_path / "out", overlay="paper")
    work.initialize()
    assert work.parser.get_parsed_content("weights")["student_labeled"] == 0
    assert work.parser.get_parsed_content("gumbel") is True
    work.run()
    assert (tmp_path / "out" / "models" / "model.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        {"norm": "batch", "patch_size": [16, 16, 32], "correlation_stage": 1, "correlation_detach": True},
        {"norm": "group", "export_ema": False, "selection": "best", "decoder_aggregation": 0.01},
        {"amp": True, "difficulty_source": "difficulty", "mask_block": 8, "cutmix_labeled_probability": 1.0},
        {"channels_last": False, "weights::u": 1.0, "weights::kd": 0.0, "weights::rec": 0.0, "blur_sigma": 0.0},
        {"batch_size_unlabeled": 5, "batch_size_labeled": 1, "ema_period": 2, "monitor_cases": 0},
    ],
    ids=lambda switches: next(iter(switches)),
)
def test_switches_work(data: Path, tmp_path: Path, switches: dict[str, Any]) -> None:
    run(workflow(PHANTOM, "train", data, tmp_path / "out", **switches))
    assert (tmp_path / "out" / "models" / "model.pt").is_file()


def spoil_json(data: Path, change: Callable[[dict], None]) -> None:
    content = json.loads((data / "datalist.json").read_text())
    change(content)
    (data / "datalist.json").write_text(json.dumps(content))


def first(data: Path, key: str) -> Path:
    return data / json.loads((data / "datalist.json").read_text())["training"][0][key]


def missing_file(data: Path) -> dict:
    first(data, "image").unlink()
    return {}


def truncated_nifti(data: Path) -> dict:
    file = first(data, "image")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return {}


def different_shape(data: Path) -> dict:
    file = first(data, "label")
    label = nib.load(file)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[1:], label.affine), file)
    return {}


def large_label(data: Path) -> dict:
    file = first(data, "label")
    label = nib.load(file)
    values = np.asarray(label.dataobj).copy()
    values[0, 0, 0] = 3
    nib.save(nib.Nifti1Image(values, label.affine), file)
    return {}


def empty_training(data: Path) -> dict:
    spoil_json(data, lambda content: content.update(training=[]))
    return {}


def wrong_patch(data: Path) -> dict:
    return {"patch_size": [16, 20, 32]}


def not_json(data: Path) -> dict:
    (data / "datalist.json").write_text("{training: []}")
    return {}


def no_datalist(data: Path) -> dict:
    (data / "datalist.json").unlink()
    return {}


def one_voxel_deep_down(data: Path) -> dict:
    return {"patch_size": [16, 16, 16]}


def two_voxels_deep_down(data: Path) -> dict:
    return {"patch_size": [16, 32, 16]}


def text_for_a_flag(data: Path) -> dict:
    return {"amp": "true"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_file, r"\.nii\.gz"),
        (truncated_nifti, r"\.nii\.gz"),
        (different_shape, r"got shape \[19, 18, 22\]"),
        (large_label, r"3"),
        (empty_training, r"training"),
        (wrong_patch, r"16"),
        (not_json, r"datalist\.json.*line 1"),
        (no_datalist, r"datalist\.json.*(?s:.)*phantom --output"),
        (text_for_a_flag, r"amp"),
        (one_voxel_deep_down, r"one voxel"),
        (two_voxels_deep_down, r"such as \[32, 32, 32\], or --norm group, .*two voxels"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_input_stops_before_training(
    data: Path, tmp_path: Path, spoil: Callable[[Path], dict], message: str
) -> None:
    overrides = spoil(data)
    work = workflow(PHANTOM, "train", data, tmp_path / "out", **overrides)
    with pytest.raises(InputError, match=message):
        run(work)
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.slow
def test_mistyped_override_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(PHANTOM / "configs" / "train.json")
    monkeypatch.setattr(
        sys, "argv", ["monai.bundle", "run", "training", "--config_file", config, "--learnign_rate", "1"]
    )
    with pytest.raises(InputError, match=r"learnign_rate.*(?s:.)*learning_rate"):
        run(workflow(PHANTOM, "train", data, tmp_path / "out"))


@pytest.mark.slow
def test_patch_larger_than_a_volume_is_padded(data: Path, tmp_path: Path) -> None:
    run(workflow(PHANTOM, "train", data, tmp_path / "out", patch_size=[32, 48, 32], monitor_cases=0, max_iterations=1))
    assert (tmp_path / "out" / "models" / "model.pt").is_file()


@pytest.mark.slow
def test_augmentation_on_the_device_draws_what_the_processor_draws(data: Path, tmp_path: Path) -> None:
    losses = {}
    for on_device in (False, True):
        work = workflow(PHANTOM, "train", data, tmp_path / str(on_device), augment_on_device=on_device)
        losses[on_device] = losses_of(work)
        kinds = [type(step).__name__ for step in work.parser.get_parsed_content("train::augmentation").transforms]
        assert kinds.count("EnsureTyped") == 1 + on_device
    assert losses[True] == losses[False]


def test_augmentation_on_the_device_is_refused_with_processes_that_load(data: Path, tmp_path: Path) -> None:
    work = workflow(PHANTOM, "train", data, tmp_path / "run", augment_on_device=True, num_workers=2)
    with pytest.raises(InputError, match="--num_workers: expected 0 with --augment_on_device True, got 2"):
        work.initialize()


def test_inference_takes_dicom_series_beside_nifti(data: Path, tmp_path: Path, write_series: Any) -> None:
    losses_of(workflow(PHANTOM, "train", data, tmp_path / "out", max_iterations=1))
    folder = tmp_path / "in"
    voxels = np.random.default_rng(0).integers(0, 200, (20, 18, 11))
    places = [write_series(folder / patient / "1.2.840.7", voxels) for patient in ("p1", "p2")]
    shutil.copy(data / "testing_0.nii.gz", folder)
    run(workflow(PHANTOM, "inference", data, tmp_path / "out", input=str(folder)))
    written = sorted((tmp_path / "out/predictions").glob("*.nii.gz"))
    names = ["p1_1.2.840.7_seg.nii.gz", "p2_1.2.840.7_seg.nii.gz", "testing_0_seg.nii.gz"]
    assert [file.name for file in written] == names
    prediction = nib.load(written[0])
    assert prediction.shape == (20, 18, 11)
    # LPS in steps of columns, rows and slices
    np.testing.assert_allclose(prediction.affine, np.diag([-0.75, -0.5, 2.0, 1.0]), atol=1e-5)

    (places[1] / "slice05.dcm").unlink()
    work = workflow(PHANTOM, "inference", data, tmp_path / "out", input=str(folder))
    work.initialize()
    with pytest.raises(
        InputError,
        match=r"p2/1\.2\.840\.7: expected 11 slices .* got 10: 1 missing, first from slice04",
    ):
        work.run()


@pytest.mark.slow
def test_segment_maps_the_disagreement_of_the_teachers_of_a_checkpoint(data: Path, tmp_path: Path) -> None:
    losses_of(workflow(PHANTOM, "train", data, tmp_path / "out", max_iterations=1))
    scan, weights = data / "testing_0.nii.gz", str(tmp_path / "out/models/model.pt")

    def segment(output: Path, checkpoint: str) -> None:
        segment_scans(
            str(PHANTOM),
            str(scan),
            str(output),
            weights,
            checkpoint,
            device="cpu",
            label_names=tiny.CLASSES["label_names"],
        )

    for output in (tmp_path / "first", tmp_path / "second"):
        segment(output, str(tmp_path / "out/checkpoints/last.pt"))
    first, second = (nib.load(tmp_path / name / "testing_0_disagreement.nii.gz") for name in ("first", "second"))
    assert first.shape == nib.load(scan).shape
    values = np.asarray(first.dataobj)
    assert 0 <= values.min() < values.max() <= np.log2(3)  # four opinions, three classes
    np.testing.assert_array_equal(values, np.asarray(second.dataobj))  # the diffusion teacher's noise has a seed
    with pytest.raises(InputError, match=r"model\.pt: expected the checkpoints/last\.pt of a training"):
        segment(tmp_path / "third", weights)
    with pytest.raises(InputError, match=r"No checkpoint at .*nowhere\.pt"):
        segment(tmp_path / "third", "nowhere.pt")
    losses_of(workflow(PHANTOM, "train", data, tmp_path / "out", max_iterations=1, batch_size_unlabeled=0))
    with pytest.raises(
        InputError, match=r"last\.pt: expected a training run with --batch_size_unlabeled greater than 0, got"
    ):
        segment(tmp_path / "third", str(tmp_path / "out/checkpoints/last.pt"))


@pytest.mark.slow
def test_inference_of_an_empty_folder_is_an_error(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    work = workflow(PHANTOM, "inference", data, tmp_path / "out", input=str(tmp_path / "empty"))
    work.initialize()
    with pytest.raises(InputError, match="empty"):
        work.run()


@pytest.mark.slow
def test_evaluation_of_no_section_names_those_that_are_there(data: Path, tmp_path: Path) -> None:
    work = workflow(PHANTOM, "evaluate", data, tmp_path / "out", eval_section="nosuch")
    work.initialize()
    with pytest.raises(
        InputError, match=r"`nosuch`.* training \(2\), unlabeled \(3\), validation \(1\), testing \(1\)"
    ):
        work.run()


@pytest.mark.slow
def test_evaluation_without_weights_says_where_it_looked(data: Path, tmp_path: Path) -> None:
    work = workflow(PHANTOM, "evaluate", data, tmp_path / "out", eval_section="testing")
    work.initialize()
    with pytest.raises(InputError, match=r"out/models/model\.pt"):
        work.run()


@pytest.mark.slow
def test_gzip_is_what_the_fixtures_write(data: Path) -> None:
    # the truncation test would mean nothing on files that are not compressed
    with gzip.open(first(data, "image")) as file:
        assert len(file.read(348)) == 348
