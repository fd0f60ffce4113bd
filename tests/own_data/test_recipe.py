# SPDX-License-Identifier: Apache-2.0
"""The bundle that is rendered from a user's scans."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from dtlp_components.bundle.lint import check_config, check_metadata
from dtlp_components.bundle.render import RECIPES
from dtlp_components.data.datalists import load_datalist
from tests.own_data.scans import make, read, train


def test_rendered_bundle_is_faultless_and_complete(near: Path) -> None:
    bundle = make(validation_share=0.5)
    for workflow in ("train", "evaluate", "inference"):
        config = read(bundle / f"configs/{workflow}.json")
        assert check_config(config) == []
        assert config["bundle_name"] == "mine"
        assert config["num_classes"] == (3 if workflow == "train" else "$@trained('num_classes', 3)")
    assert check_metadata(read(bundle / "configs/metadata.json"), 3) == []
    parser = ConfigParser(train())
    assert parser.get_parsed_content("datalist") == "bundles/mine/datalist.json"
    assert read(bundle / "configs/evaluate.json")["eval_section"] == "validation"
    readme = (bundle / "docs/README.md").read_text()
    assert "python -m dtlp_components new mine --labeled site_a --unlabeled site_b --validation_share 0.5" in readme
    assert '- modality "MR": none of the 4 training scans appears to be in HU' in readme
    assert "not known to this project" in (bundle / "docs/data_license.txt").read_text()
    assert not (RECIPES / "datasets/mine.json").exists()


def test_another_output_folder_is_found_again(near: Path) -> None:
    make(output="else where/b@c")
    parser = ConfigParser(train(Path("else where/b@c/mine")))
    datalist = parser.get_parsed_content("datalist")
    assert len(load_datalist(datalist, "unlabeled", parser.get_parsed_content("dataset_dir"))) == 3
    assert check_config(train(Path("else where/b@c/mine"))) == []


def test_commands_of_the_readme_can_be_pasted_wherever_the_bundle_lies(near: Path) -> None:
    readme = (make(output="it's Größe") / "docs/README.md").read_text()
    lines = [line for line in readme.splitlines() if line.startswith(("python -m monai.bundle", "tensorboard"))]
    plain = [shlex.split(line) for line in lines if '"' not in line.replace("'\"'\"'", "")]
    assert len(plain) == 6
    assert {word.partition("/mine/")[0] for words in plain for word in words if "/mine/" in word} == {"it's Größe"}


@pytest.mark.parametrize("in_repository", [True, False])
def test_pages_of_the_project_are_linked_only_where_they_are(near: Path, in_repository: bool) -> None:
    if in_repository:
        for name in ("explanation/method.md", "explanation/what-differs-from-the-paper.md", "reference/bundles.md"):
            (near / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
            (near / "docs" / name).touch()
    readme = make() / "docs/README.md"
    targets = re.findall(r"\]\(([^)#]+)\)", readme.read_text())
    assert [target for target in targets if not (readme.parent / target).exists()] == []
    assert ("../../../docs/explanation/method.md" in targets) == in_repository
    assert "docs/explanation/method.md" in readme.read_text()
