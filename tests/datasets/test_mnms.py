# SPDX-License-Identifier: Apache-2.0
"""M&Ms from four-dimensional cines: frames, vendors, the spreadsheet, and everything untidy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.datasets import mnms
from dtlp_components.datasets import published as common
from dtlp_components.datasets.mnms import prepare_mnms
from dtlp_components.errors import InputError

SPLIT = json.loads((Path(common.__file__).parents[1] / "recipes/splits/mnms.json").read_text())
FRAMES: dict[str, list[int]] = {}
for published in SPLIT["test"].values():
    for name in published:
        FRAMES[name[:6]] = sorted([*FRAMES.get(name[:6], []), int(name[10:])])
# two of the labeled subjects of the 2 % list for vendor B, one of vendor D and one of A
ONE, TWO = "A6B7Y4", "C2J0K3"
SHAPE = (3, 4, 2)


def cine(frames: list[int], num_frames: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """
    Another intensity in every voxel of every frame; labels in ``frames``: 1 voxel of LV, 2 of myocardium, 3 of RV.
    """
    num_frames = num_frames or max(frames) + 2
    image = np.arange(np.prod(SHAPE) * num_frames, dtype=np.int16).reshape(*SHAPE, num_frames)
    label = np.zeros(image.shape)
    for frame in frames:
        label[0, 0, 0, frame] = 1
        label[1, :2, 0, frame] = 2
        label[2, :3, 1, frame] = 3
    return image, label


def add(download, subject: str, frames: list[int] | None = None, top="OpenDataset/Training/Labeled") -> list[Path]:
    image, label = cine(FRAMES[subject] if frames is None else frames)
    return [
        download.write(f"{top}/{subject}/{subject}_{kind}.nii.gz", voxels)
        for kind, voxels in (("sa", image), ("sa_gt", label))
    ]


def run(download, **kwargs) -> Path | None:
    return prepare_mnms(str(download.source), str(download.output), **kwargs)


@pytest.mark.slow
def test_complete_release_gives_the_published_numbers_and_an_unseen_target(download) -> None:
    templates: dict[tuple[int, ...], list[Path]] = {}
    for subject, frames in FRAMES.items():
        if tuple(frames) not in templates:
            templates[tuple(frames)] = add(download, subject)
            continue
        for file, kind in zip(templates[tuple(frames)], ("sa", "sa_gt"), strict=True):
            download.copy(file, f"OpenDataset/Testing/{subject}/{subject}_{kind}.nii.gz")
    assert run(download) == download.output
    assert download.sizes() == {
        "2_a": [10, 440, 0, 190],
        "2_b": [8, 382, 0, 250],
        "2_c": [12, 528, 0, 100],
        "2_d": [12, 528, 0, 100],
        "5_a": [26, 424, 0, 190],
        "5_b": [22, 368, 0, 250],
        "5_c": [30, 510, 0, 100],
        "5_d": [30, 510, 0, 100],
        "100_a": [450, 0, 0, 190],
        "100_b": [390, 0, 0, 250],
        "100_c": [540, 0, 0, 100],
        "100_d": [540, 0, 0, 100],
    }
    for suffix, content in download.lists().items():
        target = suffix[-1].upper()
        assert {item["domain"] for item in content["testing"]} == {target}
        assert {item["domain"] for item in content["training"] + content["unlabeled"]} == set("ABCD") - {target}
        assert all(set(item) == {"image", "domain", "published_box"} for item in content["unlabeled"])
    assert len(download.manifest()["cases"]) == 640


@pytest.mark.parametrize("top", ["OpenDataset/Training/Labeled", "Validation", "Testing", "."])
def test_annotated_frames_are_cut_out_at_any_depth_on_their_own_grid(download, top) -> None:
    add(download, ONE, top=top)
    run(download)
    assert len(FRAMES[ONE]) == 2
    image, label = cine(FRAMES[ONE])
    for frame in FRAMES[ONE]:
        voxels, affine = download.load(f"imagesTr/{ONE}_sa_{frame}.nii.gz")
        np.testing.assert_array_equal(voxels, image[..., frame])
        np.testing.assert_allclose(affine, np.diag([-0.5, 0.75, 2, 1]))
        classes, affine = download.load(f"labelsTr/{ONE}_sa_{frame}.nii.gz")
        np.testing.assert_array_equal(classes, label[..., frame])
        np.testing.assert_allclose(affine, np.diag([-0.5, 0.75, 2, 1]))
        assert classes.dtype == np.uint8
    assert len(list(download.output.rglob("*.nii.gz"))) == 4
    cases = download.manifest()["cases"]
    assert [case["label_counts"] for case in cases] == [{"0": 24 - 6, "1": 1, "2": 2, "3": 3}] * 2
    assert [(case["domain"], case["shape"], case["spacing_mm"]) for case in cases] == [
        ("D", [3, 4, 2], [0.5, 0.75, 2])
    ] * 2


def test_further_frame_with_labels_is_named_and_left_out(download, capfd) -> None:
    add(download, ONE, [*FRAMES[ONE], 33])
    run(download)
    assert f"{ONE}_sa_gt.nii.gz: the frames [33] also have labels" in capfd.readouterr().out
    assert [case["image"] for case in download.manifest()["cases"]] == [
        f"imagesTr/{ONE}_sa_{frame}.nii.gz" for frame in FRAMES[ONE]
    ]


def test_missing_unlabeled_and_unexpected_subjects_are_named_and_left_out(download, capsys) -> None:
    add(download, ONE)
    add(download, TWO)[1].unlink()
    download.write("OpenDataset/Training/Unlabeled/Z9Z9Z9/Z9Z9Z9_sa.nii.gz", cine([0])[0])
    (download.source / f"OpenDataset/Training/Labeled/{ONE}/._A0S9V9_sa.nii.gz").write_bytes(b"\0Mac OS X")
    run(download)
    summary, missing, without_label, unexpected = capsys.readouterr().out.splitlines()[:4]
    assert summary == "1 of 320 published cases found."
    assert "excluded (318): A0S9V9, " in missing
    assert ONE not in missing
    assert without_label.endswith(f"(1): {TWO}")
    assert unexpected.endswith("(1): Z9Z9Z9")
    # a subject of vendor D: of the 2 % lists, only that for vendor B labels it, and all that is left of D is for
    # testing
    assert download.sizes()["2_b"] == [2, 0, 0, 0]
    assert "100_a" in download.sizes()
    assert "2_a" not in download.sizes()
    assert "100_d" not in download.sizes()


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_spreadsheet_that_says_otherwise_is_named_and_not_followed(download, capsys, delimiter) -> None:
    add(download, ONE)
    add(download, TWO)
    ed, es = FRAMES[ONE]
    rows = [
        ["", "External code", "Vendor", "ED", "ES", "Pathology"],
        ["0", ONE, "C", str(ed), str(es + 1), "HCM"],
        ["1", TWO, "A", f"{FRAMES[TWO][1]}.0", str(FRAMES[TWO][0]), "NOR"],
        ["2", "Z9Z9Z9", "C", "", "", ""],
    ]
    (download.source / "dataset_info.csv").write_text("\n".join(delimiter.join(row) for row in rows))
    (download.source / "other.csv").write_text("a,b\n1,2\n")
    run(download)
    expected = [
        f"{ONE} has ED '{ed}' and ES '{es + 1}', published [{ed}, {es}]",
        f"{ONE} has vendor 'C', published 'D'",
    ]
    assert f"which are used (2): {', '.join(expected)}\n" in capsys.readouterr().out
    assert download.manifest()["spreadsheet_disagreements"] == {"dataset_info.csv": expected}
    assert download.lists()["2_b"]["training"][0]["image"] == f"imagesTr/{ONE}_sa_{ed}.nii.gz"


def test_all_broken_subjects_are_listed_the_others_converted_and_the_next_run_goes_on(download, truncate) -> None:
    add(download, ONE)
    subjects = [subject for subject in sorted(FRAMES) if subject != ONE][:6]
    for subject, frames in zip(subjects, ([0, 1], None, None, None, None, None), strict=True):
        add(download, subject, frames if frames != FRAMES[subject] else [2, 3])
    folder = "OpenDataset/Training/Labeled"
    image, label = cine(FRAMES[subjects[1]])
    download.write(f"{folder}/{subjects[1]}/{subjects[1]}_sa_gt.nii.gz", label[..., :-1])
    image, label = cine(FRAMES[subjects[2]])
    download.write(f"{folder}/{subjects[2]}/{subjects[2]}_sa.nii.gz", image[..., 0])
    image, label = cine(FRAMES[subjects[3]])
    download.write(f"{folder}/{subjects[3]}/{subjects[3]}_sa_gt.nii.gz", label * 1.5)
    image, label = cine(FRAMES[subjects[4]])
    download.write(f"{folder}/{subjects[4]}/{subjects[4]}_sa_gt.nii.gz", label, np.diag([0.5, 0.75, 2, 1]))
    whole = truncate(download.source / f"{folder}/{subjects[5]}/{subjects[5]}_sa.nii.gz")
    with pytest.raises(InputError) as error:
        run(download)
    message = str(error.value)
    assert message.startswith("6 cases cannot be used, so no datalist was written:\n")
    assert (
        f"{subjects[0]}_sa_gt.nii.gz: expected labels in the frames {FRAMES[subjects[0]]}, as published, got them in "
        "[0, 1]" in message
    )
    assert f"{subjects[1]}_sa_gt.nii.gz: expected shape [3, 4, 2, " in message
    assert f"{subjects[2]}_sa.nii.gz: expected 4 axes, got shape [3, 4, 2]" in message
    assert f"{subjects[3]}_sa_gt.nii.gz: expected integers of at least 0, got the values [1.5, 4.5]" in message
    assert f"{subjects[4]}_sa_gt.nii.gz: expected the axes" in message
    assert f"{subjects[5]}_sa.nii.gz: truncated, damaged or not an image" in message
    before = download.snapshot()
    assert set(before) == {
        f"{kind}Tr/{ONE}_sa_{frame}.nii.gz" for frame in FRAMES[ONE] for kind in ("images", "labels")
    }

    for subject in subjects[:5]:
        add(download, subject)
    (download.source / f"{folder}/{subjects[5]}/{subjects[5]}_sa.nii.gz").write_bytes(whole)
    run(download)
    assert len(download.manifest()["cases"]) == 14
    assert {name: download.snapshot()[name] for name in before} == before


def test_repeated_run_changes_nothing_and_one_that_was_interrupted_is_completed(download, truncate) -> None:
    add(download, ONE)
    run(download)
    before = download.snapshot()
    run(download)
    assert download.snapshot() == before
    lost, half = (f"labelsTr/{ONE}_sa_{frame}.nii.gz" for frame in FRAMES[ONE])
    (download.output / lost).unlink()
    whole = truncate(download.output / half)
    (download.output / half).with_name(f".part-{Path(half).name}").write_bytes(whole[:20])
    run(download)
    assert set(download.snapshot()) == set(before)
    for name, frame in zip((lost, half), FRAMES[ONE], strict=True):
        np.testing.assert_array_equal(download.load(name)[0], cine(FRAMES[ONE])[1][..., frame])


def test_cine_is_read_once_for_both_frames_and_not_again_when_they_are_there(download, monkeypatch) -> None:
    add(download, ONE)
    read = []
    load_pair = mnms.load_pair
    monkeypatch.setattr(
        mnms, "load_pair", lambda *paths, **kwargs: (read.append(paths), load_pair(*paths, **kwargs))[1]
    )
    run(download)
    run(download)
    assert len(read) == 1


def test_numbers_of_64_bits_are_stored_in_32(download) -> None:
    add(download, ONE)
    voxels, _ = cine(FRAMES[ONE])
    download.write(f"OpenDataset/Training/Labeled/{ONE}/{ONE}_sa.nii.gz", voxels / 3)
    run(download)
    frame = FRAMES[ONE][0]
    stored, _ = download.load(f"imagesTr/{ONE}_sa_{frame}.nii.gz")
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, voxels[..., frame] / 3, rtol=1e-6)


def test_datalist_of_another_set_of_cases_is_not_overwritten(download) -> None:
    add(download, ONE)
    run(download)
    before = download.snapshot()
    add(download, TWO)
    with pytest.raises(InputError, match=r"datalist_.*\.json: already exists with a different split"):
        run(download)
    assert download.snapshot() == before


def test_dry_run_says_what_it_would_do_and_writes_nothing(download, capsys) -> None:
    add(download, ONE)
    assert run(download, dry_run=True) is None
    assert "Dry run: would convert 1 case," in capsys.readouterr().out
    assert not download.output.exists()


def test_subject_that_is_there_twice_is_named_with_both_files(download) -> None:
    add(download, ONE)
    add(download, ONE, top="OpenDataset/Testing")
    with pytest.raises(InputError, match=f"got {ONE} twice: .*/Testing/.* and .*/Training/"):
        run(download)


def test_folder_without_any_subject_is_refused(download) -> None:
    with pytest.raises(InputError, match=r"no file <subject>_sa\.nii\.gz"):
        run(download)


@pytest.mark.parametrize(
    ("slices", "expected"),
    # the last slice is left out, as the published code does, unless it is the only one
    [((1, 2, 3), [1, 3]), ((0, 4), [0, 4]), ((2, 3), [2, 3]), ((4,), [4, 5])],
)
def test_box_is_the_central_two_thirds_and_the_slices_but_the_last(download, slices, expected) -> None:
    num_frames = max(FRAMES[ONE]) + 1
    label = np.zeros((11, 13, 5, num_frames), np.uint8)
    for frame in FRAMES[ONE]:
        label[0, 0, list(slices), frame] = 3  # where it lies in the plane decides nothing
    image = np.arange(label.size, dtype=np.int32).reshape(label.shape)
    for kind, voxels in (("sa", image), ("sa_gt", label)):
        download.write(f"{ONE}_{kind}.nii.gz", voxels, np.diag([1, -1, -8, 1]))  # nor does the orientation
    run(download)
    # 11 // 2 = 5 and 11 // 3 = 3; 13 // 2 = 6 and 13 // 3 = 4
    box = [[5 - 3, 5 + 3], [6 - 4, 6 + 4], expected]
    assert [case["published_box"] for case in download.manifest()["cases"]] == [box] * 2
    items = [item for key in ("training", "unlabeled", "testing") for item in download.lists()["2_b"][key]]
    assert [item["published_box"] for item in items] == [box] * 2


def test_every_frame_has_its_own_box_and_unlabeled_frames_have_one(download) -> None:
    unlabeled = SPLIT["settings"]["toB_2%"]["unlabeled"][0][:6]
    for subject in (ONE, unlabeled):
        image, label = cine(FRAMES[subject])
        label[..., 0, FRAMES[subject][0]] = 0  # the second slice is the only one of the first frame
        for kind, voxels in (("sa", image), ("sa_gt", label)):
            download.write(f"{subject}_{kind}.nii.gz", voxels)
    run(download)
    content = download.lists()["2_b"]
    for section in ("training", "unlabeled"):
        assert [item["published_box"] for item in content[section]] == [
            [[0, 2], [1, 3], [1, 2]],
            [[0, 2], [1, 3], [0, 1]],
        ]


def test_older_lists_get_the_boxes_and_nothing_else_changes(download, capsys) -> None:
    add(download, ONE)
    run(download)
    expected = download.snapshot()
    for suffix, content in download.lists().items():
        for item in content["training"] + content["unlabeled"] + content["testing"]:
            del item["published_box"]
        (download.output / f"datalist_{suffix}.json").write_text(json.dumps(content))
    capsys.readouterr()
    run(download)
    assert download.snapshot() == expected
    assert (
        "datalist_2_b.json" in capsys.readouterr().out.split(": the split is unchanged; `published_box` was added")[0]
    )
