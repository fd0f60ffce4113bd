# SPDX-License-Identifier: Apache-2.0
"""Pseudo-labels of a tiny training: what is written, what stays, and what a verdict does to the next training."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from dtlp_components.errors import InputError
from dtlp_components.labeling.pseudo import write_pseudo_labels
from tests.bundles.test_workflows import run, workflow
from tests.labeling.trained import Trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Trained:
    return Trained.make(tmp_path_factory.mktemp("trained"), tiny_dataset)


def label(trained: Trained, output: Path, **flags: object) -> Path:
    data = trained.data
    return write_pseudo_labels(
        str(trained.bundle), output_dir=str(trained.run), output=str(output), dataset_dir=str(data),
        datalist=str(data / "datalist.json"), device="cpu", **flags,  # type: ignore[arg-type]
    )  # fmt: skip


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "review.csv").read_text().splitlines()))


@pytest.mark.slow
def test_maps_of_all_scans_are_written_with_page_and_table_worst_first(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = label(trained, tmp_path)
    assert len(list(tmp_path.glob("unlabeled_?_seg.nii.gz"))) == 3
    assert len(list((tmp_path / "pictures").glob("unlabeled_?.png"))) == 3
    found = rows(tmp_path)
    assert [row["quality"] for row in found] == sorted(row["quality"] for row in found)
    assert all(Path(row["label_map"]).is_file() and row["verdict"] == "" for row in found)
    html = page.read_text()
    assert [html.index(Path(row["image"]).name.split(".")[0]) for row in found] == sorted(
        html.index(Path(row["image"]).name.split(".")[0]) for row in found
    )
    assert "3 label maps, those with the most disagreement first." in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_there_is_not_made_again_and_verdicts_stay(trained: Trained, tmp_path: Path) -> None:
    label(trained, tmp_path)
    found = rows(tmp_path)
    text = (tmp_path / "review.csv").read_text().splitlines()
    text[2] = text[2].replace(",,,", ",reject,,", 1)
    (tmp_path / "review.csv").write_text("\n".join(text) + "\n")
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.suffix in (".gz", ".png")}
    page = label(trained, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert [row["verdict"] for row in rows(tmp_path)] == ["", "reject", ""]
    assert [row["image"] for row in rows(tmp_path)] == [row["image"] for row in found]
    assert 'value="reject" checked' in page.read_text()


@pytest.mark.slow
def test_source_is_whose_labels_are_written(trained: Trained, tmp_path: Path) -> None:
    maps = {}
    for source in ("ensemble", "mean_teacher", "diffusion"):
        label(trained, tmp_path / source, source=source)
        files = sorted((tmp_path / source).glob("*_seg.nii.gz"))
        maps[source] = np.stack([np.asarray(nib.load(file).dataobj) for file in files])
    assert (maps["ensemble"] != maps["mean_teacher"]).any() or (maps["ensemble"] != maps["diffusion"]).any()
    # by the labeler itself, on a scan that is one window after padding: what the training would say
    pool = trained.pool()
    (_, image, _) = next(iter(pool.images(pool.unlabeled[:1])))
    assert image is not None
    windows = torch.zeros(1, 1, 32, 32, 32)
    assert set(map(str, pool.teachers().sources(windows))) >= {"ensemble", "first_teacher", "mean_teacher"}


@pytest.mark.slow
def test_section_with_labels_judges_the_scores(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((trained.data / "datalist.json").read_text())
    content["testing"] += content["validation"] + content["training"]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    write_pseudo_labels(
        str(trained.bundle), output_dir=str(trained.run), output=str(tmp_path / "out"), section="testing",
        dataset_dir=str(trained.data), datalist=str(tmp_path / "datalist.json"), device="cpu",
    )  # fmt: skip
    assert "4 scans with a reference: mean Dice" in capsys.readouterr().out
    assert len((tmp_path / "out/judged.csv").read_text().splitlines()) == 5


@pytest.mark.slow
def test_training_without_teachers_and_other_sources_are_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--source: expected one of .*, got 'student'"):
        label(trained, tmp_path, source="student")
    shutil.copytree(trained.run, tmp_path / "run")
    (tmp_path / "run/checkpoints/last.pt").unlink()
    with pytest.raises(InputError, match="expected a training run with unlabeled scans, two teachers"):
        label(Trained(trained.bundle, tmp_path / "run", trained.data), tmp_path / "out")


def train(data: Path, output: Path, **overrides: object) -> str:
    """Weights of a few iterations, in words."""
    settings = {"max_iterations": 3, "iterations_per_epoch": 3, "burn_in": 0.0, **overrides}
    run(workflow(Path("bundles/phantom_10"), "train", data, output, **settings))
    weights = torch.load(output / "models/model.pt", weights_only=True)
    return str([value.double().sum().item() for value in weights.values()])


@pytest.mark.slow
def test_rejected_scan_has_no_influence(tiny_dataset: Path, tmp_path: Path) -> None:
    review = tmp_path / "review.csv"
    review.write_text(f"image,verdict\n{tiny_dataset / 'unlabeled_1.nii.gz'},reject\n")
    with_verdict = train(tiny_dataset, tmp_path / "reviewed", review=str(review))
    data = Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    content = json.loads((data / "datalist.json").read_text())
    del content["unlabeled"][1]
    (data / "datalist.json").write_text(json.dumps(content))
    (data / "unlabeled_1.nii.gz").unlink()
    assert with_verdict == train(data, tmp_path / "without")
    assert with_verdict != train(tiny_dataset, tmp_path / "all")


@pytest.mark.slow
def test_corrected_scan_is_a_labeled_one(tiny_dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    shutil.copy(data / "training_0_label.nii.gz", data / "drawn.nii.gz")
    review = data / "review.csv"
    review.write_text("image,verdict,label\nunlabeled_1.nii.gz,corrected,drawn.nii.gz\n")
    with_verdict = train(data, tmp_path / "reviewed", review=str(review))
    content = json.loads((data / "datalist.json").read_text())
    del content["unlabeled"][1]
    content["training"].append({"image": "unlabeled_1.nii.gz", "label": "drawn.nii.gz"})
    (data / "datalist.json").write_text(json.dumps(content))
    assert with_verdict == train(data, tmp_path / "listed")


@pytest.mark.slow
def test_accepted_scan_with_a_weight_is_drawn_less_often_than_a_label(tiny_dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    shutil.copy(data / "training_0_label.nii.gz", data / "map.nii.gz")
    review = data / "review.csv"
    review.write_text("image,verdict,label_map,weight\nunlabeled_1.nii.gz,accept,map.nii.gz,0.25\n")
    work = workflow(Path("bundles/phantom_10"), "train", data, tmp_path / "run", review=str(review))
    work.initialize()
    loader = work.parser.get_parsed_content("train::dataloader")
    assert loader.dataset.shares.tolist() == pytest.approx([1 / 2.25, 1 / 2.25, 0.25 / 2.25])
    assert train(data, tmp_path / "reviewed", review=str(review)) != train(data, tmp_path / "all")
