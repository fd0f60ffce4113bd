# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a command line of MONAI."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.checks.overrides import override_problems

CONFIG: dict[str, Any] = {
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
    found = override_problems(["monai/bundle/__main__.py", "run", *arguments])
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
    message = override_problems(["m", "run", "training", "--config_file", config_file, f"--{key}", "1"])[0]
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
    found = override_problems(["m", "run", "--args_file", str(args_file)])
    assert re.match(rf"--sede \(in {args_file}\): no such key", found[0])
    assert len([text for text in found if "no such key" in text]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rate", "0"], "--learning_rate: expected a number greater than 0, got 0."),
        (["--amp", "true"], "--amp: expected True or False, capitalized, got 'true'. Write --amp True"),
        (
            ["--learning_rate", "None"],
            "--learning_rate: MONAI ignores a plain None; write --learning_rate '$None'",
        ),
        (
            ["--output_dir", "2024"],
            "--output_dir: expected a path, got 2024. If a folder's name is a number, write --output_dir ./2024",
        ),
        (
            ["--output_dir", "$x"],
            "--output_dir: expected a literal path, got '$x', which MONAI would evaluate. Write --output_dir './$x'",
        ),
        (
            ["--output_dir", "@x"],
            "--output_dir: expected a literal path, got '@x', which MONAI would look up. Write --output_dir ./@x",
        ),
        (
            ["--output_dir", "%x"],
            "--output_dir: expected a literal path, got '%x', which MONAI would look up. Write --output_dir ./%x",
        ),
        (
            ["--output_dir", "out/a#1"],
            "--output_dir: expected a literal path, got 'out/a#1', in which MONAI would read # as ::. "
            "Write --output_dir \"$'out/a\\x231'\"",
        ),
    ],
)
def test_value_of_the_wrong_kind_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps({**CONFIG, "output_dir": "out"}))
    assert override_problems(["m", "run", "training", "--config_file", str(file), *words]) == [message]


def test_value_that_monai_computes_passes(config_file: str) -> None:
    assert override_problems(["m", "run", "--config_file", config_file, "--learning_rate", "$0.1 / 3"]) == []


@pytest.mark.parametrize(
    ("key", "value", "overlay"),
    [
        ("preset", "paper", "paper.json"),
        ("preprocessing_variant", "published", "published.json"),
        ("method", "uamt", "methods/uamt.json"),
    ],
)
def test_key_of_an_overlay_is_answered_with_its_file(config_file: str, key: str, value: str, overlay: str) -> None:
    (message,) = override_problems(["m", "run", "training", "--config_file", config_file, f"--{key}", value])
    files = [config_file, str(Path(config_file).parent / overlay)]
    assert (
        message
        == f'--{key} {value}: can only be set by an overlay file. Instead of --{key}, write --config_file "{files}"'
    )
    (message,) = override_problems(["m", "run", "training", "--config_file", config_file, f"--{key}", "papper"])
    assert f"{value!r} (overlay {overlay})" in message
    assert message.startswith(f"--{key}: expected ")
    assert message.endswith(", got 'papper'.")


@pytest.mark.parametrize(
    ("method", "refused", "accepted"),
    [
        (
            "uamt",
            (["--ddim_steps", "2"], ["--weights::kd", "0.5"], ["--teachers", "mean"]),
            (["--ramp_up", "0.5"], ["--ema_decay", "0.9"], ["--train::trainer::method::passes", "2"]),
        ),
        (
            "supervised",  # the trainer of DTLP, without the unlabeled scans
            (["--ddim_steps", "2"], ["--weights::kd", "0.5"], ["--burn_in", "0.2"]),
            (["--ema_decay", "0.9"], ["--mirror_axes", "[0]"], ["--learning_rate", "0.01"]),
        ),
        ("and", (), (["--ddim_steps", "2"],)),
    ],
)
def test_key_that_the_trained_method_does_not_read_is_refused(
    method: str, refused: tuple[list[str], ...], accepted: tuple[list[str], ...]
) -> None:
    bundle = Path("bundles/phantom_10/configs")
    files = str([str(bundle / "train.json"), str(bundle / f"methods/{method}.json")])
    for words in refused:
        (message,) = override_problems(["m", "run", "training", "--config_file", files, *words])
        assert message == f"{words[0]}: has no effect with method {method!r}, which does not use it. Leave it out."
    for words in accepted:
        assert override_problems(["m", "run", "training", "--config_file", files, *words]) == []
