# SPDX-License-Identifier: Apache-2.0
"""Loading of a student's weights, and what is said of files that are none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dtlp_components.errors import InputError
from dtlp_components.networks.vnet import VNet
from dtlp_components.networks.weights import load_weights


def test_loaded_network_is_the_saved_one_in_eval_mode(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, other, image = VNet(features=2), VNet(features=2), torch.rand(1, 1, 16, 32, 16)
    torch.save(saved.state_dict(), tmp_path / "model.pt")
    assert not torch.allclose(other(image), saved(image))
    loaded = load_weights(other, str(tmp_path / "model.pt"))
    assert loaded is other
    assert not loaded.training
    torch.testing.assert_close(loaded(image), saved.eval()(image), rtol=0, atol=0)


def test_missing_file_is_named_with_the_ways_to_give_one(tmp_path: Path) -> None:
    file = tmp_path / "models" / "model.pt"
    with pytest.raises(InputError) as error:
        load_weights(VNet(features=2), str(file))
    for part in (str(file), "--model_file", "--output_dir", "Train first"):
        assert part in str(error.value)


def message(file: Path, network: VNet | None = None) -> str:
    with pytest.raises(InputError) as error:
        load_weights(network or VNet(features=2), str(file))
    assert str(error.value).startswith(str(file))
    assert "weights_only" not in str(error.value)  # PyTorch's advice, which would execute what is in the file
    return str(error.value)


def saved(file: Path, state: Any) -> Path:
    torch.save(state, file)
    return file


def test_weights_of_another_width_are_named_with_the_tensor_and_the_keys_to_check(tmp_path: Path) -> None:
    text = message(saved(tmp_path / "model.pt", VNet(features=4).state_dict()))
    assert re.search(
        r"does not fit the network: stem\S+: expected shape \[2, 1, .*\], got \[4, 1, .*\], and \d+ more", text
    )
    assert "--features" in text


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    assert "missing, and" in message(saved(tmp_path / "model.pt", {"other": torch.ones(1)}))


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "got an empty file"),
    "text": (b"no weights", "got a file of 10 bytes that was not written by torch"),
    "cut off": (b"PK\x03\x04half a file", "got a truncated file of 15 bytes"),
    "web page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "got a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "got a pointer of Git LFS"),
}


@pytest.mark.parametrize("name", FILES)
def test_file_of_another_kind_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    content, expected = FILES[name]
    (tmp_path / "model.pt").write_bytes(content)
    assert expected in message(tmp_path / "model.pt")


class Harmless:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


@pytest.mark.parametrize("content", [Harmless(), VNet(features=2)], ids=["code", "whole network"])
def test_what_would_be_executed_is_not(tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds more than tensors" in message(saved(tmp_path / "model.pt", content))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "held"),
    [({"network": {}, "progress": 1}, "an object with network, progress"), ([torch.ones(1)], "no weights")],
)
def test_other_content_is_named(tmp_path: Path, content: Any, held: str) -> None:
    assert f"models/model.pt of a training run, got {held}" in message(saved(tmp_path / "model.pt", content))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_cut_file_is_refused(tmp_path: Path, share: float) -> None:
    file = saved(tmp_path / "model.pt", VNet(features=2).state_dict())
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert "got a truncated file" in message(file)


def test_one_changed_bit_is_noticed(tmp_path: Path) -> None:
    file = saved(tmp_path / "model.pt", VNet(features=2).state_dict())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    assert "is damaged (wrong checksum of" in message(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    state = VNet(features=2).state_dict()
    name = list(state)[3]
    state[name].view(-1)[0] = value
    assert f"expected finite weights, got NaN or infinity ({name})" in message(saved(tmp_path / "model.pt", state))
