# SPDX-License-Identifier: Apache-2.0
"""Where label maps may go."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dtlp_components.checks.outputs import output_problems, run_folder_problems


def test_new_folder_is_made(tmp_path: Path) -> None:
    assert list(output_problems(str(tmp_path / "a/b"), [str(tmp_path / "in/x.nii")], str(tmp_path / "in"))) == []
    assert (tmp_path / "a/b").is_dir()


def test_folder_of_the_scans_is_refused_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for place in (tmp_path / "in", tmp_path / "link", tmp_path / "in/../in"):
        (problem,) = output_problems(str(place), [str(tmp_path / "in/x.nii")], None)
        assert "expected a folder other than that of the scans" in problem


def test_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = output_problems(str(tmp_path / "file/out"), [], None)
    assert problem.startswith(f"{tmp_path / 'file/out'}: cannot be written to")


def test_label_map_of_another_scan_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "x_seg.nii.gz").write_text("")
    (out / "segmentations.csv").write_text("scan,label_map\n/elsewhere/x.nii,x_seg.nii.gz\n")
    image = str(tmp_path / "in/x.nii")
    (problem,) = output_problems(str(out), [image], str(tmp_path / "in"))
    assert problem.startswith(f"{out / 'x_seg.nii.gz'}: is the label map of /elsewhere/x.nii")
    (out / "segmentations.csv").write_text(f"scan,label_map\n{image},x_seg.nii.gz\n")
    assert list(output_problems(str(out), [image], str(tmp_path / "in"))) == []


# --- the folder of a training


def test_folder_of_a_training_is_tried_and_nothing_is_made(tmp_path: Path) -> None:
    assert list(run_folder_problems(str(tmp_path / "a/run"))) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "checkpoints", "models", "logs"])
def test_folder_that_a_training_cannot_write_to_is_refused_with_the_place(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    place = tmp_path / "run" / name
    if name:
        place.write_text("a file")
    else:
        place.rmdir()
        place.write_text("a file")
    (problem,) = run_folder_problems(str(tmp_path / "run"))
    assert problem.startswith(f"--output_dir {tmp_path / 'run'}: cannot be written to ({place}")


def test_disk_without_room_for_two_checkpoints_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(1000, 999, bias=False)  # 4 MB; its momentum and its moving average as much each
    for free, problems in ((24e6, 0), (23.9e6, 1)):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: shutil._ntuple_diskusage(1e9, 0, free))
        found = list(run_folder_problems(str(tmp_path / "run"), network))
        assert len(found) == problems
    assert "expected at least 0.024 GB of free disk space for two checkpoints, got 0.024 GB" in found[0]


def test_folder_that_another_training_uses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run/logs").mkdir(parents=True)
    (tmp_path / "run/logs/lock").touch()
    monkeypatch.setattr("dtlp_components.checks.outputs.claimed_by", lambda file: "process 7 on gpu1 since noon")
    (problem,) = run_folder_problems(str(tmp_path / "run"))
    assert problem.startswith(f"{tmp_path / 'run'}: is in use: process 7 on gpu1 since noon is training into it")


def test_scan_whose_label_map_would_have_too_long_a_name_is_refused(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for length, problems in ((150, 0), (230, 1)):
        image = str(root / f"{'x' * length}.nii.gz")
        found = list(output_problems(str(out), [image], str(root)))
        assert len(found) == problems
    assert "is derived from the path, got 230" in found[0]


def test_folders_in_between_count_in_the_name(tmp_path: Path) -> None:
    image = str(tmp_path / "in" / ("p" * 120) / ("s" * 120))
    (problem,) = output_problems(str(tmp_path / "out"), [image], str(tmp_path / "in"))
    assert "is derived from the path, got 241" in problem
    assert list(output_problems(str(tmp_path / "out"), [image], str(Path(image).parent))) == []
