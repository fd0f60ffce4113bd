# SPDX-License-Identifier: Apache-2.0
"""One verdict and one sentence for a damaged or odd file from every command, and the rules behind them."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dtlp_components.checks.input_checks import InputChecks
from dtlp_components.checks.settings import Settings
from dtlp_components.data.volumes import describe_volume, label_problems, read_volume, scan_problems
from dtlp_components.datasets.hippocampus import prepare_hippocampus
from dtlp_components.datasets.pairs import describe_pair
from dtlp_components.errors import InputError
from dtlp_components.own_data.command import new_bundle
from tests.damaged import CASES, NAMES, SHAPE, label, noise, save, write_pair

IMAGES = [name for name, case in CASES.items() if case.kind == "image"]
Ask = Callable[[Path, str], object]
SETTINGS = Settings({"num_classes": 3, "patch_size": [16, 32, 32], "norm": "instance"})


def ask_new(folder: Path, name: str) -> None:
    write_pair(folder, name)
    save(folder / "imagesTr/second.nii.gz", noise(20, 18, 22))  # what only tiny scans have is no part of this table
    save(folder / "labelsTr/second.nii.gz", np.pad(label(), [(0, 14), (0, 11), (0, 14)]))
    (folder / "names.json").write_text(json.dumps(NAMES))
    new_bundle("mine", str(folder), labels=str(folder / "names.json"), output=str(folder / "bundles"))


def ask_prepare(folder: Path, name: str) -> None:
    image, labels = write_pair(folder, name)
    describe_pair(image, labels, NAMES)


def ask_hippocampus(folder: Path, name: str) -> None:
    cases = [
        name,
        "good",
        "whole_numbers",
        "negative_side",
        "sform_alone",
        "qform_alone",
    ]  # as many as every section needs
    items = [_pair(folder, case) for case in dict.fromkeys(cases)]
    listed = [{kind: str(Path(file).relative_to(folder)) for kind, file in item.items()} for item in items]
    (folder / "dataset.json").write_text(json.dumps({"labels": NAMES, "training": listed}))
    prepare_hippocampus(str(folder), str(folder / "prepared"), dry_run=True)


def _pair(folder: Path, name: str) -> dict[str, str]:
    return dict(zip(("image", "label"), map(str, write_pair(folder, name)), strict=True))


def ask_training(folder: Path, name: str) -> None:
    good = _pair(folder / "a", "good")
    save(Path(good["image"]), noise(seed=9))  # not a copy of what is asked about
    lists = {"labeled": [good], "validation": [_pair(folder, name)], "unlabeled": []}
    InputChecks(**lists, settings=SETTINGS, cache_file=str(folder / "c.json"))()


def ask_evaluating(folder: Path, name: str) -> None:
    lists = {"labeled": [_pair(folder, name), _pair(folder / "a", "good")], "section": "testing"}
    InputChecks(**lists, settings=SETTINGS)()


def ask_segment_and_export(folder: Path, name: str) -> None:
    image, _ = write_pair(folder, name)
    if problems := scan_problems(str(image)):
        raise InputError(" ".join(problems))


COMMANDS: dict[str, Ask] = {
    "new": ask_new,
    "prepare": ask_prepare,
    "prepare hippocampus": ask_hippocampus,
    "training": ask_training,
    "evaluating": ask_evaluating,
    "segment, export": ask_segment_and_export,
}


# the scans to segment have no labels; `prepare` leaves listed files out that are missing, as an incomplete download has
ASKED = [
    (command, name)
    for command in COMMANDS
    for name in CASES
    if not (command == "segment, export" and name not in IMAGES)
    and not (command == "prepare hippocampus" and name == "link_to_nothing")
]


def sentence_of(ask: Ask, folder: Path, name: str) -> str:
    """What a command says of the odd file, from its name on, whatever folder it is in; empty if it takes the file."""
    file = f"{CASES[name].kind}sTr/{name}{CASES[name].ending}:"
    try:
        ask(folder, name)
    except InputError as error:
        text = str(error).replace(f"{folder}/", "")
        (line,) = (line for line in text.splitlines() if file in line)
        return line[line.index(file) :]
    return ""


@pytest.mark.parametrize(("command", "name"), ASKED)
def test_every_command_gives_the_verdict_and_the_sentence_of_the_table(tmp_path: Path, command: str, name: str) -> None:
    said = sentence_of(COMMANDS[command], tmp_path / "asked", name)
    reference = sentence_of(ask_prepare, tmp_path / "reference", name)
    assert bool(said) == bool(CASES[name].refused)
    assert CASES[name].refused in said
    assert said.startswith(reference)  # a command may append its way out


def test_ways_out_are_appended_where_a_command_has_one(tmp_path: Path) -> None:
    assert sentence_of(ask_new, tmp_path / "a", "two_volumes").endswith(
        "--channels 2 uses all of them as channels of the image; --frame 0 to 1 picks one."
    )
    assert sentence_of(ask_training, tmp_path / "b", "label_of_no_class").endswith(". --num_classes is 3.")


# --- what is read


@pytest.mark.parametrize(
    "name", ["good", "good_uncompressed", "four_axes_one_volume", "five_axes_one_volume", "no_forms"]
)
def test_voxels_come_with_their_description(tmp_path: Path, name: str) -> None:
    image, _ = write_pair(tmp_path, name)
    found, problems = read_volume(str(image))
    assert found is not None
    assert problems == []
    voxels, described = found
    np.testing.assert_array_equal(voxels, noise())
    assert voxels.dtype == np.float32
    assert described.shape == list(SHAPE)
    assert (described.minimum, described.maximum) == (noise().min(), noise().max())
    assert described.finite
    assert not described.integer
    assert described.values is None


def test_whole_numbers_stay_what_they_are(tmp_path: Path) -> None:
    found, _ = read_volume(str(save(tmp_path / "a.nii.gz", label(np.int16))), is_label=True)
    assert found is not None
    assert found[0].dtype == np.int16
    assert found[1].values == [0, 1, 2]
    assert found[1].integer


@pytest.mark.parametrize("name", ["a.mha", "a.nii.txt", "a"])
def test_file_of_another_format_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert scan_problems(str(tmp_path / name)) == [
        f"{tmp_path / name}: expected a NIfTI file (.nii, .nii.gz) or a DICOM series."
    ]


def test_series_is_judged_as_a_file_is(tmp_path: Path, write_series: Callable[..., Path]) -> None:
    voxels = np.arange(6 * 7 * 8).reshape(SHAPE)
    assert scan_problems(str(write_series(tmp_path / "good", voxels))) == []
    flat = write_series(tmp_path / "flat", np.full(SHAPE, 7))
    assert scan_problems(str(flat)) == [f"{flat}: expected an image, got the value 7 in every voxel."]
    gap = write_series(tmp_path / "gap", voxels)
    (gap / "slice05.dcm").unlink()
    (problem,) = scan_problems(str(gap))
    assert "1 missing, first from slice04.dcm to slice06.dcm (4 mm)" in problem


# --- labels and grids


def test_first_ten_values_of_no_class_are_named() -> None:
    voxels = np.arange(60).reshape(3, 4, 5)
    (problem,) = label_problems("a", describe_volume(voxels, np.eye(4), is_label=True), range(3))
    assert problem == "a: expected only the values [0, 1, 2], got [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]."


def test_fraction_above_many_whole_values_is_the_one_that_is_named() -> None:
    voxels = np.arange(840.0).reshape(10, 12, 7)
    voxels[9, 11, 6] = 900.5
    (problem,) = label_problems("a", describe_volume(voxels, np.eye(4), is_label=True), range(3))
    assert problem == "a: expected integers of at least 0, got the values [900.5]."


if __name__ == "__main__":  # python -m tests.data.test_volumes 2> /dev/null: the table of files and verdicts
    print(f"| file | {' | '.join(COMMANDS)} | sentence |\n|{'---|' * (len(COMMANDS) + 2)}")
    for case in CASES:
        said = {}
        for command, ask in COMMANDS.items():
            with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
                said[command] = sentence_of(ask, Path(place), case) if (command, case) in ASKED else None
        verdicts = ["–" if text is None else "refused" if text else "taken" for text in said.values()]
        print(f"| {case} | {' | '.join(verdicts)} | {(said['prepare'] or '').partition(': ')[2]} |")
