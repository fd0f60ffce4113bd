# SPDX-License-Identifier: Apache-2.0
"""MMWHS from both layouts: classes, domains, held-back cases, and everything untidy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.errors import InputError
from dtlp_components.prepare import common
from dtlp_components.prepare.mmwhs import prepare_mmwhs

SPLIT = json.loads((Path(common.__file__).parents[1] / "recipes/splits/mmwhs.json").read_text())
ALL = [f"{modality}_train_{number}" for modality in ("ct", "mr") for number in range(1001, 1021)]
RAW_VALUES = (205, 420, 500, 820)
SIDE_BY_SIDE, DECATHLON = "{modality}_train/{case}_{kind}.nii.gz", "{MODALITY}/{kind}sTr/{case}_{kind}.nii.gz"


def place(layout: str, case: str, kind: str) -> str:
    return layout.format(case=case, kind=kind, modality=case[:2], MODALITY=case[:2].upper())


def raw_label(image, *values: int) -> np.ndarray:
    """The four structures, 1 to 4 voxels of them in this order, and one voxel of each of the further ``values``."""
    label = np.zeros(image.shape, np.int16)
    label.flat[:10] = np.repeat(RAW_VALUES, (1, 2, 3, 4))
    label.flat[10 : 10 + len(values)] = values
    return label


def fill(download, image, cases=ALL, layout=DECATHLON, label=None) -> None:
    label = raw_label(image, 550, 600, 850) if label is None else label
    first = [download.write(place(layout, cases[0], kind), v) for kind, v in (("image", image), ("label", label))]
    for case in cases[1:]:
        for file, kind in zip(first, ("image", "label")):
            download.copy(file, place(layout, case, kind))


def run(download, **kwargs) -> Path | None:
    return prepare_mmwhs(str(download.source), str(download.output), **kwargs)


def cases(items: list[dict[str, str]]) -> list[str]:
    return [Path(item["image"]).name.removesuffix(".nii.gz") for item in items]


def test_complete_release_gives_the_published_numbers_and_no_validation_cases(download, image, capsys) -> None:
    fill(download, image)
    assert run(download) == download.output
    # of 20 scans of the target: 13 unlabelled, 4 for testing, and 3 that the published code validates on
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
        assert len(held_back) == 3 and not set(held_back) & set(listed)
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
    assert all(set(item) == {"image", "domain"} for item in content["unlabeled"])


@pytest.mark.parametrize("layout", [DECATHLON, SIDE_BY_SIDE])
def test_raw_values_become_classes_on_the_images_grid_in_both_layouts(download, image, layout) -> None:
    fill(download, image, ALL[:1], layout)
    run(download)
    classes, affine = download.load(f"labelsTr/{ALL[0]}.nii.gz")
    expected = np.zeros(image.shape, np.uint8)
    expected.flat[:10] = [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]
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
        assert case["label_counts"] == {"0": 120 - 10, "1": 1, "2": 2, "3": 3, "4": 4}


def test_missing_unlabelled_and_unexpected_cases_are_named_and_left_out(download, image, capsys) -> None:
    fill(download, image, ["ct_train_1001", "ct_train_1002"])
    (download.source / place(DECATHLON, "ct_train_1002", "label")).unlink()
    download.write("ct_test/ct_test_2001_image.nii.gz", image)
    (download.source / "CT/imagesTr/._ct_train_1004_image.nii.gz").write_bytes(b"\0Mac OS X")
    run(download)
    summary, missing, without_label, unexpected = capsys.readouterr().out.splitlines()[:4]
    assert summary == "1 of 40 published cases."
    assert "left out (38): ct_train_1003" in missing and "ct_train_1004" in missing
    assert without_label.endswith("(1): ct_train_1002") and unexpected.endswith("(1): ct_test_2001")
    # nothing labelled is there for mr2ct; with all labels, the scan is one of the target
    assert download.sizes() == {"ct2mr": [1, 0, 0, 0], "ct2mr_100": [1, 0, 0, 0], "mr2ct_100": [1, 0, 0, 0]}


def test_all_broken_cases_are_listed_the_others_converted_and_the_next_run_goes_on(download, image, truncate) -> None:
    fill(download, image, ALL[:6])
    for case, voxels, affine in (
        (ALL[0], np.full(image.shape, 3, np.int16), None),
        (ALL[1], raw_label(image)[:, :, :5], None),
        (ALL[2], raw_label(image), np.diag([-0.5, 0.75, 3, 1])),
    ):
        (download.source / place(DECATHLON, case, "label")).unlink()
        download.write(place(DECATHLON, case, "label"), voxels, affine)
    whole = truncate(download.source / place(DECATHLON, ALL[3], "image"))
    with pytest.raises(InputError) as error:
        run(download)
    message = str(error.value)
    assert message.startswith("4 cases cannot be used, no datalist is written:\n")
    assert f"{ALL[0]}_label.nii.gz: found the values [3], wanted some of 205, 420, 500, 820" in message
    assert f"{ALL[1]}_label.nii.gz: found shape (4, 5, 5), wanted that of its image, (4, 5, 6)" in message
    assert f"{ALL[2]}_label.nii.gz: found the axes" in message
    assert f"{ALL[3]}_image.nii.gz: cannot be read as NIfTI" in message
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
    with pytest.raises(InputError, match=r"datalist_ct2mr\.json: exists with another split"):
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
    assert [line.split(", ")[0].split("case ")[1] for line in str(error.value).splitlines()] == [
        f"{case} twice" for case in ALL[:2]
    ]


def test_unknown_validation_is_named_with_the_known_ones(download) -> None:
    with pytest.raises(InputError, match="validation: found 'paper', wanted one of: none, published"):
        run(download, validation="paper")


def test_folder_without_any_case_is_refused(download) -> None:
    with pytest.raises(InputError, match=r"found no file ct_train_1001_image\.nii\.gz to mr_train_1020_image\.nii\.gz"):
        run(download)
