# SPDX-License-Identifier: Apache-2.0
"""Scans of one patient are trained on or scored, not both."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtlp_components.keys import DatalistKeys as Keys
from dtlp_components.own_data.find import Scan
from dtlp_components.own_data.patients import with_patients
from tests.own_data.scans import cases, label, listed, make, mr, refusal, save


def groups(*names: str, pattern: str = "") -> list[list[str]]:
    """Names by patient."""
    sections, _, _ = with_patients({Keys.TRAINING: [Scan(name, f"{name}.nii") for name in names]}, pattern)
    found: dict[str, list[str]] = {}
    for scan in sections[Keys.TRAINING]:
        found.setdefault(scan.patient, []).append(scan.case)
    return sorted(found.values())


@pytest.mark.parametrize(
    "grouped",
    [
        [["patient001_frame01", "patient001_frame12"], ["patient002_frame01"]],
        [["case_001_1", "case_001_2"], ["case_002_1"]],
        [["A12-pre", "A12-visit2"], ["A13-pre"]],
        [["C0001_ED", "C0001_ES"], ["C0002_ED"]],
        [["hippocampus_001"], ["hippocampus_002"]],  # one number is that of the patient
        [["scan1"], ["scan2"]],
        [["t1"], ["t2"]],
        [["BraTS20_001"], ["BraTS20_002"]],  # all of one: no patient
        [[f"study1_{i}"] for i in range(13)] + [["study2_1"]],  # more scans than a patient has
    ],
)
def test_names_suggest_who_has_several_scans(grouped: list[list[str]]) -> None:
    assert groups(*(name for names in grouped for name in names)) == sorted(grouped)


def test_pattern_finds_the_patient() -> None:
    assert groups("x-anna-1", "x-anna-2", "x-bert-1", pattern=r"x-(\w+)") == [["x-anna-1", "x-anna-2"], ["x-bert-1"]]
    assert groups("anna1", "anna2", "bert1", pattern="[a-z]+") == [["anna1", "anna2"], ["bert1"]]
    assert groups("p1_1", "p1_2", pattern=".*") == [["p1_1"], ["p1_2"]]


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "expected a valid regular expression"), ("q", "got none in 'a'")]
)
def test_pattern_that_finds_nobody_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        groups("a", pattern=pattern)


def cohort(near: Path, patients: int = 6) -> None:
    for patient in range(patients):
        for frame in range(2):
            save(near / f"acdc/patient{patient:03d}_frame{frame}.nii.gz", mr(2 * patient + frame))
            save(near / f"acdc/patient{patient:03d}_frame{frame}_gt.nii.gz", label(1, 2))


def test_validation_gets_whole_patients_and_the_guess_is_told(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort(near)
    make(labeled="acdc", validation_share=0.3)
    sides = [{name[:10] for name in cases(section)} for section in ("training", "validation")]
    assert len(cases("validation")) == 4
    assert sides[0].isdisjoint(sides[1])
    assert "6 patients have several scans, judging by their names (patient000_frame0, patient000_frame1" in (
        capsys.readouterr().out
    )
    assert all("patient" not in item for item in listed()["training"])  # a guess is not written down


def test_patients_that_are_named_are_written_into_the_list(near: Path) -> None:
    cohort(near)
    make(labeled="acdc", patient="patient(...)", validation_share=0.5)
    assert [item["patient"] for item in listed()["training"]] == [name[7:10] for name in cases("training")]


def test_patient_on_both_sides_is_refused_if_named_and_noted_if_guessed(
    near: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort(near, patients=2)
    for part in ("_gt", ""):
        name = f"patient000_frame1{part}.nii.gz"
        (near / "val").mkdir(exist_ok=True)
        (near / "acdc" / name).rename(near / "val" / name)
    message = refusal(labeled="acdc", validation="val", patient="patient...")
    assert "is of patient 'patient000', as is" in message
    assert "expected each patient on one side" in message
    make(labeled="acdc", validation="val")
    assert "scores may be too good" in capsys.readouterr().out


def test_scans_of_one_name_in_several_folders_are_not_of_one_patient() -> None:
    scans = [Scan("t1", f"p{i}/t1.nii") for i in range(3)] + [Scan("t2_1", "p1/t2_1.nii"), Scan("t2_2", "p1/t2_2.nii")]
    sections, named, notes = with_patients({Keys.TRAINING: scans})
    assert not named
    assert len({scan.patient for scan in sections[Keys.TRAINING]}) == 4
    assert notes[0].startswith("1 patient has several scans")
