# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong before training, and what the message says."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dtlp_components.checks.input_checks import InputChecks
from dtlp_components.errors import InputError

SHAPE = (4, 5, 6)


def save(path: Path, array: np.ndarray | None = None, affine: np.ndarray | None = None) -> str:
    """Write a NIfTI file; float noise unless told otherwise."""
    if array is None:
        array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


def pair(folder: Path, name: str = "a", highest: int = 1, **label: Any) -> dict[str, str]:
    """An image and a label whose values reach `highest`."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[1, 2, 3] = highest
    return {
        "image": save(folder / f"{name}.nii.gz"),
        "label": save(folder / f"{name}_label.nii.gz", **{"array": array, **label}),
    }


def check(**given: Any) -> None:
    InputChecks(**{"labeled": [], "num_classes": 2, "patch_size": [16, 32, 48], **given})()


def problems(**given: Any) -> list[str]:
    """Messages of the checks, one per problem."""
    with pytest.raises(InputError) as caught:
        check(**given)
    return str(caught.value).split("\n  - ")[1:]


def problem(**given: Any) -> str:
    (only,) = problems(**given)
    return only


# --- volumes (tests/data/test_volumes.py has the rules)


def test_good_data_pass(tmp_path):
    check(labeled=[pair(tmp_path)], unlabeled=[{"image": save(tmp_path / "u.nii")}], validation=[pair(tmp_path, "v")])


def test_constructor_does_no_work(tmp_path):
    InputChecks(labeled=[{"image": "none.nii"}], num_classes=0, patch_size="?", arguments=["-", "run", "--x", "1"])


@pytest.mark.parametrize("list_name", ["labeled", "unlabeled", "validation"])
def test_missing_file_of_any_list_is_named(tmp_path, list_name):
    lists = {"labeled": [pair(tmp_path)], list_name: [{"image": "none.nii", "label": "none.nii"}]}
    assert problem(**lists) == "none.nii: no such file."


def test_label_value_of_no_class_is_refused_and_the_highest_class_is_not(tmp_path):
    item = pair(tmp_path, highest=2)
    check(labeled=[item], num_classes=3)
    message = problem(labeled=[item], num_classes=2)
    assert message.startswith(item["label"])
    assert message.endswith("found the values [2], expected only [0, 1]. --num_classes is 2.")


def test_empty_labels_are_refused_only_if_all_are(tmp_path):
    empty, full = pair(tmp_path, "empty", highest=0), pair(tmp_path, "full")
    check(labeled=[empty, full])
    assert problem(labeled=[empty]) == "none of the 1 labels of section `training` has a voxel above 0."


def test_label_of_an_unlabeled_item_is_never_opened(tmp_path):
    forbidden = tmp_path / "forbidden.nii"
    forbidden.write_text("not an image")
    check(labeled=[pair(tmp_path)], unlabeled=[{"image": save(tmp_path / "u.nii"), "label": str(forbidden)}])


# --- DICOM


def test_series_passes_and_its_faults_are_named(tmp_path, write_series):
    folder = write_series(tmp_path / "ct", np.arange(120).reshape(SHAPE))
    given = {"labeled": [{"image": str(folder)}], "require_labels": False}
    check(**given)
    (folder / "slice02.dcm").unlink()
    assert "found 4 mm from slice01.dcm to slice03.dcm" in problem(**given)
    write_series(tmp_path / "other", np.arange(120).reshape(SHAPE))
    for file in (tmp_path / "other").iterdir():
        file.rename(folder / f"b_{file.name}")
    assert problem(**given) == f"{folder}: found 2 series, expected one in each folder; move them apart."


def test_folder_without_dicom_is_refused(tmp_path):
    pytest.importorskip("pydicom", reason="DICOM is optional: pip install pydicom")
    (tmp_path / "empty").mkdir()
    message = problem(labeled=[{"image": str(tmp_path / "empty")}], require_labels=False)
    assert "found no DICOM file, expected a series" in message


def test_missing_dicom_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match="pip install pydicom"):
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


# --- lists


def test_empty_list_names_its_section():
    assert "section `testing` of the datalist has no items" in problem(section="testing")


def test_empty_section_comes_with_those_that_are_there(tmp_path):
    content = {
        "labels": ["background", "a"],
        "training": [{"image": "a"}] * 2,
        "testing": [],
        "validation": [{"image": "b"}],
    }
    (tmp_path / "list.json").write_text(json.dumps(content))
    message = problem(section="nosuch", datalist=str(tmp_path / "list.json"))
    assert message.startswith("section `nosuch` of the datalist has no items")
    assert message.endswith(f"{tmp_path}/list.json has items in: training (2), validation (1).")


def test_item_without_label_is_refused_unless_labels_are_not_required(tmp_path):
    item = {"image": save(tmp_path / "i.nii")}
    check(labeled=[item], require_labels=False)
    assert problem(labeled=[item]) == f"{item['image']}: has no label, but is in section `training`."


@pytest.mark.parametrize("other", ["validation", "unlabeled"])
def test_labeled_image_in_another_list_is_refused_under_any_name(tmp_path, other):
    item = pair(tmp_path)
    alias = {**item, "image": f"{tmp_path}/./a.nii.gz"}
    message = problem(labeled=[item], **{other: [alias]})
    assert item["image"] in message
    assert f"in `{other}`" in message


# --- settings


@pytest.mark.parametrize(
    ("patch_size", "nearest"),
    [
        ([30, 48, 32], "[16 or 32, 48, 32]"),
        ([16, 100, 8], "[16, 96 or 112, 16]"),
        ([0, -16, 32], "[16, 16, 32]"),
    ],
)
def test_patch_size_the_network_cannot_take_names_the_nearest(tmp_path, patch_size, nearest):
    message = problem(labeled=[pair(tmp_path)], patch_size=patch_size)
    assert "multiple of 16" in message
    assert f"Nearest: {nearest}." in message


def test_patch_larger_than_every_volume_passes(tmp_path):
    check(labeled=[pair(tmp_path)], patch_size=[64, 64, 64])


@pytest.mark.parametrize("patch_size", [[16, 16, 32], [16, 32, 16], [32, 16, 16]])
def test_two_voxels_at_the_deepest_stage_are_refused_for_instance_norm_alone(tmp_path, patch_size):
    message = problem(labeled=[pair(tmp_path)], patch_size=patch_size, norm="instance")
    assert "two voxels" in message and "[32, 32, 32], or --norm group" in message
    for norm in ("group", "batch", None):
        check(labeled=[pair(tmp_path)], patch_size=patch_size, norm=norm)


@pytest.mark.parametrize("patch_size", [[16, 16, 48], [16, 32, 32]])
def test_three_voxels_at_the_deepest_stage_pass(tmp_path, patch_size):
    check(labeled=[pair(tmp_path)], patch_size=patch_size, norm="instance")


def test_divisor_is_the_networks(tmp_path):
    check(labeled=[pair(tmp_path)], patch_size=[8, 24, 40], divisor=8)


@pytest.mark.parametrize("patch_size", ["32x48x32", [32, 48], [32, 48, 32.0], [32, True, 32], 32])
def test_patch_size_must_be_three_whole_numbers(tmp_path, patch_size):
    assert "expected three whole numbers" in problem(labeled=[pair(tmp_path)], patch_size=patch_size)


@pytest.mark.parametrize("value", ["true", "false", "True", 1, None])
def test_flag_that_is_no_boolean_is_refused_with_how_to_write_it(tmp_path, value):
    assert "--amp True" in problem(labeled=[pair(tmp_path)], flags={"resume": False, "amp": value})


@pytest.mark.parametrize("value", [0, -1, 0.0, float("nan"), float("inf"), "1e-2", True, None, [1, 0, 1], []])
def test_number_that_is_not_positive_is_refused(tmp_path, value):
    assert problem(labeled=[pair(tmp_path)], positive={"x": value}).startswith(f"--x is {value!r}; expected")


def test_positive_numbers_and_lists_of_them_pass(tmp_path):
    check(labeled=[pair(tmp_path)], positive={"a": 1, "b": 0.5, "c": [1.0, 2, 3], "d": np.float32(2)})


@pytest.mark.parametrize("value", [1, 2.0, "3", True])
def test_num_classes_must_be_a_whole_number_from_2_on(tmp_path, value):
    assert "--num_classes" in problem(labeled=[pair(tmp_path)], num_classes=value)


# --- the message


def test_all_problems_come_in_one_message(tmp_path):
    found = problems(patch_size=[1, 2, 3], flags={"amp": "true"}, positive={"x": 0})
    assert [text.split()[0] for text in found] == ["--amp", "--x", "--patch_size", "section"]


def test_the_21st_problem_is_only_counted(tmp_path):
    found = problems(labeled=[pair(tmp_path)], unlabeled=[{"image": f"{i}.nii"} for i in range(25)])
    assert len(found) == 20
    assert found[-1].endswith("... and 5 more.")


# --- the cache


def test_second_start_reads_no_volume(tmp_path, monkeypatch):
    given = {"labeled": [pair(tmp_path)], "cache_file": str(tmp_path / "new" / "cache.json")}
    check(**given)
    monkeypatch.setattr("dtlp_components.data.volumes.load_volume", lambda path: pytest.fail(f"{path} was read"))
    check(**given)


def test_cached_volume_is_still_checked_against_other_settings(tmp_path):
    given = {"labeled": [pair(tmp_path, highest=2)], "cache_file": str(tmp_path / "cache.json")}
    check(**given, num_classes=3)
    assert "--num_classes is 2" in problem(**given, num_classes=2)


def test_changed_file_is_read_again(tmp_path):
    item = pair(tmp_path)
    given = {"labeled": [item], "cache_file": str(tmp_path / "cache.json")}
    check(**given)
    status = os.stat(item["label"])
    pair(tmp_path, highest=7)
    os.utime(item["label"], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert "found the values [7]" in problem(**given)


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
    check(labeled=[{"image": item["label"]}], require_labels=False, cache_file=cache)
    pair(tmp_path, array=np.arange(120, dtype=np.uint8).reshape(SHAPE))
    check(labeled=[{"image": item["label"]}], require_labels=False, cache_file=cache)
    assert "found the values [2, 3, 4, 5," in problem(labeled=[item], cache_file=cache)


def test_entry_of_an_older_version_is_read_again(tmp_path):
    item = pair(tmp_path, highest=7)
    cache = tmp_path / "cache.json"
    check(labeled=[item], cache_file=str(cache), num_classes=8)
    content = json.loads(cache.read_text())
    for entry in content.values():
        del entry["volume"]["values"]
    cache.write_text(json.dumps(content))
    assert "found the values [7]" in problem(labeled=[item], cache_file=str(cache))


def test_progress_shows_from_the_21st_file_on(tmp_path, capsys):
    images = [{"image": save(tmp_path / f"{i}.nii")} for i in range(21)]
    check(labeled=images[:20], require_labels=False)
    assert capsys.readouterr().err == ""
    check(labeled=images, require_labels=False)
    assert "21/21" in capsys.readouterr().err


# --- the command line

CONFIG = {
    "learning_rate": 0.1,
    "amp": False,
    "weights": {"mic": 1.0, "kd": 2.0},
    "network": "@network_def",
    "train": {"trainer": {"_target_": "Trainer", "max_epochs": 1}, "handlers": [{"_target_": "A", "x": 1}]},
    "run": ["$1"],
}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


def unknown_keys(*arguments: str) -> list[str]:
    """Keys refused by the checks, which find nothing but an empty list wrong otherwise."""
    found = problems(arguments=["monai/bundle/__main__.py", "run", *arguments])
    return [text.split(" (")[0] for text in found if "no such key" in text]


@pytest.mark.parametrize(
    "line",
    [
        "training --config_file FILE",
        "--run_id training --config_file=FILE --logging_file x --meta_file y --init_id i --final_id f",
        "training --config_file FILE --learning_rate 1 --amp",
        "training --config_file FILE --learning-rate=1 --noamp --weights::mic -2",
        "training --config_file FILE --weights#kd 2 --train::trainer::max_epochs 3",
        "training --config_file FILE --train::handlers::0::x 3 --network::x 1 --_meta_::version 2",
        "training --config_file FILE --train::trainer::amp True",
        "training --config_file FILE --tracking mlflow --experiment_name x",
        "training --config_file ['FILE','FILE'] --weights::mic=2",
    ],
)
def test_keys_of_the_file_and_of_monai_pass(config_file, line):
    assert unknown_keys(*line.replace("FILE", config_file).split()) == []


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("--learnign_rate 1", "learnign_rate"),
        ("--learnign-rate=1", "learnign_rate"),
        ("-a 1", "a"),
        ("--ampp", "ampp"),
        ("--weights::mci 1", "weights::mci"),
        ("--weights#mci 1", "weights#mci"),
        ("--train::traner 1", "train::traner"),
        ("--train::handlers::1 x", "train::handlers::1"),
        ("--experiment_name x", "experiment_name"),
    ],
)
def test_key_that_the_file_lacks_is_refused(config_file, line, key):
    assert unknown_keys("training", "--config_file", config_file, *line.split()) == [f"--{key}"]


@pytest.mark.parametrize(
    ("key", "meant"),
    [("learnign_rate", "learning_rate"), ("weights#mci", "weights::mic"), ("confg_file", "config_file")],
)
def test_mistyped_key_comes_with_the_one_that_was_meant(config_file, key, meant):
    message = problems(arguments=["m", "run", "training", "--config_file", config_file, f"--{key}", "1"])[0]
    assert message.startswith(f"--{key} (on the command line): no such key in {config_file}. Did you mean --{meant}")
    assert message.count(meant) == 1


def test_file_of_a_list_may_hold_the_key(tmp_path, config_file):
    (tmp_path / "more.json").write_text('{"extra": 1}')
    files = f"['{config_file}', '{tmp_path}/more.json']"
    assert unknown_keys("training", "--config_file", files, "--extra", "2", "--exrta", "3") == ["--exrta"]


def test_keys_of_an_args_file_are_checked_likewise(tmp_path, config_file):
    args_file = tmp_path / "args.json"
    keys = {"config_file": config_file, "run_id": "training", "workflow_type": "train", "learning_rate": 1, "sede": 2}
    args_file.write_text(json.dumps(keys))
    found = problems(arguments=["m", "run", "--args_file", str(args_file)])
    assert re.match(rf"--sede \(in {args_file}\): no such key", found[0])
    assert len([text for text in found if "no such key" in text]) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["pytest"], ["pytest", "-q", "--x", "1"], ["m", "ckpt_export", "--config_file", "none.json"]]
)
def test_other_commands_are_left_alone(tmp_path, arguments):
    check(labeled=[pair(tmp_path)], arguments=arguments)


# --- settings of the training run


def trained(folder: Path, **settings: Any) -> str:
    """Path of weights whose run recorded these settings."""
    (folder / "logs").mkdir()
    (folder / "logs" / "model_settings.json").write_text(json.dumps(settings))
    return str(folder / "models" / "model.pt")


def test_settings_other_than_in_training_are_named_with_the_flag_that_mends_them(tmp_path):
    model_file = trained(tmp_path, features=16, spacing_mm=[1.0, 1.0, 2.5], norm="group")
    settings = {"features": 32, "spacing_mm": [1.0, 1.0, 1.0], "norm": "group"}
    features, spacing = problems(labeled=[pair(tmp_path)], model_settings=settings, model_file=model_file)
    assert "--features is 32" in features and "Add --features 16" in features and model_file in features
    assert 'Add --spacing_mm "[1.0, 1.0, 2.5]"' in spacing


def test_settings_of_training_pass_and_weights_without_a_record_are_not_compared(tmp_path, caplog):
    given = {"labeled": [pair(tmp_path)], "model_settings": {"features": 32}}
    check(**given, model_file=trained(tmp_path, features=32))
    with caplog.at_level("INFO", logger="dtlp"):
        check(**given, model_file=str(tmp_path / "elsewhere" / "models" / "model.pt"))
    (line,) = caplog.messages
    assert "elsewhere/logs/model_settings.json is not there" in line and "features 32" in line


def test_items_without_a_published_box_are_named_where_it_is_needed(tmp_path: Path) -> None:
    boxed = {**pair(tmp_path), "published_box": [[0, 2], [0, 2], [0, 2]]}
    without = pair(tmp_path, "b")
    check(labeled=[boxed, without])
    check(labeled=[boxed], needs_published_box=True)
    for given in ({"labeled": [boxed], "unlabeled": [without]}, {"labeled": [without]}):
        message = problem(**given, needs_published_box=True)
        assert without["image"] in message
        assert "published_box" in message
