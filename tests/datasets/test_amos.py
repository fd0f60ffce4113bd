# SPDX-License-Identifier: Apache-2.0
"""AMOS from its own folders, tidy and untidy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.datasets import published as common
from dtlp_components.datasets.amos import prepare_amos
from dtlp_components.errors import InputError

SPLIT = json.loads((Path(common.__file__).parents[1] / "recipes/splits/amos.json").read_text())
ALL = [*SPLIT["train"], *SPLIT["validation"], *SPLIT["test"]]
LABELED = SPLIT["settings"]["2%"]["labeled"]


def fill(download, image, cases, top="amos22") -> None:
    label = np.where(image < 16, image, 0).astype(np.uint8)  # one voxel of each class
    files = [download.write("template/image.nii.gz", image), download.write("template/label.nii.gz", label)]
    for case in cases:
        folder = "Va" if case in SPLIT["test"] else "Tr"
        for kind, file in zip(("images", "labels"), files, strict=True):
            download.copy(file, f"{top}/{kind}{folder}/{case}.nii.gz")


def run(download, **kwargs) -> Path | None:
    return prepare_amos(str(download.source), str(download.output), **kwargs)


@pytest.mark.slow
def test_complete_release_gives_the_published_numbers(download, image) -> None:
    fill(download, image, ALL)
    assert run(download) == download.output
    # 216 training cases; the 20 % of the same source, which label validation cases, are not written
    assert download.sizes() == {
        "2": [4, 212, 24, 120],
        "5": [10, 206, 24, 120],
        "10": [21, 195, 24, 120],
        "100": [216, 0, 24, 120],
    }
    content = download.lists()["5"]
    everything = [item for section in ("training", "unlabeled", "validation", "testing") for item in content[section]]
    assert len({item["image"] for item in everything}) == 360
    # the challenge numbered its MR scans from 507 on
    assert all(item["domain"] == ("MR" if int(item["image"][-11:-7]) >= 507 else "CT") for item in everything)
    assert sum(item["domain"] == "MR" for item in content["training"]) == 3
    assert all(set(item) == {"image", "domain"} for item in content["unlabeled"])
    assert all(item["image"].startswith("imagesVa/") for item in content["testing"])
    assert len(download.manifest()["cases"]) == 360


@pytest.mark.parametrize("top", [".", "amos22", "deep/er"])
def test_scans_are_found_at_any_depth_and_placed_unchanged(download, image, top) -> None:
    fill(download, image, LABELED[:1], top)
    run(download)
    name = f"Tr/{LABELED[0]}.nii.gz"
    assert download.lists()["2"]["training"] == [{"image": f"images{name}", "label": f"labels{name}", "domain": "CT"}]
    for kind in ("images", "labels"):
        assert (download.output / f"{kind}{name}").samefile(download.source / top / f"{kind}{name}")


def test_missing_unlabeled_and_unexpected_cases_are_named_and_left_out(download, image, capsys) -> None:
    fill(download, image, LABELED[:2])
    (download.source / f"amos22/labelsTr/{LABELED[1]}.nii.gz").unlink()
    download.write("amos22/imagesTs/amos_0999.nii.gz", image)
    (download.source / "amos22/imagesTr/._amos_0001.nii.gz").write_bytes(b"\0Mac OS X")
    run(download)
    summary, missing, without_label, unexpected = capsys.readouterr().out.splitlines()[:4]
    assert summary == "1 of 360 published cases found."
    assert "excluded (358): amos_0001" in missing
    assert LABELED[0] not in missing
    assert without_label.endswith(f"(1): {LABELED[1]}")
    assert unexpected.endswith("(1): amos_0999")
    assert download.sizes() == {"2": [1, 0, 0, 0], "100": [1, 0, 0, 0]}
    assert download.manifest()["missing"] == sorted(set(ALL) - {LABELED[0]})


def test_all_broken_cases_are_listed_the_others_placed_and_the_next_run_goes_on(download, image, truncate) -> None:
    cases = [*LABELED, SPLIT["test"][0]]
    fill(download, image, cases)
    labels = download.source / "amos22/labelsTr"
    for case, voxels, affine in (
        (LABELED[0], np.full((4, 5, 6), 16, np.uint8), None),
        (LABELED[1], np.zeros((4, 6, 5), np.uint8), None),
        (LABELED[2], np.zeros((4, 5, 6), np.uint8), np.diag([-0.5, -0.75, 2, 1])),
    ):
        (labels / f"{case}.nii.gz").unlink()
        download.write(f"amos22/labelsTr/{case}.nii.gz", voxels, affine)
    whole = truncate(labels / f"{LABELED[3]}.nii.gz")
    with pytest.raises(InputError) as error:
        run(download)
    message = str(error.value)
    assert message.startswith("4 cases cannot be used, so no datalist was written:\n")
    assert f"labelsTr/{LABELED[0]}.nii.gz: expected only the values" in message
    assert f"labelsTr/{LABELED[1]}.nii.gz: expected the label on the grid of its image, got shape [4, 6, 5]" in message
    assert f"labelsTr/{LABELED[2]}.nii.gz: its affine differs" in message
    assert f"labelsTr/{LABELED[3]}.nii.gz: truncated, damaged or not an image" in message
    assert set(download.snapshot()) == {f"{kind}Va/{SPLIT['test'][0]}.nii.gz" for kind in ("images", "labels")}

    for case in LABELED:
        (labels / f"{case}.nii.gz").write_bytes(whole)
    run(download)
    assert download.sizes()["2"] == [4, 0, 0, 1]


def test_repeated_run_changes_nothing_and_one_that_was_interrupted_is_completed(download, image) -> None:
    fill(download, image, LABELED)
    run(download)
    before = download.snapshot()
    run(download)
    assert download.snapshot() == before
    for name in (f"imagesTr/{LABELED[2]}.nii.gz", "datalist_2.json"):
        (download.output / name).unlink()
    run(download)
    assert download.snapshot() == before


def test_output_may_be_the_source(download, image) -> None:
    fill(download, image, LABELED, ".")
    download.output = download.source
    before = download.snapshot()
    run(download)
    after = download.snapshot()
    assert set(after) - set(before) == {f"datalist_{suffix}.json" for suffix in (2, 10, 100)} | {"manifest.json"}
    assert all(after[name] == before[name] for name in before)


@pytest.mark.slow
def test_datalist_of_another_set_of_cases_is_not_overwritten(download, image) -> None:
    fill(download, image, LABELED[:2])
    run(download)
    before = download.lists()
    fill(download, image, LABELED[2:])
    with pytest.raises(InputError, match=r"datalist_2.json: already exists with a different split"):
        run(download)
    assert download.lists() == before


def test_dry_run_says_what_it_would_do_and_writes_nothing(download, image, capsys) -> None:
    fill(download, image, LABELED)
    assert run(download, dry_run=True) is None
    assert "Dry run: would place 4 cases" in capsys.readouterr().out
    assert not download.output.exists()


def test_case_that_is_there_twice_is_named_with_both_files(download, image) -> None:
    fill(download, image, LABELED[:1])
    fill(download, image, LABELED[:1], "copy")
    with pytest.raises(InputError, match=f"got {LABELED[0]} twice: .*amos22/.* and .*copy/"):
        run(download)


def test_folder_without_any_case_is_refused(download) -> None:
    with pytest.raises(InputError, match=r"no file imagesTr/amos_0001\.nii\.gz to"):
        run(download)
