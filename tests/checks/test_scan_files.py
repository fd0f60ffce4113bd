# SPDX-License-Identifier: Apache-2.0
"""Scans of a run read and judged, and remembered."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.checks.scan_files import list_volume_problems
from dtlp_components.data.volumes import read_volume
from dtlp_components.errors import InputError
from tests.checks.checking import check, problem
from tests.pairs import SHAPE, pair, save


def test_label_value_of_no_class_is_refused_and_the_highest_class_is_not(tmp_path):
    item = pair(tmp_path, highest=2)
    check(labeled=[item], settings={"num_classes": 3})
    # however many names there are: the command line may give one and not the other
    for names in ({}, {"label_names": ["background", "a", "b"]}, {"label_names": ["background", "a"]}):
        message = problem(labeled=[item], settings={"num_classes": 2, **names})
        assert message.startswith(item["label"])
        assert message.endswith("expected only the values [0, 1], got [2]. --num_classes is 2.")


def test_empty_labels_are_refused_only_if_all_are(tmp_path):
    empty, full = pair(tmp_path, "empty", highest=0), pair(tmp_path, "full")
    check(labeled=[empty, full])
    assert problem(labeled=[empty]) == "section `training`: expected labels with voxels above 0, got none in 1 labels."


def test_series_passes_and_its_faults_are_named(tmp_path, write_series):
    folder = write_series(tmp_path / "ct", np.arange(120).reshape(SHAPE))
    given = {"labeled": [{"image": str(folder)}], "require_labels": False}
    check(**given)
    (folder / "slice02.dcm").unlink()
    assert "1 missing, first from slice01.dcm to slice03.dcm (4 mm)" in problem(**given)
    write_series(tmp_path / "other", np.arange(120).reshape(SHAPE))
    for file in (tmp_path / "other").iterdir():
        file.rename(folder / f"b_{file.name}")
    assert problem(**given).startswith(f"{folder}: expected one series, got 2; each is named by its first file: b_sli")


def test_folder_without_dicom_is_refused(tmp_path):
    pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")
    (tmp_path / "empty").mkdir()
    message = problem(labeled=[{"image": str(tmp_path / "empty")}], require_labels=False)
    assert "expected a series of slices, got no DICOM file" in message


def test_missing_dicom_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match="reading it requires pydicom: pip install"):
        check(labeled=[{"image": str(tmp_path)}], require_labels=False)


def test_changed_slice_is_read_again(tmp_path, write_series):
    folder = write_series(tmp_path / "ct", np.arange(120).reshape(SHAPE))
    given = {"labeled": [{"image": str(folder)}], "require_labels": False, "cache_file": str(tmp_path / "cache.json")}
    check(**given)
    file = folder / "slice02.dcm"
    status = file.stat()
    file.write_bytes(file.read_bytes()[:-8])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # only the size tells
    assert "truncated, damaged" in problem(**given)


def test_second_start_reads_no_volume(tmp_path, monkeypatch):
    given = {"labeled": [pair(tmp_path)], "cache_file": str(tmp_path / "new" / "cache.json")}
    check(**given)
    monkeypatch.setattr("dtlp_components.data.volumes.load_volume", lambda path: pytest.fail(f"{path} was read"))
    check(**given)


def test_cached_volume_is_still_checked_against_other_settings(tmp_path):
    given = {"labeled": [pair(tmp_path, highest=2)], "cache_file": str(tmp_path / "cache.json")}
    check(**given, settings={"num_classes": 3})
    assert "--num_classes is 2" in problem(**given, settings={"num_classes": 2})


def test_changed_file_is_read_again(tmp_path):
    item = pair(tmp_path)
    given = {"labeled": [item], "cache_file": str(tmp_path / "cache.json")}
    check(**given)
    status = os.stat(item["label"])
    pair(tmp_path, highest=7)
    os.utime(item["label"], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert "got [7]" in problem(**given)


def test_unreadable_file_is_not_forgotten_by_the_cache(tmp_path):
    item = pair(tmp_path)
    Path(item["image"]).write_bytes(b"")
    given = {"labeled": [item], "cache_file": str(tmp_path / "cache.json")}
    assert problem(**given) == problem(**given)


@pytest.mark.parametrize("content", ["", "[1]", '{"PATH": 3}', '{"PATH": {"size": 1}}', '{"PATH": {"volume": []}}'])
def test_corrupt_cache_is_ignored(tmp_path, content):
    item = pair(tmp_path)
    cache = tmp_path / "cache.json"
    cache.write_text(content.replace("PATH", item["image"]))
    check(labeled=[item], cache_file=str(cache))
    assert set(json.loads(cache.read_text())) >= set(item.values())


def test_file_that_was_read_as_an_image_is_read_again_as_a_label(tmp_path):
    item = pair(tmp_path)
    cache = str(tmp_path / "cache.json")
    pair(tmp_path, array=np.arange(120, dtype=np.uint8).reshape(SHAPE))
    check(labeled=[{"image": item["label"]}], require_labels=False, cache_file=cache)
    assert "got [2, 3, 4, 5," in problem(labeled=[item], cache_file=cache)


def test_entry_of_an_older_version_is_read_again(tmp_path):
    item = pair(tmp_path, highest=7)
    cache = tmp_path / "cache.json"
    check(labeled=[item], cache_file=str(cache), settings={"num_classes": 8})
    content = json.loads(cache.read_text())
    for entry in content.values():
        del entry["volume"]["values"]
    cache.write_text(json.dumps(content))
    assert "got [7]" in problem(labeled=[item], cache_file=str(cache))


def test_progress_shows_from_the_21st_file_on(tmp_path, capsys):
    images = [{"image": save(tmp_path / f"{i}.nii")} for i in range(21)]
    check(labeled=images[:20], require_labels=False)
    assert capsys.readouterr().err == ""
    check(labeled=images, require_labels=False)
    assert "21/21" in capsys.readouterr().err


def test_what_was_read_is_kept_when_the_reading_is_interrupted(tmp_path, monkeypatch):
    items = [pair(tmp_path, f"case{i}") for i in range(4)]
    cache, read = tmp_path / "checked.json", []

    def interrupted(path, **kwargs):
        if "case3" in path:
            raise KeyboardInterrupt
        read.append(path)
        return read_volume(path, **kwargs)

    monkeypatch.setattr("dtlp_components.checks.scan_files.read_volume", interrupted)
    monkeypatch.setattr("dtlp_components.checks.scan_files.usable_cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        list_volume_problems(items, [], "abc", str(cache))
    assert sorted(json.loads(cache.read_text())) == sorted(read)
    assert len(read) == 6
    read.clear()
    monkeypatch.setattr(
        "dtlp_components.checks.scan_files.read_volume", lambda p, **k: read.append(p) or read_volume(p, **k)
    )
    list_volume_problems(items, [], "abc", str(cache))
    assert sorted(Path(path).name for path in read) == sorted(
        Path(p).name for p in (items[3]["image"], items[3]["label"])
    )


def test_what_another_command_has_read_is_not_read_again(tmp_path, monkeypatch):
    items = [pair(tmp_path, f"case{i}") for i in range(2)]
    before, cache = tmp_path / "before.json", tmp_path / "checked.json"
    list_volume_problems(items, [], "abc", str(before))
    text = before.read_text()
    monkeypatch.setattr("dtlp_components.checks.scan_files.read_volume", lambda *_, **__: pytest.fail("read again"))
    volumes, problems = list_volume_problems(items, [], "abc", str(cache), str(before))
    assert (len(volumes), problems) == (4, [])
    assert before.read_text() == text
    assert not cache.exists()
