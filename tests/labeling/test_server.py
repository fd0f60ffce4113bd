# SPDX-License-Identifier: Apache-2.0
"""The app's parts in MONAI Label's environment, on a datastore in memory; tests/monailabel has a running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="MONAI Label has an environment of its own: make test-monailabel")

from dtlp_components.labeling.server import SCORES, SPLIT, NextStudy, StudyTraining


class Store:
    """Labeled and unlabeled images by name, with what is known of each."""

    def __init__(self, labeled: dict[str, dict[str, Any]], unlabeled: list[str]) -> None:
        self.labeled, self.unlabeled = labeled, unlabeled

    def get_labeled_images(self) -> list[str]:
        return list(self.labeled)

    def get_unlabeled_images(self) -> list[str]:
        return self.unlabeled

    def get_image_info(self, image: str) -> dict[str, Any]:
        return self.labeled[image]

    def get_image_uri(self, image: str) -> str:
        if image == "gone":
            raise OSError("no such study")
        return f"/studies/{image}.nii.gz"

    def datalist(self) -> list[dict[str, str]]:
        return [{"image": f"/studies/{name}.nii.gz", "label": f"/labels/{name}.nii.gz"} for name in self.labeled]


@pytest.fixture
def training(tmp_path: Path) -> StudyTraining:
    task = StudyTraining.__new__(StudyTraining)
    task.bundle_path, task.conf = str(tmp_path), {"max_unlabeled": "2"}
    return task


def split(training: StudyTraining, store: Store, share: float = 0.2) -> tuple[list[str], list[str]]:
    request = {"model": "liver", "val_split": share}
    parts = training._partition_datalist(training._fetch_datalist(request, store), request)
    trained, validated = ([Path(item["image"]).name.split(".")[0] for item in part] for part in parts)
    return trained, validated


def test_study_stays_where_it_was(training: StudyTraining, tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(10)]
    trained, validated = split(training, Store({name: {} for name in names[:5]}, []))
    later, validated_later = split(training, Store({name: {} for name in names}, []))
    assert len(validated) == 1
    assert set(validated) <= set(validated_later)
    assert set(trained) <= set(later)
    assert (tmp_path / SPLIT).is_file()


def test_studies_of_a_patient_stay_together(training: StudyTraining) -> None:
    infos = {f"s{i}": {"PatientID": f"p{i // 2}"} for i in range(10)}
    _, validated = split(training, Store(infos, []), 0.4)
    assert len(validated) == 4
    patients = [infos[name]["PatientID"] for name in validated]
    assert all(patients.count(patient) == 2 for patient in patients)


def test_unlabeled_studies_of_the_datastore_are_trained_on(training: StudyTraining) -> None:
    split(training, Store({"s0": {}}, ["gone", "u1", "u2"]))
    assert training._update_overrides({}) == {"unlabeled#items": [{"image": "/studies/u1.nii.gz"}]}  # the first two


class Studies(Store):
    """Without labels."""

    def get_unlabeled_images(self, tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return self.unlabeled

    def get_image_info(self, image: str) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("strategy", ["disagreement", "mixed", "diverse"])
@pytest.mark.parametrize("disputed", [False, True])
def test_scores_of_a_model_without_teachers_send_no_study_by_them(
    tmp_path: Path, strategy: str, disputed: bool
) -> None:
    names = ["a", "b", "c"]
    scores = {"expected_dice": 0.5, **({"foreground_disagreement": 0.1} if disputed else {})}
    entries = {
        name: {
            "image": f"/studies/{name}.nii.gz", "scores": scores, "by_class": {"liver": 0.1}, "features": [float(i)]
        }
        for i, name in enumerate(names)
    }  # fmt: skip
    (tmp_path / SCORES).write_text(json.dumps(entries))
    found = NextStudy(strategy, tmp_path)({"strategy": strategy}, Studies({}, names))
    assert found is not None
    assert found["id"] in names
    assert ("reason" in found) == (disputed or strategy == "diverse")


def test_next_study_fetches_none_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"image": "x", "scores": {}, "by_class": {}, "features": [0.0]}
    (tmp_path / SCORES).write_text(json.dumps({name: {**entry, "features": [float(ord(name))]} for name in "abc"}))
    monkeypatch.setattr(Studies, "get_image_uri", lambda *_: pytest.fail("fetched"))
    found = NextStudy("diverse", tmp_path)({"strategy": "diverse"}, Studies({}, ["a", "b", "c"]))
    assert found is not None
    assert found["id"] == "b"  # the one in the middle
