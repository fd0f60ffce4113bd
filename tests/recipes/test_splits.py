# SPDX-License-Identifier: Apache-2.0
"""The published splits: whole, disjoint, of the sizes the documentation states; and every command is reachable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dtlp_components.cli import COMMANDS, main
from dtlp_components.datasets import published as common

ROOT = Path(common.__file__).parents[2]
SPLITS = {
    path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "dtlp_components/recipes/splits").glob("*.json"))
}


def sections() -> dict[str, list[list[str]]]:
    """Labeled, unlabeled, validation and test cases of every setting, by data set and suffix of its datalist."""
    found = {}
    for percent, cases in SPLITS["la"]["settings"].items():
        found[f"la {percent[:-1]}"] = [cases["labeled"], cases["unlabeled"], [], SPLITS["la"]["test"]]
    for protocol, split in SPLITS["synapse"]["protocols"].items():
        for percent, cases in split.get("settings", {}).items():
            held_out = [split["validation"], split["test"]]
            found[f"synapse {percent[:-1]} ({protocol})"] = [cases["labeled"], cases["unlabeled"], *held_out]
    amos = SPLITS["amos"]
    for percent in ("2%", "5%", "10%"):
        cases = amos["settings"][percent]
        found[f"amos {percent[:-1]}"] = [cases["labeled"], cases["unlabeled"], amos["validation"], amos["test"]]
    for name, lists in SPLITS["mmwhs"]["settings"].items():
        keys = ("source_labeled", "target_unlabeled", "target_validation_in_reference", "target_test")
        found[f"mmwhs {name}"] = [lists[key] for key in keys]
    for name, lists in SPLITS["mnms"]["settings"].items():
        suffix = f"{name[4:-1]}_{name[2].lower()}"
        found[f"mnms {suffix}"] = [
            lists["labeled"],
            lists["unlabeled"],
            [],
            SPLITS["mnms"]["test"][lists["test_ref"]],
        ]
    return found


SECTIONS = sections()


@pytest.mark.parametrize("name", SECTIONS)
def test_no_case_is_in_two_sections_or_twice_in_one(name) -> None:
    cases = [case for section in SECTIONS[name] for case in section]
    assert len(cases) == len(set(cases)) > 0


@pytest.mark.parametrize(
    ("name", "total"),
    [("la", 100), ("synapse", 30), ("amos", 360), ("mmwhs mr2ct", 36), ("mmwhs ct2mr", 36), ("mnms", 640)],
)
def test_sections_of_a_setting_hold_every_case(name, total) -> None:
    # MMWHS: 20 scans of the target, and 16 of the source; M&Ms: two frames of 320 subjects
    settings = [cases for key, cases in SECTIONS.items() if key.startswith(name)]
    assert settings
    assert all(sum(len(section) for section in cases) == total for cases in settings)


def test_every_split_says_where_it_is_from() -> None:
    for name, split in SPLITS.items():
        sources = [p["source"] for p in split["protocols"].values()] if name == "synapse" else [split["source"]]
        assert all(source["repo"].count("/") == 1 and source["commit"] for source in sources)
        assert split["note"]
        assert split["label_map"]["0"] == "background"


def test_table_of_the_documentation_has_the_numbers_of_the_files() -> None:
    text = (ROOT / "docs/reference/data/splits.md").read_text(encoding="utf-8")
    lines = [line.replace("`", "") for line in text.splitlines()]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    stated = {row[0]: row[1:5] for row in table if row[0].split()[0] in SPLITS}
    assert stated == {
        name: [str(len(section)) if section else "–" for section in cases] for name, cases in SECTIONS.items()
    }


def test_frames_of_mnms_come_in_pairs_and_only_from_their_vendors() -> None:
    mnms = SPLITS["mnms"]
    vendors = {subject: vendor for vendor, subjects in mnms["vendors"].items() for subject in subjects}
    for name, lists in mnms["settings"].items():
        for section in ("labeled", "unlabeled"):
            subjects = [case.split("_sa_")[0] for case in lists[section]]
            assert all(subjects.count(subject) == 2 for subject in set(subjects))
            assert name[2] not in {vendors[subject] for subject in subjects}
        assert {vendors[case.split("_sa_")[0]] for case in mnms["test"][lists["test_ref"]]} == {name[2]}


def test_20_percent_of_amos_label_validation_cases_and_are_no_part_of_the_training_cases() -> None:
    # the reason why no datalist is made of it
    amos = SPLITS["amos"]
    cases = amos["settings"]["20%"]
    assert len(set(cases["labeled"]) & set(amos["validation"])) == 3
    assert set(cases["labeled"] + cases["unlabeled"]) != set(amos["train"])


@pytest.mark.parametrize("name", sorted(COMMANDS["prepare"]))
def test_command_is_reachable_and_documented(name, tmp_path) -> None:
    with pytest.raises(SystemExit, match=str(tmp_path)):
        main(["prepare", name, "--source", str(tmp_path), "--output", str(tmp_path / "out"), "--dry_run"])
    assert f"python -m dtlp_components prepare {name} --source" in (ROOT / f"docs/reference/data/{name}.md").read_text()
