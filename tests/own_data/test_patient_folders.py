# SPDX-License-Identifier: Apache-2.0
"""A folder for each patient, as public data sets have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtlp_components.errors import InputError
from dtlp_components.own_data.channels import Channels
from dtlp_components.own_data.patient_folders import find_in_folders
from tests.own_data.scans import cases, label, listed, make, mr, read, refusal, save, train


def touch(root: Path, *names: str) -> Path:
    for name in names:
        file = root / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def found(root: Path, given: Channels | None = None) -> list[tuple[str, str, str | None, str]]:
    scans, _ = find_in_folders(root, given)
    return [
        (s.case, str(s.image.relative_to(root)), s.label and str(s.label.relative_to(root)), s.patient) for s in scans
    ]


def test_brats(tmp_path: Path) -> None:
    kinds = ("t1c", "t1n", "t2f", "seg")
    touch(tmp_path, *(f"BraTS-{i}/BraTS-{i}-{kind}" for i in (1, 2) for kind in kinds))
    assert found(tmp_path) == [
        (f"BraTS-{i}", f"BraTS-{i}/BraTS-{i}-t1c.nii.gz", f"BraTS-{i}/BraTS-{i}-seg.nii.gz", f"BraTS-{i}")
        for i in (1, 2)
    ]
    assert find_in_folders(tmp_path)[1] == Channels(3, ("t1c", "t1n", "t2f"))


def test_kits(tmp_path: Path) -> None:
    touch(tmp_path, *(f"case_0000{i}/{name}" for i in (0, 1) for name in ("imaging", "segmentation")))
    assert found(tmp_path) == [
        (f"case_0000{i}_imaging".removesuffix("_imaging"), f"case_0000{i}/imaging.nii.gz",
         f"case_0000{i}/segmentation.nii.gz", f"case_0000{i}")
        for i in (0, 1)
    ]  # fmt: skip
    assert find_in_folders(tmp_path)[1] == Channels(1, ("imaging",))


def test_bids_with_labels_among_the_derivatives(tmp_path: Path) -> None:
    for i in ("01", "02"):
        touch(tmp_path, f"sub-{i}/anat/sub-{i}_T1w", f"sub-{i}/anat/sub-{i}_FLAIR")
        touch(tmp_path, f"derivatives/labels/sub-{i}/anat/sub-{i}_dseg")
    scans = found(tmp_path)
    assert [scan[1:] for scan in scans] == [
        (f"sub-{i}/anat/sub-{i}_FLAIR.nii.gz", f"derivatives/labels/sub-{i}/anat/sub-{i}_dseg.nii.gz", f"sub-{i}")
        for i in ("01", "02")
    ]
    assert find_in_folders(tmp_path)[1] == Channels(2, ("FLAIR", "T1w"))
    assert find_in_folders(tmp_path, Channels(1, ("T1w",)))[1] == Channels(1, ("T1w",))


def test_totalsegmentator_has_a_folder_of_masks(tmp_path: Path) -> None:
    for i in (1, 2):
        touch(tmp_path, f"s000{i}/ct", f"s000{i}/segmentations/liver", f"s000{i}/segmentations/spleen")
    assert found(tmp_path) == [(f"s000{i}", f"s000{i}/ct.nii.gz", f"s000{i}/segmentations", f"s000{i}") for i in (1, 2)]


def test_two_visits_of_a_patient_are_two_scans_of_one_patient(tmp_path: Path) -> None:
    for visit in ("pre", "post"):
        touch(tmp_path, f"p1/{visit}/scan_t1", f"p1/{visit}/scan_seg", f"p2/{visit}/scan_t1", f"p2/{visit}/scan_seg")
    assert [(case, patient) for case, _, _, patient in found(tmp_path)] == [
        ("p1_post_scan", "p1"), ("p1_pre_scan", "p1"), ("p2_post_scan", "p2"), ("p2_pre_scan", "p2")
    ]  # fmt: skip


def test_several_scans_in_one_folder_have_each_its_label(tmp_path: Path) -> None:
    touch(tmp_path, *(f"p{p}/p{p}_visit{v}{end}" for p in (1, 2) for v in (1, 2) for end in ("", "_gt")))
    assert [(Path(image).name, Path(str(seg)).name) for _, image, seg, _ in found(tmp_path)] == [
        (f"p{p}_visit{v}.nii.gz", f"p{p}_visit{v}_gt.nii.gz") for p in (1, 2) for v in (1, 2)
    ]


def test_folders_of_many_scans_are_no_patients(tmp_path: Path) -> None:
    touch(tmp_path, *(f"site_{site}/scan{i}" for site in "ab" for i in range(13)))
    assert {patient for *_, patient in found(tmp_path)} == {""}


def test_patient_who_lacks_a_channel_is_found_too(tmp_path: Path) -> None:
    touch(tmp_path, "p1/t1", "p1/t2", "p2/t2", "p3/t1", "p3/t2")
    assert [image for _, image, *_ in found(tmp_path)] == [f"p{i}/t1.nii.gz" for i in (1, 2, 3)]


def test_labels_that_could_belong_to_either_scan_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "p1/t1", "p1/tumor_seg", "p1/edema_seg")
    with pytest.raises(
        InputError, match=r"p1/t1.nii.gz: expected one label, .*, got 2 labels \(edema_seg.nii.gz, tumor_seg"
    ):
        find_in_folders(tmp_path)


def test_bundle_is_made_of_patients_folders_and_no_patient_is_on_both_sides(near: Path) -> None:
    for i in range(4):
        for channel in ("t1", "t2"):
            save(near / f"brats/b{i}/b{i}_{channel}.nii.gz", mr(10 * i + len(channel) + ord(channel[1])))
        save(near / f"brats/b{i}/b{i}_seg.nii.gz", label(1, 2))
        save(near / f"more/c{i}/c{i}_t1.nii.gz", mr(70 + i))
        save(near / f"more/c{i}/c{i}_t2.nii.gz", mr(80 + i))
    bundle = make(labeled="brats", unlabeled="more", validation_share=0.25)
    assert (train()["in_channels"], train()["channels"]) == (2, ["t1", "t2"])
    assert len(cases("training")) == 3
    assert [item["patient"] for item in listed()["unlabeled"]] == ["c0", "c1", "c2", "c3"]
    # inference begins with all of them
    assert read(bundle / "configs/inference.json")["input"] == str(near / "more")


def test_scans_without_a_channel_are_refused_unless_the_network_learns_to_do_without(near: Path) -> None:
    for i in range(2):
        for channel in ("t1", "t2"):
            save(near / f"brats/b{i}/b{i}_{channel}.nii.gz", mr(10 * i + ord(channel[1])))
        save(near / f"brats/b{i}/b{i}_seg.nii.gz", label(1, 2))
        save(near / f"more/c{i}/c{i}_t1.nii.gz", mr(70 + i))
    message = refusal(labeled="brats", unlabeled="more")
    assert "more/c0/c0_t2.nii.gz: no such file; expected 2 channels of this scan, got c0_t1.nii.gz" in message
    assert "--channel_dropout 0.2 trains with scans that lack channels" in message
    make(labeled="brats", unlabeled="more", channel_dropout=0.2)
    assert train()["channel_dropout"] == 0.2
    assert len(listed()["unlabeled"]) == 2
