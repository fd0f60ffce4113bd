# SPDX-License-Identifier: Apache-2.0
"""
What training and segmentation promise on a GPU (``make test-gpu``), skipped where there is none.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import nn

from dtlp_components.bench.training import TrainingVariant
from dtlp_components.data.loaders import EndlessDataLoader
from dtlp_components.engines.random_streams import RandomStreams
from dtlp_components.engines.student_trainer import loss_terms
from dtlp_components.handlers.pseudo_label_monitor import PseudoLabelMonitor
from dtlp_components.handlers.training_curves import read_losses
from dtlp_components.networks.norms import make_norm, norm_relu
from dtlp_components.own_data.memory import estimate_bytes
from dtlp_components.pseudo_labels.propagation import propagate
from dtlp_components.run_folder import RunFolder
from tests import tiny
from tests.bundles.test_torchrun import monai
from tests.bundles.test_workflows import PHANTOM, workflow
from tests.engines.test_trainer import CLASSES, batches, make_trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("seed"),
]

CUDA = "cuda:0"


def endless(labels: bool, count: int = 2) -> EndlessDataLoader:
    first = batches(count, first=0 if labels else 50, labels=labels)[0]
    cases = [{key: value[i] for key, value in first.items()} for i in range(count)]
    return EndlessDataLoader(cases, lambda item: item, batch_size=count, pin_memory=True)


def on(device: str, iterations: int = 1, **kwargs: Any) -> tuple[Any, list[dict[str, float]]]:
    """A trainer on a device that has run, and the scalars of its iterations."""
    trainer = make_trainer(
        labeled=endless(True), unlabeled=endless(False), device=device, epoch_length=iterations, **kwargs
    )
    trainer.network.to(device)
    trainer.mean_teacher.module.to(device)
    trainer.difficulty_loss.to(device)
    scalars: list[dict[str, float]] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: scalars.append(loss_terms(e.state.output)))
    torch.manual_seed(1)
    trainer.run()
    return trainer, scalars


@pytest.fixture
def no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of float32 as exact as the CPU's."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.fixture
def noise_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random tensors that are asked for on the GPU come from the CPU's generator."""
    for name in ("randn", "rand", "randint"):
        plain = getattr(torch, name)

        def drawn(*words: Any, plain: Any = plain, device: Any = None, **kwargs: Any) -> torch.Tensor:
            return plain(*words, **kwargs).to(device or "cpu")

        monkeypatch.setattr(torch, name, drawn)
    plain_like = torch.randn_like
    monkeypatch.setattr(torch, "randn_like", lambda x, **kwargs: plain_like(x.cpu(), **kwargs).to(x.device))


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.usefixtures("noise_of_the_cpu", "no_tf32")
def test_terms_of_an_iteration_are_those_of_the_cpu(norm: str) -> None:
    (_, (here,)), (_, (there,)) = on("cpu", norm=norm), on(CUDA, norm=norm)
    assert there.keys() == here.keys()
    if norm == "instance":
        # over the two voxels of the deepest stage: rounding in the last place alone moves it by a tenth
        del here["grad_norm"]
    for name, value in here.items():
        assert there[name] == pytest.approx(value, rel=2e-3, abs=1e-4), name


@pytest.mark.usefixtures("noise_of_the_cpu")
def test_twenty_iterations_in_half_precision_are_finite_and_near_float32() -> None:
    (_, exact), (_, half) = on(CUDA, iterations=20), on(CUDA, iterations=20, amp=True)
    mean = [sum(row["loss"] for row in rows) / 20 for rows in (exact, half)]
    assert mean[1] == pytest.approx(mean[0], rel=0.05)


def test_step_that_overflows_in_float16_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtlp_components.engines.student_trainer.half_precision", lambda device: torch.float16)
    trainer = make_trainer(labeled=endless(True), unlabeled=endless(False), device=CUDA, amp=True)
    for module in (trainer.network, trainer.mean_teacher.module, trainer.difficulty_loss):
        module.to(CUDA)
    trainer.grad_scaler = torch.amp.GradScaler("cuda", init_scale=2.0**120)
    before = copy.deepcopy(trainer.network.state_dict())
    trainer.run()
    assert trainer.grad_scaler.get_scale() < 2.0**120
    weights = dict(trainer.network.named_parameters())
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_random_states_of_the_gpu_come_back() -> None:
    streams = RandomStreams(torch.device(CUDA), count=1)
    streams.start()
    state = streams.state_dict()
    expected = torch.rand(3, device=CUDA)
    torch.rand(5, device=CUDA)
    other = RandomStreams(torch.device(CUDA), count=1)
    other.load_state_dict(state)
    assert torch.equal(torch.rand(3, device=CUDA), expected)


def test_processor_waits_for_the_device_once_an_iteration() -> None:
    trainer = make_trainer(labeled=endless(True), unlabeled=endless(False), device=CUDA, epoch_length=3)
    for module in (trainer.network, trainer.mean_teacher, trainer.difficulty_loss):
        module.to(CUDA)

    def watch(_: Any) -> None:
        torch.cuda.set_sync_debug_mode("warn" if trainer.state.iteration == 3 else "default")

    trainer.add_event_handler(Events.ITERATION_STARTED, watch)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: torch.cuda.set_sync_debug_mode("default"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.run()
    waits = [f"{item.filename}:{item.lineno}" for item in caught if "called a synchronizing" in str(item.message)]
    assert len(waits) == 1, waits
    assert "student_trainer" in waits[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("volumes", [1, 3], ids=["one scale for all", "a scale for each"])
def test_fast_instance_norm_gives_the_values_and_gradients_of_the_plain_one(volumes: int, dtype: torch.dtype) -> None:
    norm = make_norm("instance", 8).to(CUDA)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = (torch.randn(3, 8, 9, 10, 11, device=CUDA) + 10).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    scale, shift = (torch.randn(volumes, 8, device=CUDA).requires_grad_() for _ in range(2))
    inputs = [x.requires_grad_(), norm.weight, norm.bias, scale, shift]
    fast = norm_relu(norm, x, scale, shift)
    assert fast.dtype == dtype
    assert fast.is_contiguous(memory_format=torch.channels_last_3d)
    assert "OnGPU" in type(fast.grad_fn).__name__
    # by float64, so that each is compared with the truth
    plain = nn.functional.instance_norm(x.double(), weight=norm.weight.double(), bias=norm.bias.double(), eps=norm.eps)
    plain = torch.relu(plain * scale.double()[:, :, None, None, None] + shift.double()[:, :, None, None, None])
    close = {"rtol": 2e-2, "atol": 5e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(fast.double(), plain, **close)
    g = torch.randn_like(fast)
    for one, other in zip(
        torch.autograd.grad(fast, inputs, g), torch.autograd.grad(plain, inputs, g.double()), strict=True
    ):
        one, other = one.double(), other.double()
        assert (one - other).norm() < (3e-2 if dtype == torch.bfloat16 else 1e-4) * other.norm()


@pytest.mark.usefixtures("noise_of_the_cpu")
def test_memory_format_changes_no_loss() -> None:
    (_, (last,)), (_, (contiguous,)) = on(CUDA, channels_last=True), on(CUDA, channels_last=False)
    assert last["loss"] == pytest.approx(contiguous["loss"], rel=2e-3)


def test_propagation_in_half_precision_is_within_a_hundredth() -> None:
    query, key = (torch.randn(2, 8, 6, 6, 6, device=CUDA) for _ in range(2))
    values = torch.softmax(torch.randn(2, 3, 6, 6, 6, device=CUDA), dim=1)
    exact = propagate(query, key, values)
    half = propagate(query.half(), key.half(), values)
    assert half.dtype == torch.float32
    assert (half - exact).abs().max() < 1e-2


@pytest.mark.parametrize("amp", [False, True])
def test_peak_memory_is_not_above_the_estimate(amp: bool) -> None:
    # large enough that activations count for more than the process, which the estimate is of as well
    patch_size, features = [80, 80, 80], 16
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    variant = TrainingVariant(
        "bundles/la_5/configs/train.json",
        {"patch_size": patch_size, "features": features, "device": CUDA, "amp": amp, "ramp_up": 0.0},
    )
    for i in range(2):  # the second has the optimizer's moments beside its activations
        variant.iterate(seed=i)
    assert torch.cuda.max_memory_allocated() < estimate_bytes(patch_size, features, 2, 2)


def test_monitor_leaves_the_generators_alone(tmp_path: Path) -> None:
    trainer = make_trainer(device=CUDA)
    trainer.network.to(CUDA)
    trainer.mean_teacher.module.to(CUDA)
    item = {key: value[0] for key, value in batches(1, first=0)[0].items()}
    monitor = PseudoLabelMonitor(
        [item], trainer.network, trainer.network.student, trainer.pseudo_labeler, nn_inferer, torch.device(CUDA),
        CLASSES, 1, 1, str(tmp_path),
    )  # fmt: skip
    before = (torch.get_rng_state(), torch.cuda.get_rng_state())
    monitor(trainer)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])


def nn_inferer(image: torch.Tensor, network: nn.Module | Any) -> Any:
    return network(image)


@pytest.mark.usefixtures("no_tf32")
def test_labels_are_those_of_the_cpu(tiny_dataset: Path, tmp_path: Path) -> None:
    import nibabel as nib
    import numpy as np

    training = {**tiny.FACTS, **tiny.TRAINING, "max_iterations": 10, "iterations_per_epoch": 10, "device": CUDA}
    work = workflow(PHANTOM, "train", tiny_dataset, tmp_path / "run", **training)
    work.initialize()
    work.run()
    maps = {}
    for device in ("cpu", CUDA):
        facts = {**tiny.FACTS, "device": device, "prediction_dir": str(tmp_path / device.replace(":", ""))}
        work = workflow(
            PHANTOM, "inference", tiny_dataset, tmp_path / "run", input=str(tiny_dataset / "testing_0.nii.gz"), **facts
        )
        work.initialize()
        work.run()
        (file,) = Path(facts["prediction_dir"]).glob("*_seg.nii.gz")
        maps[device] = np.asarray(nib.load(file).dataobj)
    # after ten iterations, a network is undecided in more voxels than one that is trained
    assert (maps["cpu"] == maps[CUDA]).mean() > 0.999


def test_augmentation_on_the_device_trains(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = {**tiny.FACTS, **tiny.TRAINING, "device": CUDA, "augment_on_device": True, "num_workers": 0}
    work = workflow(PHANTOM, "train", tiny_dataset, tmp_path / "run", **settings)
    work.initialize()
    work.run()
    assert (tmp_path / "run/models/model.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])  # by NCCL, and, on one device, by Gloo
def test_processes_on_one_device_train_what_one_does_that_accumulates(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    settings = {
        **tiny.FACTS, **tiny.TRAINING, "device": CUDA, "max_iterations": 2, "iterations_per_epoch": 2, "num_workers": 0,
        "dataset_dir": tiny_dataset, "datalist": tiny_dataset / "datalist.json", "tf32": False,
        "cudnn_benchmark": False,
    }  # fmt: skip
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    monai("training", "train", launcher, output_dir=tmp_path / "several", **settings)
    monai("training", "train", [], output_dir=tmp_path / "one", accumulation_steps=count, **settings)
    several, one = (read_losses(RunFolder(tmp_path / name)) for name in ("several", "one"))
    assert several.keys() == one.keys()
    iterations, losses = several["loss"]
    assert iterations == [1, 2]
    assert losses == pytest.approx(one["loss"][1], rel=1e-3)
