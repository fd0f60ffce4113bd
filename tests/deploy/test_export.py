# SPDX-License-Identifier: Apache-2.0
"""Export: files that label scans as the student does, or nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from dtlp_components.bundle.trained import find_trained
from dtlp_components.deploy.export import Difference, compare_labels, export_bundle
from dtlp_components.errors import InputError
from dtlp_components.networks.vnet import VNet
from tests.damaged import CASES

BUNDLE = Path(__file__).parents[2] / "bundles/phantom_10"
SETTINGS = {"num_classes": 3, "features": 2, "spacing_mm": [1.0, 1.0, 1.0], "patch_size": [16, 32, 32]}


def write_run(folder: Path, **settings: object) -> Path:
    """What a training leaves: random weights of a tiny student, and the settings that belong to them."""
    torch.manual_seed(0)
    network = VNet(num_classes=SETTINGS["num_classes"], features=SETTINGS["features"])
    (folder / "models").mkdir(parents=True)
    torch.save(network.state_dict(), folder / "models/model.pt")
    (folder / "logs").mkdir()
    (folder / "logs/model_settings.json").write_text(json.dumps({**SETTINGS, **settings}))
    return folder


def test_differences_are_counted_by_hand() -> None:
    # two classes, three voxels: labels 0 0 1 against 0 1 1
    reference = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.5, 3.0]]).view(1, 2, 1, 1, 3)
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.5, 3.0]]).view(1, 2, 1, 1, 3)
    assert compare_labels(reference, logits) == Difference(voxels=1, of=3, logits=1.0)


def test_differences_of_scans_add_up_and_nan_stays() -> None:
    total = Difference()
    total.add(Difference(1, 10, 0.5))
    total.add(Difference(2, 20, 0.25))
    assert total == Difference(3, 30, 0.5)
    assert total.share == pytest.approx(0.1)
    total.add(Difference(0, 1, math.nan))
    assert math.isnan(total.logits)
    total.add(Difference(0, 1, 1.0))  # a finite scan after it
    assert math.isnan(total.logits)
    assert total.voxels == 3


def test_networks_of_other_shapes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 5, 6\) and \(1, 3, 4, 5, 6\)"):
        compare_labels(torch.zeros(1, 2, 4, 5, 6), torch.zeros(1, 3, 4, 5, 6))


@pytest.mark.slow
def test_both_exports_label_scans_as_the_student_does(tiny_dataset: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    run = write_run(tmp_path / "run")
    export_bundle(str(BUNDLE), str(tiny_dataset / "testing_0.nii.gz"), run_dir=str(run))
    assert sorted(file.name for file in (run / "models").iterdir()) == ["model.onnx", "model.pt", "model.ts"]
    table = capsys.readouterr().out
    assert "ckpt_export" in table
    assert "onnx_export" in table
    assert "--features 2" in table
    assert table.count("0 differ") == 4  # one scan and the sum, each of two files

    student = find_trained(str(BUNDLE), str(run)).load_student()
    image = torch.randn(3, 1, 16, 32, 32)  # neither the one volume that is usual nor the two of the export
    with torch.no_grad():
        expected = student(image)
        torch.testing.assert_close(torch.jit.load(str(run / "models/model.ts"))(image), expected)
    session = onnxruntime.InferenceSession(str(run / "models/model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["pred"], {"image": image.numpy()})
    with torch.no_grad():
        expected = student.to(memory_format=torch.contiguous_format)(image)  # ONNX knows no other
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)


def test_export_that_labels_otherwise_is_not_written(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run")
    another = torch.nn.Conv3d(1, 3, 1)  # another network with as many classes
    monkeypatch.setattr(
        "dtlp_components.deploy.export.run_monai",
        lambda words, quiet: Path(words[words.index("--filepath") + 1]).touch(),
    )
    monkeypatch.setattr("dtlp_components.deploy.export.torch.jit.load", lambda file: another)
    scan = str(tiny_dataset / "testing_0.nii.gz")
    with pytest.raises(InputError, match=r"model\.ts: labels differ .* more than 1e-05 of the voxels"):
        export_bundle(str(BUNDLE), scan, run_dir=str(run), output=str(tmp_path / "out"), onnx=False)
    assert list((tmp_path / "out").iterdir()) == []


class Broken(torch.nn.Module):
    """The student, but for one logit of the student's own label, which stays the label."""

    def __init__(self, student: torch.nn.Module, value: float) -> None:
        super().__init__()
        self.student, self.value = student, value

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.student(image)
        voxel = (0, slice(None), 8, 16, 16)
        logits[voxel][logits[voxel].argmax()] = self.value
        return logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_export_with_logits_that_are_not_finite_is_not_written(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    run = write_run(tmp_path / "run")
    broken = Broken(find_trained(str(BUNDLE), str(run)).load_student(), value)
    monkeypatch.setattr(
        "dtlp_components.deploy.export.run_monai",
        lambda words, quiet: Path(words[words.index("--filepath") + 1]).touch(),
    )
    monkeypatch.setattr("dtlp_components.deploy.export.torch.jit.load", lambda file: broken)
    with pytest.raises(
        InputError, match=r"model\.ts: expected finite logits, got NaN or infinity.*nothing was written"
    ):
        export_bundle(
            str(BUNDLE),
            str(tiny_dataset / "testing_0.nii.gz"),
            str(run),
            str(tmp_path / "out"),
            onnx=False,
            max_differing=1,
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_all_scans_that_cannot_be_segmented_are_named_before_anything_is_computed(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scans = write_run(tmp_path / "run"), tmp_path / "scans"
    scans.mkdir()
    whole = (tiny_dataset / "testing_0.nii.gz").read_bytes()
    (scans / "good.nii.gz").write_bytes(whole)
    (scans / "cut.nii.gz").write_bytes(whole[:500])
    voxels = np.ones((9, 8, 7), np.float32)
    nib.save(nib.Nifti1Image(np.stack([voxels] * 3, -1), np.eye(4)), scans / "cine.nii.gz")
    voxels[4, 3, 2] = np.nan
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), scans / "hole.nii.gz")
    monkeypatch.setattr("dtlp_components.deploy.export.run_monai", lambda *words: pytest.fail("something was exported"))
    with pytest.raises(InputError) as caught:
        export_bundle(str(BUNDLE), str(scans), run_dir=str(run), onnx=False)
    message = str(caught.value)
    assert "Cannot compare on these scans, 3 problems found" in message
    assert "cut.nii.gz: truncated, damaged or not an image" in message
    assert "cine.nii.gz: expected a single 3-D volume, got a shape of [9, 8, 7, 3]" in message
    assert "hole.nii.gz: expected finite numbers" in message
    assert [file.name for file in (run / "models").iterdir()] == ["model.pt"]


def test_every_refused_image_of_the_table_of_odd_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtlp_components.errors.MAX_PROBLEMS", len(CASES))
    images = {name: case for name, case in CASES.items() if case.kind == "image"}
    (tmp_path / "in").mkdir()
    for name, case in images.items():
        case.write(tmp_path / "in" / f"{name}{case.ending}")
    with pytest.raises(InputError) as caught:
        export_bundle(str(BUNDLE), str(tmp_path / "in"), run_dir=str(write_run(tmp_path / "run")), onnx=False)
    lines = str(caught.value).splitlines()[1:]
    said = {name: [line for line in lines if f"/in/{name}{case.ending}: " in line] for name, case in images.items()}
    assert all(case.refused in line for name, case in images.items() for line in said[name])
    assert {name: len(found) for name, found in said.items()} == {n: int(bool(c.refused)) for n, c in images.items()}


def test_series_with_a_missing_slice_is_refused(tmp_path: Path, write_series: Any) -> None:
    folder = write_series(tmp_path / "series", np.arange(10 * 9 * 6).reshape(10, 9, 6))
    (folder / "slice02.dcm").unlink()
    with pytest.raises(InputError, match=r"Cannot compare on these scans, 1 problem found:\n.*series.*missing"):
        export_bundle(str(BUNDLE), str(folder), run_dir=str(write_run(tmp_path / "run")), onnx=False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"torchscript": False, "onnx": False}, "nothing to export"),
        ({"run_dir": "nowhere"}, r"No weights at .*nowhere/models/model\.pt.*--run_dir"),
        ({"bundle": "nowhere"}, "nowhere: no such bundle; expected its folder"),
        ({"input": "nowhere.nii.gz"}, r"nowhere\.nii\.gz: no such file"),
    ],
)
def test_what_cannot_be_exported_is_said_first(tiny_dataset: Path, tmp_path: Path, flags, message: str) -> None:
    arguments = {"bundle": str(BUNDLE), "input": str(tiny_dataset), "run_dir": str(write_run(tmp_path / "run"))}
    with pytest.raises(InputError, match=message):
        export_bundle(**{**arguments, "onnx": False, **flags})


def test_missing_onnx_package_is_named(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dtlp_components.deploy.export.find_spec", lambda name: None if name == "onnxscript" else object()
    )
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"ONNX requires onnxscript: pip install .*--onnx False"):
        export_bundle(str(BUNDLE), str(tiny_dataset), run_dir=str(run))


def test_weights_of_another_network_are_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", features=4)
    with pytest.raises(InputError, match=r"model\.pt: does not fit the network"):
        export_bundle(str(BUNDLE), str(tiny_dataset), run_dir=str(run), onnx=False)


def test_settings_the_bundle_does_not_know_are_named(tiny_dataset: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", growth=2)
    with pytest.raises(InputError, match="got the key 'growth'"):
        export_bundle(str(BUNDLE), str(tiny_dataset), run_dir=str(run), onnx=False)
