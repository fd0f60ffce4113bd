# SPDX-License-Identifier: Apache-2.0
"""``segment``: scans in, label maps out; what is broken is named and skipped, and the rest is written."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from dtlp_components.cli import main
from dtlp_components.deploy.segment import segment_scans
from dtlp_components.errors import InputError
from dtlp_components.handlers.prediction_report import count_voxels
from dtlp_components.networks.vnet import VNet
from tests import tiny
from tests.damaged import CASES
from tests.damaged import SHAPE as ODD_SHAPE

BUNDLE = "bundles/phantom_10"
SHAPE = (20, 18, 22)


# what a training records, and what it does not
RECORD = {key: value for key, value in tiny.FACTS.items() if key not in ("device", "label_names")}
GIVEN = {"device": "cpu", "label_names": tiny.FACTS["label_names"]}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Random weights in ``models/`` of a run whose record has the settings."""
    file = tmp_path / "run" / "models" / "model.pt"
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    network = VNet(num_classes=3, features=4)
    torch.nn.init.normal_(network.decoder.head.weight, std=3.0)
    torch.save(network.state_dict(), file)
    (tmp_path / "run" / "logs").mkdir()
    (tmp_path / "run" / "logs" / "model_settings.json").write_text(json.dumps(RECORD))
    return file


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Folder with two scans that can be segmented."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a", "z"):
        write(folder / f"{name}.nii.gz", random_voxels())
    return folder


def random_voxels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 200, shape or SHAPE).astype(np.float32)


def write(file: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, 1.0, 2.0, 1.0]) if affine is None else affine), file)
    return file


def segment(scans: Path, output: Path, weights: Path, **keys: Any) -> list[dict[str, str]]:
    """Rows of the table that the command writes."""
    segment_scans(BUNDLE, str(scans), str(output), str(weights), **{**GIVEN, **keys})
    return table(output)


def table(output: Path) -> list[dict[str, str]]:
    with open(output / "segmentations.csv", newline="") as file:
        return list(csv.DictReader(file))


def label_maps(output: Path) -> list[str]:
    return sorted(file.name for file in output.glob("*_seg.nii.gz"))


def test_label_map_is_on_the_grid_of_the_scan_and_the_table_counts_it(
    scans: Path, tmp_path: Path, weights: Path
) -> None:
    rows = segment(scans / "a.nii.gz", tmp_path / "out", weights)
    scan, labels = nib.load(scans / "a.nii.gz"), nib.load(tmp_path / "out" / "a_seg.nii.gz")
    assert labels.shape == scan.shape
    np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-6)
    assert labels.get_data_dtype() == np.uint8
    voxels = np.asarray(labels.dataobj)
    assert len(np.unique(voxels)) > 1
    for label, name in enumerate(tiny.FACTS["label_names"]):
        count = int((voxels == label).sum())
        assert int(rows[0][f"{name} voxels"]) == count
        assert float(rows[0][f"{name} ml"]) == pytest.approx(count * 2 / 1000, abs=1e-3)  # voxels of 1 x 1 x 2 mm
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "a_seg.nii.gz",
        "labels.ctbl",
        "segmentations.csv",
    ]
    assert (tmp_path / "out/labels.ctbl").read_text().splitlines()[1:] == [
        "0 background 0 0 0 0",
        "1 first 31 119 180 255",
        "2 second 255 127 14 255",
    ]


PERMUTED = [[0, 0, 2.0, -7], [-1.2, 0, 0, 3], [0, 0.9, 0, 40], [0, 0, 0, 1]]
OBLIQUE = [[1.2, -0.6, 0, 5], [0.9, 0.8, 0, -9], [0, 0, 2.0, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("affine", [PERMUTED, OBLIQUE], ids=["permuted", "oblique"])
@pytest.mark.parametrize("shape", [SHAPE, (20, 18, 1)], ids=["volume", "one slice"])
def test_grid_is_that_of_the_scan_whatever_its_axes(
    tmp_path: Path, weights: Path, affine: list[list[float]], shape: tuple[int, ...]
) -> None:
    scan = write(tmp_path / "a.nii.gz", random_voxels(*shape), np.array(affine))
    segment(scan, tmp_path / "out", weights, uncertainty=True)
    for kind in ("seg", "entropy"):
        written = nib.load(tmp_path / "out" / f"a_{kind}.nii.gz")
        assert written.shape == shape
        np.testing.assert_allclose(written.affine, affine, atol=1e-5)


def not_a_nifti(folder: Path) -> None:
    (folder / "m.nii.gz").write_text("hello")


def two_dimensions(folder: Path) -> None:
    write(folder / "m.nii.gz", random_voxels(20, 18))


def four_dimensions(folder: Path) -> None:
    write(folder / "m.nii.gz", random_voxels(20, 18, 22, 3))


def zero_voxel_size(folder: Path) -> None:
    # set in the bytes: nibabel does not write such a header. pixdim[3] is the float at 76 + 3 * 4; without q- and sform
    # codes (252, 254) it is all there is
    file = write(folder / "m.nii", random_voxels())
    content = bytearray(file.read_bytes())
    content[88:92] = np.float32(0).tobytes()
    content[252:256] = bytes(4)
    file.write_bytes(content)


def nan_voxels(folder: Path) -> None:
    voxels = random_voxels()
    voxels[3, 4, 5] = np.nan
    write(folder / "m.nii.gz", voxels)


def singular_affine(folder: Path) -> None:
    # the rows of the sform (floats from byte 280 on): x and y of the voxels both point along the patient's x
    file = write(folder / "m.nii", random_voxels())
    content = bytearray(file.read_bytes())
    sform = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]], dtype=np.float32)
    content[280:328] = sform.tobytes()
    content[252:256] = np.array([0, 1], dtype=np.int16).tobytes()
    file.write_bytes(content)


def unreadable_file(folder: Path) -> None:
    # root may read any file, whatever its permissions; reading this one from its start is an input/output error
    (folder / "m.nii.gz").symlink_to("/proc/self/mem")


def link_to_nothing(folder: Path) -> None:
    (folder / "m.nii.gz").symlink_to(folder / "nowhere")


def truncated_file(folder: Path) -> None:
    file = write(folder / "m.nii.gz", random_voxels())
    file.write_bytes(file.read_bytes()[:5000])


BAD_SCANS: list[tuple[Callable[[Path], None], str]] = [
    (not_a_nifti, r"m\.nii\.gz: truncated, damaged or not an image \("),
    (two_dimensions, r"m\.nii\.gz: expected a single 3-D volume, got a shape of \[20, 18\]"),
    (four_dimensions, r"m\.nii\.gz: expected a single 3-D volume, got a shape of \[20, 18, 22, 3\]"),
    (zero_voxel_size, r"m\.nii: expected voxel sizes greater than 0, got 1 x 1 x 0 mm"),
    (nan_voxels, r"m\.nii\.gz: expected finite numbers, got NaN or infinity"),
    (singular_affine, r"m\.nii: expected an invertible affine, got one with linearly dependent axes"),
    (unreadable_file, r"m\.nii\.gz: truncated, damaged or not an image \(OSError: .*Input/output error"),
    (link_to_nothing, r"m\.nii\.gz: no such file"),
    (truncated_file, r"m\.nii\.gz: truncated, damaged or not an image \(EOFError"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_SCANS, ids=lambda value: getattr(value, "__name__", ""))
def test_broken_scan_is_named_and_the_others_are_written(
    scans: Path, tmp_path: Path, weights: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(scans)
    with pytest.raises(InputError, match=rf"Segmented 2 of 3 scans; .* 1 problem found:\n  - .*{message}") as error:
        segment(scans, tmp_path / "out", weights)
    assert isinstance(error.value.code, str)  # Python prints a text and ends with exit code 1
    assert label_maps(tmp_path / "out") == ["a_seg.nii.gz", "z_seg.nii.gz"]
    rows = table(tmp_path / "out")
    assert [bool(row["label_map"]) for row in rows] == [True, False, True]
    assert rows[1]["problem"]
    assert not rows[0]["problem"]


def test_every_image_of_the_table_of_odd_files_is_segmented_or_named_with_its_sentence(
    tmp_path: Path, weights: Path
) -> None:
    images = {name: case for name, case in CASES.items() if case.kind == "image"}
    (tmp_path / "in").mkdir()
    for name, case in images.items():
        case.write(tmp_path / "in" / f"{name}{case.ending}")
    with pytest.raises(InputError, match=f"of {len(images)} scans"):
        segment(tmp_path / "in", tmp_path / "out", weights)
    rows = {Path(row["scan"]).name: row for row in table(tmp_path / "out")}
    for name, case in images.items():
        row = rows[f"{name}{case.ending}"]
        assert bool(row["label_map"]) == (not case.refused)
        assert case.refused in row["problem"]
        if row["label_map"]:
            assert nib.load(tmp_path / "out" / f"{name}_seg.nii.gz").shape == ODD_SHAPE
    taken = [name for name, case in images.items() if not case.refused]
    assert label_maps(tmp_path / "out") == sorted(f"{name}_seg.nii.gz" for name in taken)


def test_preview_draws_what_could_be_segmented(scans: Path, tmp_path: Path, weights: Path) -> None:
    two_dimensions(scans)
    with pytest.raises(InputError, match="Segmented 2 of 3 scans"):
        segment(scans, tmp_path / "out", weights, preview=True)
    assert sorted(file.name for file in (tmp_path / "out/pictures").iterdir()) == ["a.png", "z.png"]


def test_broken_scan_alone_is_an_error_too(scans: Path, tmp_path: Path, weights: Path) -> None:
    (tmp_path / "alone").mkdir()
    two_dimensions(tmp_path / "alone")
    with pytest.raises(InputError, match="Segmented 0 of 1 scans"):
        segment(tmp_path / "alone" / "m.nii.gz", tmp_path / "out", weights)
    assert label_maps(tmp_path / "out") == []


def test_series_with_a_missing_slice_is_named_and_the_others_are_written(
    tmp_path: Path, weights: Path, write_series: Any
) -> None:
    voxels = random_voxels(20, 18, 11).astype(int)
    for patient in ("p1", "p2"):
        write_series(tmp_path / "in" / patient / "ct", voxels)
    (tmp_path / "in" / "p1" / "ct" / "slice05.dcm").unlink()
    with pytest.raises(InputError, match=r"Segmented 1 of 2(?s:.)*p1/ct: (?s:.)*slice04\.dcm to slice06\.dcm"):
        segment(tmp_path / "in", tmp_path / "out", weights)
    assert label_maps(tmp_path / "out") == ["p2_ct_seg.nii.gz"]


def test_series_without_a_patient_is_segmented_and_its_segmentation_is_named(
    tmp_path: Path, weights: Path, write_series: Any
) -> None:
    pytest.importorskip("highdicom", reason="DICOM is optional: pip install highdicom")
    write_series(tmp_path / "in" / "ct", random_voxels(20, 18, 11).astype(int))
    message = r"Segmented 1 of 1(?s:.)*ct_seg\.nii\.gz was written, but ct_seg\.dcm was not .*StudyInstanceUID"
    with pytest.raises(InputError, match=message):
        segment(tmp_path / "in", tmp_path / "out", weights, dicom_seg=True)
    (row,) = table(tmp_path / "out")
    assert label_maps(tmp_path / "out") == ["ct_seg.nii.gz"] == [Path(row["label_map"]).name]
    assert int(row["background voxels"]) > 0
    assert "ct_seg.dcm was not" in row["problem"]


def test_empty_folder_is_an_error_before_anything_is_written(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: expected files ending in .*, got no NIfTI image"):
        segment(tmp_path / "empty", tmp_path / "out", weights)
    assert not (tmp_path / "out").exists()


def test_output_that_takes_no_files_is_an_error_before_anything_is_segmented(
    scans: Path, tmp_path: Path, weights: Path
) -> None:
    # root may write anywhere it can: but not below a file, and not into the kernel's own folder
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "out", Path("/proc/dtlp_out")):
        with pytest.raises(InputError, match=rf"{place}: cannot be written to \("):
            segment(scans, place, weights)


def test_output_among_the_scans_is_refused(scans: Path, weights: Path, tmp_path: Path, write_series: Any) -> None:
    link = tmp_path / "link"
    link.symlink_to(scans)
    series = write_series(tmp_path / "in" / "p1" / "ct", random_voxels(20, 18, 11).astype(int))
    before = sorted(tmp_path.rglob("*"))
    for given, output in ((scans, scans), (scans, link), (series.parents[1], series.parents[1]), (series, series)):
        with pytest.raises(InputError, match="expected a folder other than that of the scans"):
            segment(given, output, weights)
    assert sorted(tmp_path.rglob("*")) == before


def test_label_map_of_another_scan_is_not_replaced(tmp_path: Path, weights: Path) -> None:
    for patient in ("m", "n"):
        (tmp_path / patient).mkdir()
        write(tmp_path / patient / "ct.nii.gz", random_voxels() if patient == "m" else -random_voxels())
    (row,) = segment(tmp_path / "m", tmp_path / "out", weights)
    before = (tmp_path / "out/ct_seg.nii.gz").read_bytes()
    with pytest.raises(
        InputError, match=r"ct_seg\.nii\.gz: is the label map of .*m/ct\.nii\.gz .* overwritten by that of .*n/ct"
    ):
        segment(tmp_path / "n", tmp_path / "out", weights)
    assert table(tmp_path / "out") == [row]
    assert (tmp_path / "out/ct_seg.nii.gz").read_bytes() == before
    segment(tmp_path / "m", tmp_path / "out", weights)  # the same scan again


def test_second_run_into_a_folder_leaves_nothing_outdated_and_forgets_nothing(
    scans: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, bundle = tmp_path / "out", os.path.abspath(BUNDLE)
    segment(scans, out, weights, uncertainty=True)
    other = tmp_path / "other"
    other.mkdir()
    write(other / "b.nii.gz", random_voxels())
    assert [Path(row["scan"]).name for row in segment(other, out, weights)] == ["a.nii.gz", "z.nii.gz", "b.nii.gz"]
    monkeypatch.chdir(tmp_path)
    segment_scans(bundle, str(other), "out", str(weights))
    monkeypatch.chdir(other)  # where the label map that the table names "out/b_seg.nii.gz" is not
    # maps of uncertainty go with the labels that they are of; the label map of a scan that is broken now stays, and is
    # named
    (scans / "z.nii.gz").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"z\.nii\.gz(?s:.)*z_seg\.nii\.gz is of an earlier run"):
        segment_scans(bundle, str(scans), str(out), str(weights))
    assert sorted(file.name for file in out.glob("*.nii.gz")) == [
        "a_seg.nii.gz", "b_seg.nii.gz", "z_entropy.nii.gz", "z_seg.nii.gz",
    ]  # fmt: skip
    rows = {Path(row["scan"]).name: row for row in table(out)}
    assert rows["a.nii.gz"]["label_map"]
    assert rows["b.nii.gz"]["label_map"]
    assert not rows["z.nii.gz"]["label_map"]


def test_table_that_cannot_be_written_stops_no_scan(scans: Path, tmp_path: Path, weights: Path) -> None:
    (tmp_path / "out" / "segmentations.csv").mkdir(parents=True)
    with pytest.raises(InputError, match=r"Segmented 2 of 2(?s:.)*segmentations\.csv: cannot be written"):
        segment(scans, tmp_path / "out", weights)
    assert label_maps(tmp_path / "out") == ["a_seg.nii.gz", "z_seg.nii.gz"]


def test_file_name_that_is_not_utf_8_is_segmented_and_told(scans: Path, tmp_path: Path, weights: Path) -> None:
    name = os.fsdecode(b"M\xfcller.nii.gz")
    (scans / "a.nii.gz").rename(scans / name)
    rows = segment(scans, tmp_path / "out", weights)
    assert [Path(row["scan"]).name for row in rows] == ["M\\xfcller.nii.gz", "z.nii.gz"]
    assert (tmp_path / "out" / name.replace(".nii", "_seg.nii")).is_file()


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_device_that_is_not_there_is_named(scans: Path, tmp_path: Path, weights: Path, device: str) -> None:
    with pytest.raises(InputError, match=rf"--device: expected one of cpu, got '{device}'"):
        segment(scans, tmp_path / "out", weights, device=device)


def test_weights_in_the_current_folder_have_their_record_beside_it(
    scans: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(BUNDLE).absolute()
    segment(scans, tmp_path / "out", weights)
    monkeypatch.chdir(weights.parent)
    segment_scans(str(bundle), str(scans), str(tmp_path / "again"), "model.pt")
    for name in label_maps(tmp_path / "out"):
        labels = [np.asarray(nib.load(tmp_path / out / name).dataobj) for out in ("out", "again")]
        np.testing.assert_array_equal(*labels)


def test_scan_that_cannot_be_written_is_named_and_leaves_no_file(
    scans: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = nib.save

    def full(image: Any, file: Any) -> None:
        if "a_seg" in str(file):
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(image, file)

    monkeypatch.setattr("nibabel.save", full)
    with pytest.raises(
        InputError, match=r"Segmented 1 of 2(?s:.)*a_seg\.nii\.gz: cannot be written \(OSError.*No space"
    ):
        segment(scans, tmp_path / "out", weights)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "labels.ctbl",
        "segmentations.csv",
        "z_seg.nii.gz",
    ]


def test_exit_code_is_that_of_the_command(scans: Path, tmp_path: Path, weights: Path) -> None:
    words = ["segment", BUNDLE, str(scans), str(tmp_path / "out"), "--model_file", str(weights)]
    main(words)  # returns: exit code 0
    not_a_nifti(scans)
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code not in (0, None)


def test_mistyped_key_is_an_error_before_anything_is_done(scans: Path, tmp_path: Path, weights: Path) -> None:
    with pytest.raises(InputError, match=r"--window_overlp: no such key .*Did you mean --window_overlap"):
        segment(scans, tmp_path / "out", weights, window_overlp=0.25)
    with pytest.raises(
        InputError, match=r"--flip_axes: expected a list of integers from 0 to 2, all different, got \[3\]"
    ):
        segment(scans, tmp_path / "out", weights, flip_axes=[3])
    with pytest.raises(InputError, match=r"expected the folder of a bundle, got one without configs/inference\.json"):
        segment_scans("bundles", str(scans), str(tmp_path / "out"))
    assert not label_maps(tmp_path / "out")


def test_any_key_of_the_config_is_a_flag(scans: Path, tmp_path: Path, weights: Path) -> None:
    rows = segment(scans / "a.nii.gz", tmp_path / "recorded", weights, features=4)  # also in the run's record
    assert rows[0]["label_map"]
    with pytest.raises(InputError, match=r"--features: expected 4, with which .*was trained"):
        segment(scans / "a.nii.gz", tmp_path / "recorded", weights, features=8)
    shutil.rmtree(tmp_path / "run" / "logs")  # a deployed bundle has no record of its settings
    rows = segment(scans / "a.nii.gz", tmp_path / "out", weights, **tiny.FACTS, window_overlap=0.25)
    assert rows[0]["label_map"]


def voxels_of(output: Path, kind: str = "seg") -> np.ndarray:
    return np.asarray(nib.load(output / f"a_{kind}.nii.gz").dataobj)


def test_uncertainty_map_is_written_beside_the_labels(scans: Path, tmp_path: Path, weights: Path) -> None:
    rows = segment(scans / "a.nii.gz", tmp_path / "out", weights, uncertainty=True)
    entropy = nib.load(tmp_path / "out" / "a_entropy.nii.gz")
    assert entropy.shape == SHAPE
    assert entropy.get_data_dtype() == np.float32
    np.testing.assert_allclose(entropy.affine, nib.load(scans / "a.nii.gz").affine, atol=1e-6)
    values = voxels_of(tmp_path / "out", "entropy")
    assert values.min() >= 0
    assert values.max() <= np.log2(3) + 1e-5
    mean = values[voxels_of(tmp_path / "out") > 0].mean()
    assert float(rows[0]["foreground_entropy"]) == pytest.approx(mean, abs=1e-4)


def test_flips_change_the_labels_and_cost_no_file(scans: Path, tmp_path: Path, weights: Path) -> None:
    segment(scans / "a.nii.gz", tmp_path / "plain", weights)
    segment(scans / "a.nii.gz", tmp_path / "flipped", weights, flip_axes=[0, 2])
    assert (voxels_of(tmp_path / "plain") != voxels_of(tmp_path / "flipped")).any()


def test_largest_component_is_kept_of_each_class(scans: Path, tmp_path: Path, weights: Path) -> None:
    from skimage.measure import label as components

    segment(scans / "a.nii.gz", tmp_path / "plain", weights)
    segment(scans / "a.nii.gz", tmp_path / "largest", weights, keep_largest_component=True)
    plain, largest = voxels_of(tmp_path / "plain"), voxels_of(tmp_path / "largest")
    expected = np.zeros_like(plain)
    for label in (1, 2):
        parts = components(plain == label, connectivity=3)
        if parts.any():
            expected[parts == 1 + np.bincount(parts.ravel())[1:].argmax()] = label
    assert (plain != expected).any()
    np.testing.assert_array_equal(largest, expected)


# --- stopped and gone on with


def stopped(scans: Path, output: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> int:
    """Exit code of a run that gets a signal while it counts the first scan's voxels."""

    def count_and_stop(labels: torch.Tensor) -> list[int]:
        os.kill(os.getpid(), number)
        return count_voxels(labels)

    with monkeypatch.context() as patch:
        patch.setattr("dtlp_components.handlers.prediction_report.count_voxels", count_and_stop)
        with pytest.raises(SystemExit) as stop:
            segment(scans, output, weights)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_signal_ends_the_run_with_one_line_and_the_next_goes_on(
    scans: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: signal.Signals, code: int,
) -> None:  # fmt: skip
    output = tmp_path / "out"
    assert stopped(scans, output, weights, monkeypatch, number) == code
    said = capsys.readouterr()
    assert f"Stopped by {number.name} with 1 of 2 scans segmented; --skip_existing True goes on" in said.out + said.err
    assert "terminating due to exception" not in said.out + said.err
    assert label_maps(output) == ["a_seg.nii.gz"]
    made = (output / "a_seg.nii.gz").stat().st_mtime_ns
    rows = segment(scans, output, weights, skip_existing=True)
    assert [Path(row["scan"]).name for row in rows] == ["a.nii.gz", "z.nii.gz"]
    assert (output / "a_seg.nii.gz").stat().st_mtime_ns == made
    with pytest.raises(SystemExit) as nothing_left:
        segment(scans, output, weights, skip_existing=True)
    assert nothing_left.value.code == 0


@pytest.mark.parametrize("newer", ["scan", "weights"])
def test_label_map_older_than_its_scan_or_the_weights_is_made_again(
    scans: Path, tmp_path: Path, weights: Path, newer: str
) -> None:
    segment(scans, tmp_path / "out", weights)
    os.utime(scans / "a.nii.gz" if newer == "scan" else weights)
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in label_maps(tmp_path / "out")}
    segment(scans, tmp_path / "out", weights, skip_existing=True)
    again = [name for name in before if (tmp_path / "out" / name).stat().st_mtime_ns != before[name]]
    assert again == (["a_seg.nii.gz"] if newer == "scan" else ["a_seg.nii.gz", "z_seg.nii.gz"])


def test_rows_of_a_run_beside_this_one_are_kept(
    scans: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "other.nii.gz", random_voxels())
    output = tmp_path / "out"

    def count_beside(labels: torch.Tensor) -> list[int]:
        monkeypatch.undo()
        segment(other, output, weights)
        return count_voxels(labels)

    monkeypatch.setattr("dtlp_components.handlers.prediction_report.count_voxels", count_beside)
    rows = segment(scans, output, weights)
    assert sorted(Path(row["scan"]).name for row in rows) == ["a.nii.gz", "other.nii.gz", "z.nii.gz"]


def test_model_that_finds_nothing_in_most_scans_says_so(
    scans: Path, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment(scans, tmp_path / "out", weights)
    assert "hold nothing but background" not in "".join(capsys.readouterr())
    state = torch.load(weights, weights_only=True)
    state["decoder.head.bias"][0] += 1e6
    torch.save(state, weights)
    segment(scans, tmp_path / "out", weights)
    assert "2 of 2 label maps hold nothing but background. Are these the weights" in "".join(capsys.readouterr())


def test_logits_that_are_not_finite_are_named(scans: Path, tmp_path: Path, weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["decoder.head.weight"] = state["decoder.head.weight"].sign() * 3e38  # finite, what it makes is not
    torch.save(state, weights)
    with pytest.raises(
        InputError, match=r"a\.nii\.gz: cannot be predicted \(ValueError: expected finite logits, got NaN or"
    ):
        segment(scans, tmp_path / "out", weights)


def test_study_as_an_archive_exports_it_is_segmented_like_the_plain_series(
    tmp_path: Path, weights: Path, write_series: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pydicom = pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")
    voxels = random_voxels(20, 18, 12).astype(int)
    plain = write_series(tmp_path / "plain/ct", voxels)
    study = write_series(tmp_path / "study/p1", voxels, ending="")
    slices = sorted(study.iterdir())
    for number, (name, values) in enumerate(
        {
            "scout": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
            "dose": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Rows": None, "Columns": None, "PixelData": None},
            "plan": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3", "Rows": None, "Columns": None, "PixelData": None},
            "copy": {},
        }.items()
    ):
        header = pydicom.dcmread(slices[number])
        if values:
            header.SOPInstanceUID, header.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
        for key, value in values.items():
            delattr(header, key) if value is None else setattr(header, key, value)
        header.save_as(study / name)
    (tmp_path / "study/DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    segment(plain, tmp_path / "out", weights)
    segment(tmp_path / "study", tmp_path / "out2", weights)
    said = "".join(capsys.readouterr())
    for kind in ("localizer", "X-Ray Radiation Dose SR Storage", "RT Structure Set Storage", "copy of a slice"):
        assert f"1 × {kind}" in said
    expected, found = (nib.load(tmp_path / name) for name in ("out/ct_seg.nii.gz", "out2/p1_seg.nii.gz"))
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)
    np.testing.assert_array_equal(found.affine, expected.affine)


def test_transforms_after_the_loader_take_a_volume_that_another_program_has_loaded(
    scans: Path, tmp_path: Path, weights: Path
) -> None:
    # MONAI Deploy's operator takes LoadImaged away and gives what it holds in memory, without a channel
    one = {"window_batch_size": 1}  # rounding depends on the batch that a window is in, and decides ties
    segment(scans / "a.nii.gz", tmp_path / "out", weights, **one)
    parser = ConfigParser()
    parser.read_config(f"{BUNDLE}/configs/inference.json")
    parser.update({**RECORD, **GIVEN, **one, "model_file": str(weights), "preprocessing_keys": ["image"]})
    load, *others = parser.get_parsed_content("deterministic_transforms")
    assert isinstance(load, LoadImaged)
    image = nib.load(scans / "a.nii.gz")
    meta = {
        "original_channel_dim": "no_channel", "spatial_shape": np.array(image.shape), "filename_or_obj": "",
        "original_affine": image.affine,
    }  # fmt: skip
    volume = MetaTensor(image.get_fdata(dtype=np.float32), affine=torch.as_tensor(image.affine), meta=meta)
    item = Compose(others)({"image": volume})
    logits = parser.get_parsed_content("inferer")(item["image"][None], parser.get_parsed_content("network"))[0]
    parser["postprocessing::transforms"] = [{"_target_": "dtlp_components.ScanGridLabelsd", "keys": "pred"}]
    labels = parser.get_parsed_content("postprocessing")({**item, "pred": logits})["pred"]
    np.testing.assert_array_equal(labels[0], nib.load(tmp_path / "out/a_seg.nii.gz").dataobj)
