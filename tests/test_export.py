# SPDX-License-Identifier: Apache-2.0
"""Export: files that label scans as the student does, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dtlp_components.errors import InputError
from dtlp_components.export import Difference, compare_labels, export_bundle
from dtlp_components.networks.vnet import VNet
from dtlp_components.trained_bundle import find_trained

BUNDLE = Path(__file__).parents[1] / "bundles/phantom_10"
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
    assert total == Difference(3, 30, 0.5) and total.share == pytest.approx(0.1)
    total.add(Difference(0, 1, float("nan")))
    total.add(Difference(0, 1, 1.0))
    assert total.logits == 1.0  # the last is larger than a number that is none
    total.add(Difference(0, 1, float("nan")))
    assert total.logits != total.logits


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
    assert "ckpt_export" in table and "onnx_export" in table and "--features 2" in table
    assert table.count("0 differ") == 4  # one scan and the sum, each of two files

    student = find_trained(str(BUNDLE), str(run)).load_student()
    image = torch.randn(3, 1, 16, 32, 32)  # neither the one volume that is usual nor the two of the export
    with torch.no_grad():
        wanted = student(image)
        torch.testing.assert_close(torch.jit.load(str(run / "models/model.ts"))(image), wanted)
    session = onnxruntime.InferenceSession(str(run / "models/model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["pred"], {"image": image.numpy()})
    with torch.no_grad():
        wanted = student.to(memory_format=torch.contiguous_format)(image)  # ONNX knows no other
    torch.testing.assert_close(torch.from_numpy(logits), wanted, atol=1e-4, rtol=1e-4)


def test_export_that_labels_otherwise_is_not_written(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run")
    another = torch.nn.Conv3d(1, 3, 1)  # another network with as many classes
    monkeypatch.setattr("dtlp_components.export._run", lambda words: Path(words[words.index("--filepath") + 1]).touch())
    monkeypatch.setattr("dtlp_components.export.torch.jit.load", lambda file: another)
    scan = str(tiny_dataset / "testing_0.nii.gz")
    with pytest.raises(InputError, match=r"model\.ts: labels differ .* more than 1e-05 of the voxels"):
        export_bundle(str(BUNDLE), scan, run_dir=str(run), output=str(tmp_path / "out"), onnx=False)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"torchscript": False, "onnx": False}, "nothing to export"),
        ({"run_dir": "nowhere"}, r"No weights at .*nowhere/models/model\.pt.*--run_dir"),
        ({"bundle": "nowhere"}, r"nowhere: no bundle, since configs/inference\.json"),
        ({"input": "nowhere.nii.gz"}, r"nowhere\.nii\.gz: no such file"),
    ],
)
def test_what_cannot_be_exported_is_said_first(tiny_dataset: Path, tmp_path: Path, flags, message: str) -> None:
    arguments = {"bundle": str(BUNDLE), "input": str(tiny_dataset), "run_dir": str(write_run(tmp_path / "run"))}
    with pytest.raises(InputError, match=message):
        export_bundle(**{**arguments, "onnx": False, **flags})


def test_scan_that_cannot_be_read_is_named(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    monkeypatch.setattr("dtlp_components.export._run", lambda words: None)
    monkeypatch.setattr("dtlp_components.export.torch.jit.load", lambda file: torch.nn.Identity())
    scan = tmp_path / "cut.nii.gz"
    scan.write_bytes((tiny_dataset / "testing_0.nii.gz").read_bytes()[:500])
    with pytest.raises(InputError, match=r"cut\.nii\.gz: cannot be read"):
        export_bundle(str(BUNDLE), str(scan), run_dir=str(run), onnx=False)
    assert [file.name for file in (run / "models").iterdir()] == ["model.pt"]


def test_missing_onnx_package_is_named(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtlp_components.export.find_spec", lambda name: None if name == "onnxscript" else object())
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match="ONNX needs onnxscript: pip install .*--onnx False"):
        export_bundle(str(BUNDLE), str(tiny_dataset), run_dir=str(run))


def test_weights_of_another_network_are_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", features=4)
    with pytest.raises(InputError, match=r"model\.pt does not fit the network"):
        export_bundle(str(BUNDLE), str(tiny_dataset), run_dir=str(run), onnx=False)


def test_settings_the_bundle_does_not_know_are_named(tiny_dataset: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", growth=2)
    with pytest.raises(InputError, match=r"trained with \['growth'\]"):
        export_bundle(str(BUNDLE), str(tiny_dataset), run_dir=str(run), onnx=False)
