# SPDX-License-Identifier: Apache-2.0
"""What a training recorded is taken; what contradicts it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.checks.trained_settings import TrainedSettings, read_record, record_problems
from dtlp_components.errors import InputError


def trained(folder: Path, **settings: Any) -> str:
    """Path of weights whose run recorded these settings."""
    (folder / "logs").mkdir()
    (folder / "logs" / "model_settings.json").write_text(json.dumps(settings))
    return str(folder / "models" / "model.pt")


def test_recorded_value_wins_over_the_bundles_own_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrainedSettings(trained(tmp_path, features=16, norm="group"))
    with caplog.at_level("INFO", logger="dtlp"):
        assert settings("features", 32) == 16
        assert settings("norm", "group") == "group"
        assert settings("spacing_mm", [1.0, 1.0, 2.0]) == [1.0, 1.0, 2.0]
    (line,) = caplog.messages
    assert line == f"features 16, taken from {tmp_path}/logs/model_settings.json (the bundle's own value: 32)."


def test_without_a_record_the_bundles_own_values_are_taken(tmp_path: Path) -> None:
    assert TrainedSettings(str(tmp_path / "models" / "model.pt"))("features", 32) == 32


def test_contradiction_names_both_values_and_the_way_out(tmp_path: Path) -> None:
    model_file = trained(tmp_path, features=16, spacing_mm=[1.0, 1.0, 2.5], norm="group")
    values = {"features": 32, "spacing_mm": [1.0, 1.0, 1.0], "norm": "group", "amp": True}
    spacing, features = record_problems(model_file, values)
    assert features == (
        f"--features: expected 16, with which {model_file} was trained (recorded in "
        f"{tmp_path}/logs/model_settings.json), got 32. Leave the flag out: the recorded value is used."
    )
    assert spacing.startswith("--spacing_mm: expected [1.0, 1.0, 2.5]")


@pytest.mark.parametrize(
    ("recorded", "given", "verb"), [("published", "native", "Add"), ("native", "published", "Leave out")]
)
def test_other_variant_is_answered_with_the_overlay(tmp_path: Path, recorded: str, given: str, verb: str) -> None:
    model_file = trained(tmp_path, preprocessing_variant=recorded)
    (sentence,) = record_problems(model_file, {"preprocessing_variant": given})
    assert sentence.endswith(f"{verb} the overlay published.json in --config_file.")


def test_weights_without_a_record_are_not_compared_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="dtlp"):
        assert list(record_problems(str(tmp_path / "models" / "model.pt"), {"features": 32})) == []
    (line,) = caplog.messages
    assert "logs/model_settings.json does not exist" in line
    assert "features 32" in line


RECORD = {"features": 16, "norm": "group", "spacing_mm": [1.0, 1.0, 2.5], "image_shortcut": False}


def test_record_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model_settings.json"
    file.write_text(json.dumps(RECORD))
    assert read_record(file) == RECORD


ATTACKS: list[tuple[Any, str]] = [
    ({"run": ["$__import__('os').system('touch BROKEN')"]}, "got the key 'run'"),
    ({"initialize": ["$__import__('os').system('touch BROKEN')"]}, "got the key 'initialize'"),
    ({"network_def": {"_target_": "os.system", "command": "touch BROKEN"}}, "got the key 'network_def'"),
    ({"imports": ["$import os"]}, "got the key 'imports'"),
    ({"features": "$__import__('os').system('touch BROKEN')"}, "features: expected an integer of at least 1"),
    ({"features": {"_target_": "os.system", "command": "touch BROKEN"}}, "features: expected"),
    ({"norm": " $__import__('os').system('touch BROKEN')"}, "norm: expected one of"),
    ({"norm": "\u00a0$__import__('os').system('touch BROKEN')"}, "norm: expected one of"),
    ({"norm": "@run"}, "norm: expected one of"),
    ({"preprocessing_variant": "%other.json"}, "preprocessing_variant: expected one of"),
    ({"spacing_mm": ["$1", 1, 1]}, "spacing_mm: expected a list of 3 numbers"),
    ({"patch_size": "$[16, 16, 32]"}, "patch_size: expected a list of 3 integers"),
    ({"features": True}, "features: expected"),
    ({"features": 1e400}, "features: expected"),
    ({"features": -1}, "features: expected"),
    ({"+features": 16}, r"got the key '\+features'"),
    ({"train::trainer::max_epochs": 1}, "got the key 'train::trainer::max_epochs'"),
    (["features"], "expected the settings of a training run, got list"),
    ("[" * 100_000, "is not JSON"),
    ("{features: 16}", "is not JSON"),
    ("\x00", "is not JSON"),
    ('{"features": 16}' + " " * 2**21, "expected the settings of a training run, got a file of"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), ATTACKS, ids=range(len(ATTACKS)))
def test_record_that_is_no_record_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "model_settings.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=rf"model_settings\.json: (?s:.)*{message}"):
        read_record(file)
    assert not (tmp_path / "BROKEN").exists()


def test_folder_in_the_place_of_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path)
