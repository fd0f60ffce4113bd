# SPDX-License-Identifier: Apache-2.0
"""Synapse from both layouts and with each partition, tidy and untidy."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.datasets import published as common
from dtlp_components.datasets.synapse import prepare_synapse
from dtlp_components.errors import InputError

SPLIT = json.loads((Path(common.__file__).parents[1] / "recipes/splits/synapse.json").read_text())
IDS = SPLIT["all_ids"]
RAW_DATA, DECATHLON = ("RawData/Training/img", "RawData/Training/label"), ("imagesTr", "labelsTr")


def label_of(image) -> np.ndarray:
    return np.where(image < 14, image, 0).astype(np.uint8)  # one voxel of each class


def fill(download, image, cases=IDS, layout=RAW_DATA) -> None:
    first = [
        download.write(f"{folder}/{stem}{cases[0]}.nii.gz", voxels)
        for folder, stem, voxels in zip(layout, ("img", "label"), (image, label_of(image)), strict=True)
    ]
    for case in cases[1:]:
        for file, folder, stem in zip(first, layout, ("img", "label"), strict=True):
            download.copy(file, f"{folder}/{stem}{case}.nii.gz")


def run(download, **kwargs) -> Path | None:
    return prepare_synapse(str(download.source), str(download.output), **kwargs)


def images(items: list[dict[str, str]]) -> list[str]:
    return [item["image"] for item in items]


def test_default_takes_20_percent_from_genericssl_and_10_from_skcdf(download, image) -> None:
    fill(download, image)
    assert run(download) == download.output
    # 10 and 20 % of 20 training cases; 4 and 6 are left of the 30
    assert download.sizes() == {"10": [2, 18, 4, 6], "20": [4, 16, 4, 6], "100": [20, 0, 4, 6]}
    lists = download.lists()
    assert {suffix: content["protocol"] for suffix, content in lists.items()} == {
        "10": "skcdf",
        "20": "genericssl",
        "100": "genericssl",
    }
    assert images(lists["20"]["training"]) == [
        f"imagesTr/img{case}.nii.gz" for case in ("0009", "0021", "0025", "0034")
    ]
    assert images(lists["10"]["training"]) == [f"imagesTr/img{case}.nii.gz" for case in ("0007", "0030")]
    assert lists["10"]["testing"] == lists["20"]["testing"]


@pytest.mark.parametrize(
    ("protocol", "labeled"),
    [("genericssl", {"20": 4}), ("skcdf", {"10": 2, "20": 4}), ("dhc_2023", {"10": 2, "20": 4, "40": 8})],
)
def test_protocol_gives_all_percentages_it_publishes(download, image, protocol, labeled) -> None:
    fill(download, image)
    run(download, protocol=protocol)
    expected = {percent: [number, 20 - number, 4, 6] for percent, number in labeled.items()}
    assert download.sizes() == expected | {"100": [20, 0, 4, 6]}
    partition = SPLIT["protocols"][protocol]
    for content in download.lists().values():
        assert content["split_source"]["repo"] == partition["source"]["repo"]
        assert images(content["validation"]) == [f"imagesTr/img{case}.nii.gz" for case in partition["validation"]]
        assert all(set(item) == {"image"} for item in content["unlabeled"])


@pytest.mark.parametrize("layout", [RAW_DATA, DECATHLON, ("a/b/together", "a/b/together")], ids=lambda x: x[0])
def test_scans_of_every_layout_are_placed_and_not_converted(download, image, layout) -> None:
    fill(download, image, ["0009"], layout)
    run(download)
    assert download.lists()["20"]["training"] == [
        {"image": "imagesTr/img0009.nii.gz", "label": "labelsTr/label0009.nii.gz"}
    ]
    raw = download.source / layout[1] / "label0009.nii.gz"
    assert (download.output / "labelsTr/label0009.nii.gz").read_bytes() == raw.read_bytes()


def test_manifest_describes_every_case(download, image) -> None:
    fill(download, image, ["0009", "0021"])
    run(download)
    content = download.manifest()
    assert content["missing"] == sorted(set(IDS) - {"0009", "0021"})
    assert len(content["cases"]) == 2
    case = content["cases"][1]
    assert case["image"] == "imagesTr/img0021.nii.gz"
    assert (case["shape"], case["spacing_mm"]) == ([4, 5, 6], [0.5, 0.75, 2])
    # 120 different values from 0: those below 14 are their own class
    assert case["label_counts"] == {"0": 120 - 13} | {str(value): 1 for value in range(1, 14)}
    assert len(case["sha256"]["image"]) == 64
    assert case["sha256"]["image"] != case["sha256"]["label"]


def test_missing_unlabeled_and_unexpected_cases_are_named_and_left_out(download, image, capsys) -> None:
    fill(download, image, ["0009", "0021"])
    download.write("RawData/Training/img/img0025.nii.gz", image)
    download.write("RawData/Testing/img/img0061.nii.gz", image)
    (download.source / "RawData/Training/img/._img0034.nii.gz").write_bytes(b"\0Mac OS X")
    run(download)
    summary, missing, without_label, unexpected = capsys.readouterr().out.splitlines()[:4]
    assert summary == "2 of 30 published cases found."
    assert missing.startswith("Published cases that are missing; they are excluded (27): 0001, ")
    assert "0034" in missing
    assert "0025" not in missing
    assert "0009" not in missing
    assert without_label.endswith("(1): 0025")
    assert unexpected.endswith("(1): 0061")
    # without the two labeled cases of the 10 %, 0007 and 0030, there is no list of that
    assert download.sizes() == {"20": [2, 0, 0, 0], "100": [2, 0, 0, 0]}
    assert len(list((download.output / "imagesTr").iterdir())) == 2


def test_all_broken_cases_are_listed_the_others_placed_and_the_next_run_goes_on(download, image, truncate) -> None:
    fill(download, image, IDS[:6])
    labels, whole = download.source / RAW_DATA[1], label_of(image)
    for case, voxels, affine in (
        ("0001", np.where(image == 50, 14, whole).astype(np.uint8), None),
        ("0002", np.zeros((4, 5, 7), np.uint8), None),
        ("0003", whole, np.diag([-0.5, 0.75, 3, 1])),
    ):
        (labels / f"label{case}.nii.gz").unlink()
        download.write(f"{RAW_DATA[1]}/label{case}.nii.gz", voxels, affine)
    truncate(download.source / RAW_DATA[0] / "img0004.nii.gz")
    with pytest.raises(InputError) as error:
        run(download)
    message = str(error.value)
    assert message.startswith("4 cases cannot be used, so no datalist was written:\n")
    assert "label0001.nii.gz: expected only the values [0, 1, 2, 3," in message
    assert "label0002.nii.gz: expected the label on the grid of its image, got shape [4, 5, 7]" in message
    assert "label0003.nii.gz: its affine differs" in message
    assert "img0004.nii.gz: truncated, damaged or not an image" in message
    assert sorted(file.name for file in download.output.rglob("*")) == sorted(
        ["imagesTr", "labelsTr"] + [f"{stem}{case}.nii.gz" for case in IDS[4:6] for stem in ("img", "label")]
    )

    for case in IDS[:4]:
        (labels / f"label{case}.nii.gz").unlink()
    run(download)
    assert len(download.manifest()["cases"]) == 2


def test_repeated_run_changes_nothing_and_one_that_was_interrupted_is_completed(download, image) -> None:
    fill(download, image, IDS[:12])
    run(download)
    before = download.snapshot()
    run(download)
    assert download.snapshot() == before
    for name in ("imagesTr/img0002.nii.gz", "labelsTr/label0005.nii.gz", "datalist_20.json", "manifest.json"):
        (download.output / name).unlink()
    (download.output / "imagesTr/.part-img0002.nii.gz").write_bytes(b"half")
    run(download)
    assert download.snapshot() == before


def test_datalist_of_another_partition_is_never_overwritten(download, image) -> None:
    fill(download, image)
    run(download)
    before = download.snapshot()
    with pytest.raises(InputError, match=r"datalist_10.json: already exists with a different split"):
        run(download, protocol="dhc_2023")
    assert download.snapshot() == before


def test_scan_of_another_content_in_the_output_is_left_alone(download, image) -> None:
    fill(download, image, ["0009"])
    target = download.output / "imagesTr/img0009.nii.gz"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"img0009.nii.gz: already exists and differs"):
        run(download)
    assert target.read_bytes() == b"mine"


def test_dry_run_says_what_it_would_do_and_writes_nothing(download, image, capsys) -> None:
    fill(download, image)
    assert run(download, dry_run=True) is None
    assert "Dry run: would place 30 cases" in capsys.readouterr().out
    assert not download.output.exists()


def test_case_that_is_there_twice_is_named_with_both_files(download, image) -> None:
    fill(download, image, ["0009"])
    fill(download, image, ["0009"], ("copy/imagesTr", "copy/labelsTr"))
    with pytest.raises(InputError, match=r"got 0009 twice: .*RawData/.*img0009.* and .*copy/.*img0009"):
        run(download)


@pytest.mark.parametrize("below", [".", "prepared"])
def test_what_an_earlier_run_put_into_the_source_is_no_second_copy(download, image, monkeypatch, below) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)  # so that nothing can be recognized by being the same file
    for file in ("img/img0009", "label/label0009"):
        download.write(f"RawData/Training/{file}.nii.gz", image if "img0" in file else label_of(image))
    download.output = download.source / below
    run(download)
    before = download.snapshot()
    run(download)
    assert download.snapshot() == before
    assert "imagesTr/img0009.nii.gz" in before


def test_unknown_protocol_is_named_with_the_known_ones(download) -> None:
    with pytest.raises(InputError, match="protocol: expected one of default, genericssl, skcdf, dhc_2023, got 'dhc'"):
        run(download, protocol="dhc")


def test_folder_without_any_labeled_case_is_refused(download, image) -> None:
    with pytest.raises(InputError, match=r"no file img0001\.nii\.gz to img0040\.nii\.gz at any depth"):
        run(download)
    fill(download, image, SPLIT["protocols"]["genericssl"]["test"])
    with pytest.raises(InputError, match="at least one of the published labeled cases, got none"):
        run(download)
    assert not download.output.exists()
