# SPDX-License-Identifier: Apache-2.0
"""LA from both released layouts, complete, incomplete and broken."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.datasets import la
from dtlp_components.datasets.la import prepare_la
from dtlp_components.errors import InputError

h5py = pytest.importorskip("h5py")
nrrd = pytest.importorskip("nrrd")

SHAPE = (4, 5, 6)
SPLIT = json.loads((Path(la.__file__).parents[1] / "recipes/splits/la.json").read_text())
TRAIN, TEST = SPLIT["train"], SPLIT["test"]
SECTIONS = ("training", "unlabeled", "validation", "testing")


def volume(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image with a different value in every voxel, and a label with some foreground."""
    image = np.random.default_rng(seed).permutation(4 * 5 * 6).reshape(SHAPE).astype(np.float32)
    return image, (image > 100).astype(np.uint8)


def add_h5(raw: Path, case: str, **changed) -> Path:
    path = raw / "2018LA_Seg_Training Set" / case / "mri_norm2.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for key, value in {**dict(zip(("image", "label"), volume(), strict=True)), **changed}.items():
            file[key] = value
    return path


def add_nrrd(raw: Path, case: str, header: dict | None = None, label_header: dict | None = None) -> Path:
    path = raw / "deep" / "er" / case / "lgemri.nrrd"
    path.parent.mkdir(parents=True)
    image, label = volume()
    header = header or {"space": "left-posterior-superior", "space directions": np.eye(3) * 0.625}
    nrrd.write(str(path), image, header)
    nrrd.write(str(path.with_name("laendo.nrrd")), label * 255, label_header or header)
    return path


def lists(output: Path) -> dict[str, dict]:
    return {path.name: json.loads(path.read_text()) for path in sorted(output.glob("datalist_*.json"))}


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    return tmp_path / "raw", tmp_path / "prepared"


def run(folders: tuple[Path, Path], **kwargs) -> Path:
    prepare_la(str(folders[0]), str(folders[1]), **kwargs)
    return folders[1]


@pytest.mark.slow
def test_complete_release_gives_the_published_numbers_and_no_validation_cases(folders) -> None:
    for case in TRAIN + TEST:
        add_h5(folders[0], case)
    sizes = {name: [len(content[key]) for key in SECTIONS] for name, content in lists(run(folders)).items()}
    assert sizes == {
        "datalist_5.json": [4, 76, 0, 20],
        "datalist_10.json": [8, 72, 0, 20],
        "datalist_100.json": [80, 0, 0, 20],
    }
    few = lists(folders[1])["datalist_5.json"]
    # the published labeled cases are the first four in alphabetical order
    assert [item["label"] for item in few["training"]] == [f"labelsTr/{case}.nii.gz" for case in sorted(TRAIN)[:4]]
    assert [item["image"] for item in few["testing"]] == [f"imagesTs/{case}.nii.gz" for case in TEST]
    assert all(set(item) == {"image"} for item in few["unlabeled"])
    assert not {item["image"] for item in few["testing"]} & {item["image"] for item in few["unlabeled"]}


def test_h5_arrays_become_volumes_of_0_625_mm_that_run_left_back_up(folders) -> None:
    add_h5(folders[0], TRAIN[0])
    output = run(folders)
    image, label = (nib.load(output / f"{kind}Tr/{TRAIN[0]}.nii.gz") for kind in ("images", "labels"))
    np.testing.assert_array_equal(image.get_fdata(), volume()[0])
    np.testing.assert_array_equal(label.get_fdata(), volume()[1])
    np.testing.assert_array_equal(image.affine, np.diag([-0.625, -0.625, 0.625, 1]))
    assert nib.aff2axcodes(label.affine) == ("L", "P", "S")
    assert label.get_data_dtype() == np.uint8


@pytest.mark.parametrize(
    ("space", "to_ras"),
    [("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1))],
)
def test_nrrd_geometry_puts_every_voxel_where_the_header_says(folders, space, to_ras) -> None:
    # first array axis runs backwards along y, the others askew: no symmetry that could hide a transposed matrix
    directions = np.array([[0, -0.7, 0.1], [0.6, 0, 0.2], [0.1, 0, 1.5]])
    origin = np.array([11.0, -22, 33])
    add_nrrd(folders[0], TRAIN[1], {"space": space, "space directions": directions, "space origin": origin})
    image = nib.load(run(folders) / f"imagesTr/{TRAIN[1]}.nii.gz")
    index = np.array([1, 2, 3])
    position = origin + index[0] * directions[0] + index[1] * directions[1] + index[2] * directions[2]
    np.testing.assert_allclose(nib.affines.apply_affine(image.affine, index), position * to_ras, rtol=1e-5)
    np.testing.assert_array_equal(image.get_fdata(), volume()[0])


def test_nrrd_label_255_becomes_1(folders) -> None:
    add_nrrd(folders[0], TRAIN[1])
    label = nib.load(run(folders) / f"labelsTr/{TRAIN[1]}.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), volume()[1])
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    # 120 different values from 0: those above 100 are the foreground
    assert manifest["cases"][0]["label_counts"] == {"0": 101, "1": 19}
    assert manifest["cases"][0]["spacing_mm"] == [0.625, 0.625, 0.625]


def test_missing_and_unexpected_cases_are_named_and_left_out(folders, capsys) -> None:
    add_h5(folders[0], TRAIN[2])
    add_nrrd(folders[0], TRAIN[3]).with_name("laendo.nrrd").unlink()
    add_nrrd(folders[0], "SOMEBODY")
    (folders[0] / "deep" / "._lgemri.nrrd").write_bytes(b"\0Mac OS X")
    output = run(folders)
    missing, without_label, unexpected = capsys.readouterr().out.splitlines()[1:4]
    assert missing.startswith("Published cases that are missing; they are excluded (98):")
    assert TRAIN[0] in missing
    assert TRAIN[2] not in missing
    assert TRAIN[3] not in missing
    assert without_label.endswith(f": {TRAIN[3]}")
    assert unexpected.endswith(": SOMEBODY")
    images = [item["image"] for item in lists(output)["datalist_100.json"]["training"]]
    assert images == [f"imagesTr/{TRAIN[2]}.nii.gz"]
    assert {path.name for path in output.rglob("*.nii.gz")} == {f"{TRAIN[2]}.nii.gz"}


def test_setting_without_any_labeled_case_gets_no_datalist(folders, capsys) -> None:
    labeled_at_10_only = SPLIT["settings"]["10%"]["labeled"][-1]
    assert labeled_at_10_only not in SPLIT["settings"]["5%"]["labeled"]
    add_h5(folders[0], labeled_at_10_only)
    assert sorted(lists(run(folders))) == ["datalist_10.json", "datalist_100.json"]
    assert "datalist_5.json was not written: none of its 4 labeled cases was found." in capsys.readouterr().out


def test_both_layouts_in_one_folder_are_read_and_the_mixture_is_pointed_out(folders, capsys) -> None:
    add_h5(folders[0], TRAIN[0])
    add_nrrd(folders[0], TRAIN[0])
    add_nrrd(folders[0], TRAIN[1])
    cases = json.loads((run(folders) / "manifest.json").read_text())["cases"]
    assert [case["raw"] for case in cases] == ["mri_norm2.h5", "lgemri.nrrd"]
    assert "Warning: mixed formats" in capsys.readouterr().out


def test_broken_case_is_named_the_others_converted_and_the_next_run_goes_on(folders, monkeypatch) -> None:
    good = add_h5(folders[0], TRAIN[0])
    bad = add_h5(folders[0], TRAIN[1])
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"1 case cannot be used, so no datalist was written:\n.*{TRAIN[1]}"):
        run(folders)
    assert lists(folders[1]) == {}
    bad.write_bytes(whole)

    converted = []
    convert = la._convert
    monkeypatch.setattr(la, "_convert", lambda raw, *paths: (converted.append(raw), convert(raw, *paths)))
    output = run(folders)
    assert converted == [bad]
    assert good.parent.name == TRAIN[0]
    assert len(lists(output)["datalist_5.json"]["training"]) == 2


def test_half_written_and_temporary_files_of_a_killed_run_are_replaced(folders) -> None:
    add_h5(folders[0], TRAIN[0])
    image = run(folders) / f"imagesTr/{TRAIN[0]}.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[:-20])
    image.with_name(f".part-{image.name}").write_bytes(whole[:50])
    run(folders)
    np.testing.assert_array_equal(nib.load(image).get_fdata(), volume()[0])
    assert list(image.parent.iterdir()) == [image]


def test_repeated_run_changes_nothing(folders) -> None:
    add_nrrd(folders[0], TRAIN[0])
    before = {path: path.read_bytes() for path in run(folders).rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in before if path.suffix == ".gz"}
    run(folders)
    assert {path: path.read_bytes() for path in folders[1].rglob("*") if path.is_file()} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_datalist_of_another_set_of_cases_is_not_overwritten(folders) -> None:
    add_h5(folders[0], TRAIN[0])
    before = lists(run(folders))
    add_h5(folders[0], TRAIN[1])
    with pytest.raises(InputError, match=r"datalist_5.json: already exists with a different split"):
        run(folders)
    assert lists(folders[1]) == before


def test_dry_run_writes_nothing(folders, capsys) -> None:
    add_h5(folders[0], TRAIN[0])
    assert not run(folders, dry_run=True).exists()
    assert "would convert 1 case," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": np.full(SHAPE, 3, np.uint8)}, r"expected the label values .*, got \[3\]"),
        (
            {"label": np.zeros((4, 5, 7), np.uint8)},
            r"expected image and label of equal shape, got \(4, 5, 6\) and \(4, 5, 7\)",
        ),
    ],
)
def test_label_that_does_not_fit_names_the_file_and_what_is_wrong(folders, changed, message) -> None:
    add_h5(folders[0], TRAIN[0], **changed)
    with pytest.raises(InputError, match=rf"{TRAIN[0]}/mri_norm2\.h5: {message}"):
        run(folders)


def test_nrrd_label_with_other_axes_is_refused(folders) -> None:
    mirrored = {"space": "left-posterior-superior", "space directions": np.diag([-0.625, 0.625, 0.625])}
    add_nrrd(folders[0], TRAIN[0], label_header=mirrored)
    with pytest.raises(InputError, match=r"laendo\.nrrd: expected the axes of lgemri\.nrrd"):
        run(folders)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"space": "scanner-xyz", "space directions": np.eye(3)}, "got 'scanner-xyz'"),
        ({"type": "float"}, "expected three vectors in mm as space directions"),
    ],
)
def test_nrrd_without_usable_geometry_is_refused(folders, header, message) -> None:
    add_nrrd(folders[0], TRAIN[0], header)
    with pytest.raises(InputError, match=message):
        run(folders)


def test_case_that_is_there_twice_is_refused(folders) -> None:
    add_h5(folders[0], TRAIN[0])
    add_h5(folders[0] / "copy", TRAIN[0])
    with pytest.raises(InputError, match=f"got {TRAIN[0]} twice"):
        run(folders)


def test_folder_without_any_case_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"with neither <id>/mri_norm2.h5 nor <id>/lgemri.nrrd"):
        prepare_la(str(tmp_path), str(tmp_path / "prepared"))


@pytest.mark.parametrize(("package", "add", "command"), [("h5py", add_h5, "h5py"), ("nrrd", add_nrrd, "pynrrd")])
def test_absent_package_is_named_with_the_command_that_installs_it(folders, monkeypatch, package, add, command) -> None:
    add(folders[0], TRAIN[0])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"pip install {command}"):
        run(folders)


def test_published_split_is_complete_and_disjoint() -> None:
    assert (len(TRAIN), len(TEST)) == (80, 20)
    assert not set(TRAIN) & set(TEST)
    for setting in SPLIT["settings"].values():
        assert sorted(setting["labeled"] + setting["unlabeled"]) == sorted(TRAIN)
