# SPDX-License-Identifier: Apache-2.0
"""Where label maps may go."""

from __future__ import annotations

from pathlib import Path

from dtlp_components.checks.outputs import output_problems


def test_new_folder_is_made(tmp_path: Path) -> None:
    assert list(output_problems(str(tmp_path / "a/b"), [str(tmp_path / "in/x.nii")], str(tmp_path / "in"))) == []
    assert (tmp_path / "a/b").is_dir()


def test_folder_of_the_scans_is_refused_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for place in (tmp_path / "in", tmp_path / "link", tmp_path / "in/../in"):
        (problem,) = output_problems(str(place), [str(tmp_path / "in/x.nii")], None)
        assert "is where the scans are, expected another folder" in problem


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
