# SPDX-License-Identifier: Apache-2.0
"""Hippocampus from a raw Decathlon folder, tidy and untidy."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.datasets.hippocampus import prepare_hippocampus
from dtlp_components.errors import InputError

SHAPE = (4, 5, 6)
SECTIONS = ("training", "unlabeled", "validation", "testing")


def write(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def make_raw(folder: Path, num_cases: int) -> Path:
    """A Decathlon folder; case ``i`` has ``i % 7`` anterior voxels and 3 posterior ones."""
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    items = []
    for i in range(num_cases):
        label = np.zeros(SHAPE, np.uint8)
        label.flat[: i % 7] = 1
        label.flat[-3:] = 2
        write(folder / f"imagesTr/case_{i:03d}.nii.gz", np.arange(i, i + 120, dtype=np.int16).reshape(SHAPE))
        write(folder / f"labelsTr/case_{i:03d}.nii.gz", label)
        items.append({"image": f"./imagesTr/case_{i:03d}.nii.gz", "label": f"./labelsTr/case_{i:03d}.nii.gz"})
    labels = {"0": "background", "1": "anterior", "2": "posterior"}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": items, "test": []}))
    write(folder / "imagesTs/case_900.nii.gz", np.zeros(SHAPE, np.int16))
    return folder


@pytest.fixture
def raw(tmp_path) -> Path:
    return make_raw(tmp_path / "raw", 8)


def prepare(raw: Path, **kwargs) -> Path:
    """Prepare ``raw`` into a folder beside it."""
    output = raw.parent / "prepared"
    prepare_hippocampus(str(raw), str(output), **kwargs)
    return output


def read(output: Path, name: str = "datalist_5.json") -> dict:
    return json.loads((output / name).read_text())


def images(content: dict) -> dict[str, list[str]]:
    return {section: [item["image"] for item in content[section]] for section in SECTIONS}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_ino) for file in files}


@pytest.mark.slow
def test_210_cases_become_10_validation_50_testing_and_5_percent_of_150_labeled(tmp_path) -> None:
    content = read(prepare(make_raw(tmp_path / "raw", 210)))
    # 5 % of 150 is 7.5, rounded to the even 8
    assert [len(content[section]) for section in SECTIONS] == [8, 142, 10, 50]
    everything = [path for paths in images(content).values() for path in paths]
    assert sorted(everything) == [f"imagesTr/case_{i:03d}.nii.gz" for i in range(210)]


def test_fewer_than_200_cases_keep_the_proportions(tmp_path) -> None:
    content = read(prepare(make_raw(tmp_path / "raw", 40)))
    # 40 // 20 = 2 validation, 40 // 4 = 10 testing, of the other 28 5 % is 1.4, rounded to 1
    assert [len(content[section]) for section in SECTIONS] == [1, 27, 2, 10]


def test_full_list_labels_the_same_training_cases_and_holds_out_the_same(raw) -> None:
    output = prepare(raw)
    few, full = images(read(output)), images(read(output, "datalist_100.json"))
    assert full["training"] == sorted(few["training"] + few["unlabeled"])
    assert full["unlabeled"] == []
    assert full["validation"] == few["validation"]
    assert full["testing"] == few["testing"]


def test_unlabeled_items_name_no_label_and_all_files_are_there(raw) -> None:
    output = prepare(raw)
    for section, items in ((section, read(output)[section]) for section in SECTIONS):
        for item in items:
            assert set(item) == ({"image"} if section == "unlabeled" else {"image", "label"})
            assert all((output / path).read_bytes() == (raw / path).read_bytes() for path in item.values())


def test_larger_percentage_keeps_the_labeled_cases_and_the_held_out_ones(raw) -> None:
    small = images(read(prepare(raw, percent=20), "datalist_20.json"))  # 1 of 5
    large = images(read(prepare(raw, percent=60), "datalist_60.json"))  # 3 of 5
    assert set(small["training"]) < set(large["training"])
    assert small["testing"] == large["testing"]


@pytest.mark.slow
def test_seed_decides_the_split(tmp_path) -> None:
    raw = make_raw(tmp_path / "raw", 40)
    splits = [
        read(Path(prepare_hippocampus(str(raw), str(tmp_path / name), seed=seed)).parent)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert splits[0] == splits[1]
    assert images(splits[0]) != images(splits[2])
    assert splits[2]["seed"] == 2


def test_manifest_counts_every_label_and_hashes_every_file(raw) -> None:
    cases = read(prepare(raw), "manifest.json")["cases"]
    assert [case["label_counts"] for case in cases] == [
        {"0": 4 * 5 * 6 - i - 3, "1": i, "2": 3} if i < 7 else {"0": 4 * 5 * 6 - 3, "1": 0, "2": 3} for i in range(8)
    ]
    assert all(case["shape"] == [4, 5, 6] and case["spacing_mm"] == [1, 1, 1] for case in cases)
    assert len({case["sha256"]["image"] for case in cases}) == 8


def test_missing_label_is_named_and_moves_no_other_case(raw, capsys) -> None:
    complete = images(read(prepare(raw)))
    lost = complete["unlabeled"][0]
    label = raw / lost.replace("images", "labels")
    label.unlink()
    capsys.readouterr()
    prepare_hippocampus(str(raw), str(raw.parent / "second"))
    assert f"labelsTr/{label.name}" in capsys.readouterr().out
    incomplete = images(read(raw.parent / "second"))
    assert incomplete == {section: [path for path in paths if path != lost] for section, paths in complete.items()}
    assert not (raw.parent / "second" / lost).exists()


def test_unexpected_case_is_named_and_macos_companion_ignored(raw, capsys) -> None:
    write(raw / "imagesTr/case_777.nii.gz", np.zeros(SHAPE, np.int16))
    (raw / "imagesTr/._case_001.nii.gz").write_bytes(b"\0Mac OS X")
    output = prepare(raw)
    printed = capsys.readouterr().out
    assert "imagesTr/case_777.nii.gz" in printed
    assert "._case" not in printed
    assert len(list((output / "imagesTr").iterdir())) == 8


def test_all_broken_pairs_are_listed_at_once_and_nothing_is_written(raw) -> None:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[0, 0, 0] = 7
    write(raw / "labelsTr/case_001.nii.gz", voxels)
    write(raw / "labelsTr/case_002.nii.gz", np.zeros((4, 5, 7), np.uint8))
    write(raw / "labelsTr/case_003.nii.gz", np.zeros(SHAPE, np.uint8), np.diag([1, 1, 2, 1]))
    whole = (raw / "imagesTr/case_004.nii.gz").read_bytes()
    (raw / "imagesTr/case_004.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError) as error:
        prepare(raw)
    message = str(error.value)
    assert message.startswith("4 cases cannot be used")
    assert "labelsTr/case_001.nii.gz: expected only the values [0, 1, 2], got [7]" in message
    assert "labelsTr/case_002.nii.gz: expected the label on the grid of its image, got shape [4, 5, 7]" in message
    assert "labelsTr/case_003.nii.gz: its affine differs" in message
    assert "imagesTr/case_004.nii.gz: truncated, damaged or not an image" in message
    assert not (raw.parent / "prepared").exists()


def test_repeated_run_changes_nothing_and_one_that_was_interrupted_is_completed(raw) -> None:
    output = prepare(raw)
    before = snapshot(output)
    prepare(raw)
    assert {name: content for name, (content, _) in snapshot(output).items()} == {
        name: content for name, (content, _) in before.items()
    }
    scans = {name: inode for name, (_, inode) in before.items() if name.endswith(".nii.gz")}
    assert {name: snapshot(output)[name][1] for name in scans} == scans
    for name in ("datalist_5.json", "imagesTr/case_003.nii.gz"):
        (output / name).unlink()
    prepare(raw)
    assert {name: content for name, (content, _) in snapshot(output).items()} == {
        name: content for name, (content, _) in before.items()
    }


@pytest.mark.slow
def test_datalist_of_another_seed_is_never_overwritten(tmp_path) -> None:
    raw = make_raw(tmp_path / "raw", 40)
    before = snapshot(prepare(raw))
    with pytest.raises(InputError, match=r"datalist_5.json: already exists with a different split"):
        prepare(raw, seed=1)
    assert snapshot(tmp_path / "prepared") == before


def test_scan_of_another_content_in_the_output_is_left_alone(raw) -> None:
    target = raw.parent / "prepared/imagesTr/case_002.nii.gz"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"case_002.nii.gz: already exists and differs"):
        prepare(raw)
    assert target.read_bytes() == b"mine"


def test_output_may_be_the_source(raw) -> None:
    before = snapshot(raw)
    prepare_hippocampus(str(raw), str(raw))
    after = snapshot(raw)
    assert set(after) - set(before) == {"datalist_5.json", "datalist_100.json", "manifest.json"}
    assert all(after[name] == before[name] for name in before)


def test_dry_run_says_what_it_would_do_and_writes_nothing(raw, capsys) -> None:
    assert prepare_hippocampus(str(raw), str(raw.parent / "prepared"), dry_run=True) is None
    # 8 cases: 8 // 20 = 0, so 1 validation; 8 // 4 = 2 testing; 5 % of 5 is less than the one there must be
    assert "1 labeled, 4 unlabeled, 1 validation and 2 testing cases" in capsys.readouterr().out
    assert not (raw.parent / "prepared").exists()


def test_folder_without_listing_names_the_file_and_what_was_wanted(tmp_path) -> None:
    with pytest.raises(InputError, match=r"dataset\.json: cannot be read .* expected the Decathlon folder"):
        prepare_hippocampus(str(tmp_path), str(tmp_path / "prepared"))


@pytest.mark.parametrize("path", ["/etc/scan.nii.gz", "../scan.nii.gz", None])
def test_listing_cannot_point_outside_its_folder(raw, path) -> None:
    content = json.loads((raw / "dataset.json").read_text())
    content["training"][3]["image"] = path
    (raw / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="expected a relative path as `image`"):
        prepare(raw)


@pytest.mark.parametrize("percent", [0, 100, 2.5])
def test_percentage_out_of_range_is_named(raw, percent) -> None:
    with pytest.raises(InputError, match=f"percent: expected .*, got {percent}"):
        prepare(raw, percent=percent)
