# SPDX-License-Identifier: Apache-2.0
"""``dtlp keys``."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtlp_components.bundle.key_listing import key_lines, print_keys
from dtlp_components.errors import InputError

BUNDLE = str(Path(__file__).parents[2] / "bundles" / "la_5")
CONFIG = {
    "amp": False,
    "features": "$@trained('features', 32)",
    "output_dir": "@bundle_root",
    "network": "$x",
    "weights": {f"term_{i}": 1.0 for i in range(9)},
    "my_own": 1,
}


def test_values_come_with_unit_meaning_and_bounds() -> None:
    lines = key_lines(CONFIG, Path("x.json"))
    assert "  --amp false" in lines
    assert any(line.startswith("      half precision; by default") for line in lines)
    assert any(line.endswith("Expected: True or False, capitalized.") for line in lines)
    assert "  --features 32 (or the value recorded by training)" in lines
    assert "  --output_dir (computed)" in lines
    assert not any("--network" in line or "my_own" in line for line in lines)
    assert all(len(line) <= 120 for line in lines)


def test_components_come_if_asked_for() -> None:
    assert "  --network component" in key_lines(CONFIG, Path("x.json"), components=True)


def test_command_lists_a_bundle_and_refuses_what_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_keys(BUNDLE, "inference")
    out = capsys.readouterr().out
    assert out.startswith("Keys of ")
    assert "  --flip_axes []" in out
    assert "--max_iterations" not in out
    with pytest.raises(InputError, match="--workflow: expected one of train, evaluate, inference, got 'trian'"):
        print_keys(BUNDLE, "trian")
