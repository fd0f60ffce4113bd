# SPDX-License-Identifier: Apache-2.0
"""MMWHS from both layouts: classes, domains, held-back cases, and everything untidy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.datasets import published as common
from dtlp_components.datasets.mmwhs import prepare_mmwhs
from dtlp_components.errors import InputError

SPLIT = json.loads((Path(common.__file__).parents[1] / "recipes/splits/mmwhs.json").read_text())
ALL = [f"{modality}_train_{number}" for modality in ("ct", "mr") for number in range(1001, 1021)]
RAW_VALUES = (205, 420, 500, 820)
# of mr_train_1002, the published code clears x 0 to 3, all rows to the back but the last (the first, stored to the
# front) and z 0 to 3 before it takes the box: a part of the label has to lie elsewhere
LABELED = slice(4 * 5 * 7, 4 * 5 * 7 + 10)  # x 4: y 0 with z 0 to 6, and y 1 with z 0 to 2
SIDE_BY_SIDE, DECATHLON = "{modality}_train/{case}_{kind}.nii.gz", "{MODALITY}/{kind}sTr/{case}_{kind}.nii.gz"


@pytest.fixture
def image() -> np.ndarray:
    """A different value in every voxel."""
    return np.random.default_rng(0).permutation(6 * 5 * 7).reshape(6, 5, 7).astype(np.int16)


def place(layout: str, case: str, kind: str) -> str:
    return layout.format(case=case, kind=kind, modality=case[:2], MODALITY=case[:2].upper())


def raw_label(image, *values: int) -> np.ndarray:
    """The four structures, 1 to 4 voxels of them in this order, and one voxel of each of the further ``values``."""
    label = np.zeros(image.shape, np.int16)
    label.flat[LABELED] = np.repeat(RAW_VALUES, (1, 2, 3, 4))
    label.flat[: len(values)] = values
    return label


def fill(download, image, cases=ALL, layout=DECATHLON, label=None) -> None:
    label = raw_label(image, 550, 600, 850) if label is None else label
    first = [download.write(place(layout, cases[0], kind), v) for kind, v in (("image", image), ("label", label))]
    for case in cases[1:]:
        for file, kind in zip(first, ("image", "label"), strict=True):
            download.copy(file, place(layout, case, kind))


def run(download, **kwargs) -> Path | None:
    return prepare_mmwhs(str(download.source), str(download.output), **kwargs)


def cases(items: list[dict[str, str]]) -> list[str]:
    return [Path(item["image"]).name.removesuffix(".nii.gz") for item in items]


def test_complete_release_gives_the_published_numbers_and_no_validation_cases(download, image, capsys) -> None:
    fill(download, image)
    assert run(download) == download.output
    # of 20 scans of the target: 13 unlabeled, 4 for testing, and 3 that the published code validates on
    assert download.sizes() == {
        "mr2ct": [16, 13, 0, 4],
        "ct2mr": [16, 13, 0, 4],
        "mr2ct_100": [29, 0, 0, 4],
        "ct2mr_100": [29, 0, 0, 4],
    }
    printed = capsys.readouterr().out
    for name, target in (("mr2ct", "ct"), ("ct2mr", "mr")):
        content = download.lists()[name]
        listed = [case for section in ("training", "unlabeled", "testing") for case in cases(content[section])]
        held_back = SPLIT["settings"][name]["target_validation_in_reference"]
        assert len(held_back) == 3
        assert not set(held_back) & set(listed)
        assert f"not in {name} (3): {', '.join(held_back)}" in printed
        assert all(case.startswith(target) for case in cases(content["unlabeled"] + content["testing"]))
        assert not any(case.startswith(target) for case in cases(content["training"]))
        assert download.manifest()["target_validation_in_reference"][name] == held_back
    assert len(download.manifest()["cases"]) == 40


def test_published_validation_cases_are_listed_only_when_asked_for(download, image) -> None:
    fill(download, image)
    run(download, validation="published")
    content = download.lists()["ct2mr"]
    assert cases(content["validation"]) == SPLIT["settings"]["ct2mr"]["target_validation_in_reference"]
    assert download.sizes()["mr2ct"] == [16, 13, 3, 4]
    assert download.manifest()["validation"] == "published"


def test_domain_is_the_modality(download, image) -> None:
    fill(download, image)
    run(download)
    content = download.lists()["ct2mr"]
    domains = {
        section: {item["domain"] for item in content[section]} for section in ("training", "unlabeled", "testing")
    }
    assert domains == {"training": {"CT"}, "unlabeled": {"MR"}, "testing": {"MR"}}
    assert all(set(item) == {"image", "domain", "published_box"} for item in content["unlabeled"])


@pytest.mark.parametrize("layout", [DECATHLON, SIDE_BY_SIDE])
def test_raw_values_become_classes_on_the_images_grid_in_both_layouts(download, image, layout) -> None:
    fill(download, image, ALL[:1], layout)
    run(download)
    classes, affine = download.load(f"labelsTr/{ALL[0]}.nii.gz")
    expected = np.zeros(image.shape, np.uint8)
    expected.flat[LABELED] = [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    np.testing.assert_array_equal(classes, expected)
    np.testing.assert_allclose(affine, np.diag([-0.5, 0.75, 2, 1]))
    assert classes.dtype == np.uint8
    raw = download.source / place(layout, ALL[0], "image")
    assert (download.output / f"imagesTr/{ALL[0]}.nii.gz").samefile(raw)


def test_every_other_value_becomes_background_and_is_counted(download, image) -> None:
    fill(download, image, ALL[:1], label=raw_label(image, 421, 550, 550, 600, 850))
    for _ in range(2):  # also when nothing is left to convert
        run(download)
        (case,) = download.manifest()["cases"]
        assert case["to_background"] == {"421": 1, "550": 2, "600": 1, "850": 1}
        assert case["label_counts"] == {"0": 210 - 10, "1": 1, "2": 2, "3": 3, "4": 4}


def test_missing_unlabeled_and_unexpected_cases_are_named_and_left_out(download, image, capsys) -> None:
    fill(download, image, ["ct_train_1001", "ct_train_1002"])
    (download.source / place(DECATHLON, "ct_train_1002", "label")).unlink()
    download.write("ct_test/ct_test_2001_image.nii.gz", image)
    (download.source / "CT/imagesTr/._ct_train_1004_image.nii.gz").write_bytes(b"\0Mac OS X")
    run(download)
    summary, missing, without_label, unexpected = capsys.readouterr().out.splitlines()[:4]
    assert summary == "1 of 40 published cases found."
    assert "excluded (38): ct_train_1003" in missing
    assert "ct_train_1004" in missing
    assert without_label.endswith("(1): ct_train_1002")
    assert unexpected.endswith("(1): ct_test_2001")
    # nothing labeled is there for mr2ct; with all labels, the scan is one of the target
    assert download.sizes() == {"ct2mr": [1, 0, 0, 0], "ct2mr_100": [1, 0, 0, 0], "mr2ct_100": [1, 0, 0, 0]}


def test_all_broken_cases_are_listed_the_others_converted_and_the_next_run_goes_on(download, image, truncate) -> None:
    fill(download, image, ALL[:6])
    for case, voxels, affine in (
        (ALL[0], np.full(image.shape, 3, np.int16), None),
        (ALL[1], raw_label(image)[:, :, :6], None),
        (ALL[2], raw_label(image), np.diag([-0.5, 0.75, 3, 1])),
    ):
        (download.source / place(DECATHLON, case, "label")).unlink()
        download.write(place(DECATHLON, case, "label"), voxels, affine)
    whole = truncate(download.source / place(DECATHLON, ALL[3], "image"))
    with pytest.raises(InputError) as error:
        run(download)
    message = str(error.value)
    assert message.startswith("4 cases cannot be used, so no datalist was written:\n")
    assert f"{ALL[0]}_label.nii.gz: expected only the values 205, 420, 500, 820, got [3]" in message
    assert f"{ALL[1]}_label.nii.gz: expected shape" in message
    assert f"{ALL[2]}_label.nii.gz: expected the axes" in message
    assert f"{ALL[3]}_image.nii.gz: truncated, damaged or not an image" in message
    before = download.snapshot()
    assert set(before) == {f"{kind}Tr/{case}.nii.gz" for case in ALL[4:6] for kind in ("images", "labels")}

    for case in ALL[:3]:
        (download.source / place(DECATHLON, case, "label")).unlink()
    (download.source / place(DECATHLON, ALL[3], "image")).write_bytes(whole)
    run(download)
    assert len(download.manifest()["cases"]) == 3
    assert {name: download.snapshot()[name] for name in before} == before


def test_label_with_another_origin_gets_that_of_its_image_and_this_is_said(download, image, capfd) -> None:
    fill(download, image, ALL[:1])
    label = download.source / place(DECATHLON, ALL[0], "label")
    label.unlink()
    shifted = np.diag([-0.5, 0.75, 2, 1])
    shifted[:3, 3] = 10, 20, 30
    download.write(place(DECATHLON, ALL[0], "label"), raw_label(image), shifted)
    run(download)
    np.testing.assert_allclose(download.load(f"labelsTr/{ALL[0]}.nii.gz")[1], np.diag([-0.5, 0.75, 2, 1]))
    assert f"{label}: its origin differs" in capfd.readouterr().out


def test_repeated_run_changes_nothing_and_half_written_files_are_replaced(download, image, truncate) -> None:
    fill(download, image, ALL[:3])
    run(download)
    before = download.snapshot()
    run(download)
    assert download.snapshot() == before
    whole = truncate(download.output / f"labelsTr/{ALL[1]}.nii.gz")
    (download.output / f"labelsTr/.part-{ALL[1]}.nii.gz").write_bytes(whole[:20])
    (download.output / f"imagesTr/{ALL[2]}.nii.gz").unlink()
    run(download)
    after = download.snapshot()
    assert set(after) == set(before)
    np.testing.assert_array_equal(
        download.load(f"labelsTr/{ALL[1]}.nii.gz")[0], download.load(f"labelsTr/{ALL[0]}.nii.gz")[0]
    )
    assert after[f"imagesTr/{ALL[2]}.nii.gz"] == before[f"imagesTr/{ALL[2]}.nii.gz"]


def test_raw_labels_in_the_output_folder_are_not_touched(download, image) -> None:
    fill(download, image, ALL[:2], "{kind}sTr/{case}_{kind}.nii.gz")
    download.output = download.source
    before = download.snapshot()
    run(download)
    run(download)
    assert {name: download.snapshot()[name] for name in before} == before
    assert download.sizes()["ct2mr"] == [2, 0, 0, 0]


def test_datalist_of_the_other_validation_is_never_overwritten(download, image) -> None:
    fill(download, image)
    run(download)
    before = download.snapshot()
    with pytest.raises(InputError, match=r"datalist_ct2mr\.json: already exists with a different split"):
        run(download, validation="published")
    assert download.snapshot() == before


def test_dry_run_says_what_it_would_do_and_writes_nothing(download, image, capsys) -> None:
    fill(download, image)
    assert run(download, dry_run=True) is None
    assert "Dry run: would convert 40 cases" in capsys.readouterr().out
    assert not download.output.exists()


def test_case_in_both_layouts_is_named_with_both_files(download, image) -> None:
    fill(download, image, ALL[:2], DECATHLON)
    fill(download, image, ALL[:2], SIDE_BY_SIDE)
    with pytest.raises(InputError) as error:
        run(download)
    assert [line.split(": ")[1].split("got ")[1] for line in str(error.value).splitlines()] == [
        f"{case} twice" for case in ALL[:2]
    ]


def test_unknown_validation_is_named_with_the_known_ones(download) -> None:
    with pytest.raises(InputError, match="validation: expected one of none, published, got 'paper'"):
        run(download, validation="paper")


def test_folder_without_any_case_is_refused(download) -> None:
    with pytest.raises(InputError, match=r"no file ct_train_1001_image\.nii\.gz to mr_train_1020_image\.nii\.gz"):
        run(download)


LPS, RAI = np.diag([-1, -1, 2, 1]), np.diag([1, 1, -2, 1])
SECTIONS = ("training", "unlabeled", "validation", "testing")


def find_box(download, case: str, voxels: list[tuple[int, int, int]], affine: np.ndarray) -> list[list[int]]:
    """``published_box`` of a scan of 25 x 30 x 35 voxels with a label at ``voxels``."""
    label = np.zeros((25, 30, 35), np.int16)
    label[tuple(zip(*voxels, strict=True))] = 820
    for kind in ("image", "label"):
        voxels = np.arange(label.size, dtype=np.int32).reshape(label.shape) if kind == "image" else label
        download.write(place(DECATHLON, case, kind), voxels, affine)
    run(download)
    (entry,) = download.manifest()["cases"]
    box: list[list[int]] = entry["published_box"]
    items = [item for content in download.lists().values() for section in SECTIONS for item in content[section]]
    assert items
    assert all(item["published_box"] == box for item in items)
    return box


def test_box_has_4_voxels_before_the_label_and_3_after_it_along_lps(download) -> None:
    # from first - 4 to, but without, last + 4
    box = find_box(download, ALL[0], [(8, 9, 20), (10, 15, 20)], LPS)
    assert box == [[8 - 4, 10 + 4], [9 - 4, 15 + 4], [20 - 4, 20 + 4]]


def test_box_has_3_voxels_before_the_label_and_4_after_it_where_axes_are_stored_the_other_way(download) -> None:
    # for instance x: 8 to 10 of 25 is 14 to 16 in LPS, the box there 10 to 19, and that is 5 to 14 as stored
    box = find_box(download, ALL[0], [(8, 9, 20), (10, 15, 20)], RAI)
    assert box == [[8 - 3, 10 + 5], [9 - 3, 15 + 5], [20 - 3, 20 + 5]]


def test_box_is_in_the_order_of_the_stored_axes(download) -> None:
    # stored to the back, the feet and the left: only the second axis is the other way
    affine = np.array([[0, 0, -1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    box = find_box(download, ALL[0], [(8, 9, 20), (10, 15, 20)], affine)
    assert box == [[8 - 4, 10 + 4], [9 - 3, 15 + 5], [20 - 4, 20 + 4]]


@pytest.mark.parametrize("affine", [LPS, RAI], ids=["LPS", "RAI"])
def test_box_ends_with_the_volume(download, affine) -> None:
    box = find_box(download, ALL[0], [(2, 0, 1), (22, 29, 32)], affine)
    assert box == [[0, 25], [0, 30], [0, 35]]


# of 30 rows to the back, 20 to 28 are cleared
@pytest.mark.parametrize(("row", "end"), [(19, 19 + 4), (20, 12 + 4), (28, 12 + 4), (29, 30)])
def test_box_of_mr_train_1002_leaves_out_what_the_published_code_clears(download, row, end) -> None:
    kept, cleared = [(8, 5, 9), (9, 12, 20)], [(3, 12, 9), (8, 12, 3)]
    box = find_box(download, "mr_train_1002", [*kept, *cleared, (8, row, 9)], LPS)
    assert box == [[8 - 4, 9 + 4], [5 - 4, end], [9 - 4, 20 + 4]]
    classes, _ = download.load("labelsTr/mr_train_1002.nii.gz")
    assert np.count_nonzero(classes) == 5  # the label itself stays whole


def test_what_is_cleared_of_mr_train_1002_lies_in_lps_however_it_is_stored(download) -> None:
    # the voxels of the test above, counted from the other end: of 25, 30 and 35
    voxels = [(24 - x, 29 - y, 34 - z) for x, y, z in [(8, 5, 9), (9, 12, 20), (3, 12, 9), (8, 12, 3), (8, 25, 9)]]
    box = find_box(download, "mr_train_1002", voxels, RAI)
    assert box == [[25 - 13, 25 - 4], [30 - 16, 30 - 1], [35 - 24, 35 - 5]]


def test_mr_train_1002_with_nothing_but_what_is_cleared_is_refused(download) -> None:
    with pytest.raises(InputError, match=r"mr_train_1002\.nii\.gz: expected at least one label value above 0"):
        find_box(download, "mr_train_1002", [(3, 12, 9)], LPS)


def strip_boxes(download) -> None:
    """The lists as they were before there were boxes."""
    for suffix, content in download.lists().items():
        for section in SECTIONS:
            for item in content[section]:
                del item["published_box"]
        (download.output / f"datalist_{suffix}.json").write_text(json.dumps(content, indent=2) + "\n")


def test_older_lists_get_the_boxes_and_nothing_else_changes(download, image, capsys) -> None:
    fill(download, image)
    run(download)
    assert "published_box" not in capsys.readouterr().out
    expected = download.snapshot()
    strip_boxes(download)
    assert download.snapshot() != expected
    run(download)
    assert download.snapshot() == expected
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "published_box" in line]
    names, said = line.split(": ")
    assert set(names.split(", ")) == {f"datalist_{suffix}.json" for suffix in download.lists()}
    assert said == "the split is unchanged; `published_box` was added to the items that lacked it."


def test_older_list_of_another_split_is_refused_before_anything_is_written(download, image) -> None:
    fill(download, image)
    run(download)
    strip_boxes(download)
    (download.output / f"labelsTr/{ALL[0]}.nii.gz").unlink()  # a run that got further would write it again
    before = download.snapshot()
    with pytest.raises(InputError, match=r"datalist_ct2mr\.json: already exists with a different split"):
        run(download, validation="published")
    assert download.snapshot() == before


def test_list_with_another_box_is_never_overwritten(download, image) -> None:
    fill(download, image)
    run(download)
    path = download.output / "datalist_ct2mr.json"
    content = download.lists()["ct2mr"]
    content["unlabeled"][0]["published_box"][2][0] += 1
    path.write_text(json.dumps(content))
    before = download.snapshot()
    with pytest.raises(
        InputError,
        match=r"datalist_ct2mr\.json: already exists with a different `published_box` than that of the labels",
    ):
        run(download)
    assert download.snapshot() == before
