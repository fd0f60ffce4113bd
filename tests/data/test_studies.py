# SPDX-License-Identifier: Apache-2.0
"""Which studies of a MONAI Label server count as unlabeled."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dtlp_components import unlabeled_studies


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A server's folder: five studies, final labels of two, a prediction of a third. The files are no images."""
    folder = tmp_path / "studies"
    for place in ("labels/final", "labels/original"):
        (folder / place).mkdir(parents=True)
    for name in ("a.nii.gz", "b.nii.gz", "c.nii", "d.nii.gz", "e.nii.gz", "._e.nii.gz", "datastore_v2.json", "f.txt"):
        (folder / name).write_text("no image: whoever opens it fails")
    for name in ("final/a.nii.gz", "final/b.nii.gz", "original/d.nii.gz"):
        (folder / "labels" / name).write_text("no label: whoever opens it fails")
    return folder


def item(studies: Path, name: str) -> dict[str, str]:
    return {"image": str(studies / name), "label": str(studies / "labels/final" / name)}


def test_studies_in_no_list_are_unlabeled_and_labels_are_no_studies(studies: Path) -> None:
    found = unlabeled_studies(str(studies), [item(studies, "a.nii.gz")], [item(studies, "b.nii.gz")])
    assert found == [{"image": str(studies / name)} for name in ("c.nii", "d.nii.gz", "e.nii.gz")]


def test_counts_are_logged(studies: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dtlp"):
        unlabeled_studies(str(studies), [item(studies, "a.nii.gz")], [item(studies, "b.nii.gz")])
    assert caplog.messages == [
        f"2 labeled and 3 unlabeled studies in {studies}; labeled: 1 for training, 1 for validation."
    ]


def test_link_to_a_labeled_study_is_the_labeled_study(studies: Path, tmp_path: Path) -> None:
    # the server hands out real paths
    links = tmp_path / "links"
    links.mkdir()
    for name in ("a.nii.gz", "c.nii"):
        (links / name).symlink_to(studies / name)
    assert unlabeled_studies(str(links), [item(studies, "a.nii.gz")]) == [{"image": str(links / "c.nii")}]


def test_folder_is_made_absolute(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(studies.parent)
    assert {"image": str(studies / "a.nii.gz")} in unlabeled_studies("studies", [])


def test_no_study_left_is_an_empty_list(studies: Path) -> None:
    names = ("a.nii.gz", "b.nii.gz", "c.nii", "d.nii.gz", "e.nii.gz")
    assert unlabeled_studies(str(studies), [item(studies, name) for name in names]) == []


def test_address_of_a_dicomweb_server_is_said_to_be_no_folder(caplog: pytest.LogCaptureFixture) -> None:
    assert unlabeled_studies("http://localhost:8042/dicom-web", [{"image": "/a.nii.gz"}]) == []
    assert "http://localhost:8042/dicom-web: expected the folder of a MONAI Label server" in caplog.text
