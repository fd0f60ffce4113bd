# SPDX-License-Identifier: Apache-2.0
"""Loading of a student's weights, and what is said of files that are none."""

from __future__ import annotations

from pathlib import Path

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


def test_weights_of_another_width_are_named_with_the_tensor_and_the_keys_to_check(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save(VNet(features=4).state_dict(), file)
    with pytest.raises(InputError, match="size mismatch for stem") as error:
        load_weights(VNet(features=2), str(file))
    assert str(file) in str(error.value)
    assert "--features" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04half a file"], ids=["empty", "text", "truncated"])
def test_file_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(content)
    with pytest.raises(InputError, match="does not fit the network") as error:
        load_weights(VNet(features=2), str(file))
    assert str(file) in str(error.value)
