# SPDX-License-Identifier: Apache-2.0
"""Files of a new bundle: copies, and what is never overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.checks.scan_files import list_volume_problems
from dtlp_components.data.datalists import load_datalist
from dtlp_components.errors import InputError
from dtlp_components.own_data.find import Scan
from dtlp_components.own_data.write import distinct_names
from dtlp_components.report.scan_view import draw_sheet
from dtlp_components.run_folder import RunFolder
from tests.own_data.scans import SHAPE, four_dimensions, gap_in_the_values, make, mr, save, train


def test_remap_writes_labels_without_gaps_and_leaves_the_originals(near: Path) -> None:
    gap_in_the_values(near)
    (near / "names.json").write_text('{"200": "myocardium", "500": "ventricle"}')
    make(labeled="gap", remap=True, labels="names.json")
    items = load_datalist("bundles/mine/datalist.json", "training", "bundles/mine")
    copied = nib.load(items[0]["label"])
    original = nib.load(near / "gap/labelsTr/case0.nii.gz")
    expected = np.select([np.asarray(original.dataobj) == v for v in (200, 500)], [1, 2])
    np.testing.assert_array_equal(np.asarray(copied.dataobj), expected)
    np.testing.assert_array_equal(copied.affine, original.affine)
    assert items[0]["image"] == str(near / "gap/imagesTr/case0.nii.gz")
    assert train()["label_names"] == ["background", "myocardium", "ventricle"]


def test_frame_copies_one_volume_of_4d_files_only(near: Path) -> None:
    four_dimensions(near)
    make(frame=2)
    items = load_datalist("bundles/mine/datalist.json", "unlabeled", "bundles/mine")
    assert [Path(item["image"]).name for item in items][:2] == ["cine_image.nii.gz", "scan0.nii.gz"]
    np.testing.assert_array_equal(np.asarray(nib.load(items[0]["image"]).dataobj), mr(1, (*SHAPE, 3))[..., 2])


def kits(folder: Path, count: int = 3) -> Path:
    """A folder per patient, in which every file has the same name; each label is of another place."""
    items = []
    for i in range(count):
        voxels = np.zeros(SHAPE, np.uint8)
        voxels[3 * i : 3 * i + 2] = 3
        image = save(folder / f"case_{i:05}/imaging.nii.gz", mr(i))
        items.append({"image": str(image), "label": str(save(folder / f"case_{i:05}/segmentation.nii.gz", voxels))})
    (folder / "datalist.json").write_text(json.dumps({"training": items}))
    return folder / "datalist.json"


def test_every_scan_has_its_own_copy_though_all_files_have_one_name(near: Path) -> None:
    make(labeled=str(kits(near / "cohort")), remap=True)
    items = load_datalist("bundles/mine/datalist.json", "training", "bundles/mine")
    assert len({item["label"] for item in items}) == 3
    for item in items:
        original = np.asarray(nib.load(Path(item["image"]).with_name("segmentation.nii.gz")).dataobj)
        np.testing.assert_array_equal(np.asarray(nib.load(item["label"]).dataobj), original == 3)


def test_frame_of_files_of_one_name(near: Path) -> None:
    for i in range(2):
        save(near / f"cines/patient{i}/cine.nii.gz", mr(i, (*SHAPE, 3)))
    images = [{"image": str(path)} for path in sorted((near / "cines").rglob("*.nii.gz"))]
    (near / "cines.json").write_text(json.dumps({"unlabeled": images}))
    make(unlabeled="cines.json", frame=1)
    items = load_datalist("bundles/mine/datalist.json", "unlabeled", "bundles/mine")
    assert [Path(item["image"]).name for item in items] == ["patient0_cine_image.nii.gz", "patient1_cine_image.nii.gz"]
    for i, item in enumerate(items):
        np.testing.assert_array_equal(np.asarray(nib.load(item["image"]).dataobj), mr(i, (*SHAPE, 3))[..., 1])


def test_names_differ_whatever_the_folders_are_called() -> None:
    paths = ["a/b/x.nii.gz", "a_b/x.nii.gz", "A/b/X.nii.gz", "y.nii.gz", "a/b/x.nii.gz"]
    names = distinct_names([Scan(Path(p).name.removesuffix(".nii.gz"), p) for p in paths])
    assert names == ["a_b_x", "a_b_x_2", "A_b_X_3", "y", "a_b_x_4"]
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize("remap", [False, True])
def test_labeled_scans_are_drawn_with_the_names_of_their_labels(
    near: Path, monkeypatch: pytest.MonkeyPatch, remap: bool
) -> None:
    drawn: list[tuple[int, dict[int, str]]] = []

    def draw(scans: Any, count: int, values: dict[int, str]) -> Any:
        assert [name for name, image, label in scans if image.shape == label.shape] != []
        drawn.append((count, dict(values)))
        return draw_sheet([], count, values)

    monkeypatch.setattr("dtlp_components.own_data.command.draw_sheet", draw)
    bundle = make(remap=remap)
    assert (bundle / "logs/labeled_scans.png").is_file()
    ((count, values),) = drawn
    listed = json.loads((bundle / "datalist.json").read_text())
    assert count == len(listed["training"])
    assert values == {int(value): name for value, name in listed["labels"].items() if value != "0"}


def test_what_a_killed_run_left_is_no_obstacle(near: Path) -> None:
    bundle = make()
    before = snapshot(bundle)
    (bundle / "configs/train.json").unlink()
    (bundle / "configs/.part-0a1b2c3d-train.json").write_text("{")
    (bundle / ".part-datalist.json").write_text("{")
    make()
    assert snapshot(bundle) == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_second_run_changes_nothing(near: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make()
    before = snapshot(bundle)
    (bundle / "models").mkdir()
    (bundle / "models/model.pt").write_bytes(b"weights")  # nothing is written, so they are no obstacle
    make()
    assert {k: v for k, v in snapshot(bundle).items() if k != "models/model.pt"} == before
    assert "already up to date; nothing was written" in capsys.readouterr().out


def test_bundle_of_other_content_is_overwritten_only_if_asked_and_untrained(near: Path) -> None:
    bundle = make()
    before = snapshot(bundle)
    with pytest.raises(
        InputError, match=r"already exists with different content in configs/train\.json.*--overwrite True"
    ):
        make(features=8)
    assert snapshot(bundle) == before
    make(features=8, overwrite=True)
    assert train()["features"] == 8
    (bundle / "models").mkdir()
    (bundle / "models/model.pt").write_bytes(b"weights")
    with pytest.raises(InputError, match=r"contains models/model\.pt, which this command did not write"):
        make(features=4, overwrite=True)
    assert train()["features"] == 8


def test_bundle_that_somebody_else_made_is_never_overwritten(near: Path) -> None:
    bundle = make()
    content = train() | {"_comment": "by hand"}
    (bundle / "configs/train.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="was not created by this command"):
        make(overwrite=True)
    assert train() == content


def test_first_training_need_not_read_what_was_read(near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make()
    checked = RunFolder(bundle).checked_inputs
    monkeypatch.setattr("dtlp_components.checks.scan_files.read_volume", lambda *_, **__: pytest.fail("read again"))
    items = json.loads((bundle / "datalist.json").read_text())
    images = [item["image"] for item in items["unlabeled"]]
    volumes, problems = list_volume_problems(items["training"], images, "abc", None, str(checked))
    assert problems == []
    assert len(volumes) == 2 * len(items["training"]) + len(images) > 4
