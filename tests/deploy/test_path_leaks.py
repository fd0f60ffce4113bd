# SPDX-License-Identifier: Apache-2.0
"""Absolute paths are found in texts and expressions, and nothing else is taken for one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dtlp_components.deploy.pack import pack_bundle
from dtlp_components.deploy.path_leaks import deep_paths, names_a_path
from dtlp_components.errors import InputError

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles/phantom_10"


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(
    "value",
    [
        "/home/me/secret/x",
        "$'/home/me/secret' + '/x'",
        "$os.path.join(@dataset_dir, '/home/me/secret')",
        "$f'/home/me/secret/{@bundle_name}'",
        "$'~/home/me/secret'",
        "$@bundle_name + ' /home/me/secret'",
    ],
)
def test_configuration_that_names_a_path_is_refused(run: Path, tmp_path: Path, value: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    config = load(bundle / "configs/train.json") | {"cache_dir": value}
    (bundle / "configs/train.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"train\.json, cache_dir: .* contains ~?/home/me/secret.*, a path on this machine"
    ):
        pack_bundle(str(bundle), str(tmp_path / "out"), str(run))
    assert not (tmp_path / "out").exists()


def test_what_goes_on_from_a_folder_is_no_path_of_its_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dtlp_components.deploy.pack.run_monai", lambda *words, **options: None
    )  # not what is tested here
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    for value in (
        "$@output_dir + '/cache/x'",
        "$f'{@output_dir}/cache/x'",
        "$@output_dir + '/%s/x' % 'a'",
        "$'/'.join(['a'])",
    ):
        config = load(bundle / "configs/train.json") | {"cache_dir": value}
        (bundle / "configs/train.json").write_text(json.dumps(config))
        pack_bundle(str(bundle), str(tmp_path / "out"), str(run), overwrite=True)
        assert load(tmp_path / "out/phantom_10/configs/train.json")["cache_dir"] == value


@pytest.mark.parametrize(
    "text",
    ["https://a.org/b/c", "$DATA/imagesTr/a", "and/or/not", "left / right", "2>/dev/null", "a #!/usr/bin/env",
    "`<id>/a/b`",
     "sqlite:///$PWD/mlruns.db", "sqlite:///mlruns.db", "bundles/*/configs/a", "../a/b", "./a/b", "~5 / 10", "<br />"],
)  # fmt: skip
def test_what_only_looks_like_a_path_is_none(text: str) -> None:
    assert not names_a_path(text)


def test_name_without_a_folder_may_be_a_route_of_a_server_and_repetitions_count_once() -> None:
    assert deep_paths("GET /info, then /lab/a.nii and /lab/a.nii, `~/lab/b`") == ["/lab/a.nii", "~/lab/b"]
