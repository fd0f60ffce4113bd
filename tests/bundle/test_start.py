# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation hand MONAI's command what a user would type, with a variant's file where it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dtlp_components.bundle import start
from dtlp_components.bundle.start import evaluate_bundle, render_bundles, train_bundle
from dtlp_components.errors import InputError

TRAIN, EVALUATE, PAPER, PUBLISHED = (f"mine/configs/{n}.json" for n in ("train", "evaluate", "paper", "published"))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What MONAI's command is given, in a folder with the bundle `mine`."""
    (tmp_path / "mine/configs").mkdir(parents=True)
    for name in ("train", "evaluate", "inference", "metadata", "paper", "published"):
        (tmp_path / f"mine/configs/{name}.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    given: list[list[str]] = []

    def keep(words: list[str], processes: int) -> None:
        given.append(words if processes == 1 else [f"{processes} of", *words])

    monkeypatch.setattr(start, "become_monai", keep)
    return given


def record(folder: str, variant: object) -> None:
    Path(folder, "logs").mkdir(parents=True)
    Path(folder, "logs/model_settings.json").write_text(json.dumps({"preprocessing_variant": variant}))


def test_words_are_handed_on_as_they_are(commands: list[list[str]]) -> None:
    words = ["--lr=1e-3", "--patch_size", "[16,32,48]", "--weights::kd", "0.0"]
    train_bundle("mine", *words)
    evaluate_bundle("mine", *words)
    assert commands == [
        ["run", "training", "--config_file", TRAIN, *words],
        ["run", "evaluating", "--config_file", EVALUATE, *words],
    ]


@pytest.mark.parametrize("flag", [["--variant", "paper"], ["--variant=paper"]])
def test_variant_adds_its_file(commands: list[list[str]], flag: list[str]) -> None:
    train_bundle("mine", "--seed", "1", *flag, "--features", "4")
    assert commands == [
        ["run", "training", "--config_file", f"['{TRAIN}','{PAPER}']", "--seed", "1", "--features", "4"]
    ]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("mine", []),
        ("runs/a", ["--output_dir", "runs/a"]),
        ("runs/a", ["--output_dir=runs/a"]),
        ("runs/a", ["--output_dir", "runs/b", "--model_file", "runs/a/models/model.pt"]),
    ],
)
def test_evaluation_takes_the_variant_that_was_trained(commands: list[list[str]], place: str, words: list[str]) -> None:
    record(place, "published")
    evaluate_bundle("mine", *words)
    assert commands == [["run", "evaluating", "--config_file", f"['{EVALUATE}','{PUBLISHED}']", *words]]


def test_run_without_a_variant_is_evaluated_without(commands: list[list[str]]) -> None:
    record("mine", "native")
    evaluate_bundle("mine")
    assert commands == [["run", "evaluating", "--config_file", EVALUATE]]


@pytest.mark.parametrize("variant", ["../published", "train", 3, None, ["published"]])
def test_record_names_no_other_file(commands: list[list[str]], variant: object) -> None:
    record("mine", variant)
    with pytest.raises(InputError, match="preprocessing_variant: expected one of 'native', 'published'"):
        evaluate_bundle("mine")
    assert commands == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine", "--variant", "papre"], r"--variant papre: .*expected one of: paper, published\."),
        (["mine", "--variant", "train"], "--variant train: .*expected one of: paper, published"),
        (["mine", "--config_file", "a.json"], "--config_file: expected none"),
        (["empty"], r"empty: found no configs/train\.json"),
        (["nowhere"], "nowhere: no such bundle"),
    ],
)
def test_what_cannot_be_started_is_refused(commands: list[list[str]], words: list[str], message: str) -> None:
    Path("empty/configs").mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        train_bundle(*words)
    assert commands == []


def test_render_writes_then_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render_bundles("la_5", output=str(tmp_path))
    render_bundles("la_5", output=str(tmp_path), check=True)
    (tmp_path / "la_5/LICENSE").write_text("other")
    with pytest.raises(InputError, match="1 files differ"):
        render_bundles("la_5", output=str(tmp_path), check=True)


def test_method_adds_its_overlay_after_the_variant(commands: list[list[str]]) -> None:
    Path("mine/configs/methods").mkdir()
    Path("mine/configs/methods/uamt.json").write_text("{}")
    train_bundle("mine", "--method", "uamt", "--seed", "1", "--variant", "published")
    train_bundle("mine", "--method=dtlp")
    files = f"['{TRAIN}','{PUBLISHED}','mine/configs/methods/uamt.json']"
    assert commands == [
        ["run", "training", "--config_file", files, "--seed", "1"],
        ["run", "training", "--config_file", TRAIN],
    ]


def test_unknown_method_is_refused_with_those_there_are(commands: list[list[str]]) -> None:
    with pytest.raises(InputError, match=r"--method vat: found no .*methods/vat.json, expected one of: none, this"):
        train_bundle("mine", "--method", "vat")
    Path("mine/configs/methods").mkdir()
    Path("mine/configs/methods/uamt.json").write_text("{}")
    with pytest.raises(InputError, match=r"--method vat: .*expected one of: uamt\."):
        train_bundle("mine", "--method", "vat")
    assert not commands


@pytest.mark.parametrize("flag", [["--gpus", "2"], ["--gpus=2"]])
def test_several_processes_get_the_same_words(commands: list[list[str]], flag: list[str]) -> None:
    train_bundle("mine", "--seed", "1", *flag)
    evaluate_bundle("mine", *flag, "--seed", "1")
    assert commands == [
        ["2 of", "run", "training", "--config_file", TRAIN, "--seed", "1"],
        ["2 of", "run", "evaluating", "--config_file", EVALUATE, "--seed", "1"],
    ]
