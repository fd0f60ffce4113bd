# SPDX-License-Identifier: Apache-2.0
"""The README's commands as a newcomer types them: in processes of their own, from the root of the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow

SMALL = ["--patch_size", "[32,32,32]", "--features", "4", "--device", "cpu"]
SHORT = ["--max_iterations", "2", "--iterations_per_epoch", "1", "--val_interval", "2", "--ddim_steps", "1"]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)


def bundle(run_id: str, config: str, *words: str) -> subprocess.CompletedProcess[str]:
    return call("-m", "monai.bundle", "run", run_id, "--config_file", f"bundles/phantom_10/configs/{config}", *words)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "data"
    result = call("-m", "dtlp_components", "phantom", "--output", str(folder))
    assert result.returncode == 0, result.stderr
    # the whole way on a few volumes
    datalist = json.loads((folder / "datalist_10.json").read_text())
    for section, count in {"training": 2, "unlabeled": 2, "validation": 1, "testing": 1}.items():
        datalist[section] = datalist[section][:count]
    (folder / "short.json").write_text(json.dumps(datalist))
    return folder


def test_train_evaluate_segment_and_draw(phantom: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    common = ["--dataset_dir", str(phantom), "--datalist", str(phantom / "short.json"), "--output_dir", output, *SMALL]

    result = bundle("training", "train.json", *common, *SHORT)
    assert result.returncode == 0, result.stderr
    assert "2/2" in result.stdout
    assert "left" in result.stdout
    assert (tmp_path / "out" / "models" / "model.pt").is_file()
    assert (tmp_path / "out" / "mlruns.db").is_file()
    assert list((tmp_path / "out" / "logs" / "tensorboard").glob("*/events*"))

    result = bundle("evaluating", "evaluate.json", *common, "--eval_section", "validation")
    assert result.returncode == 0, result.stderr
    assert "gallbladder" in result.stdout
    assert (tmp_path / "out" / "evaluation" / "validation_native_cases.csv").is_file()

    scan = min((phantom / "imagesTs").glob("*.nii.gz"))
    result = bundle("run", "inference.json", *common[:2], "--output_dir", output, *SMALL, "--input", str(scan))
    assert result.returncode == 0, result.stderr
    written = list((tmp_path / "out" / "predictions").glob("*.nii.gz"))
    assert len(written) == 1
    assert str(written[0].name) in result.stdout
    np.testing.assert_allclose(nib.load(written[0]).affine, nib.load(scan).affine, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learnign_rate", "1"], "learning_rate"),
        (["--patch_size", "[30,32,32]"], "expected multiples of 16, got [30, 32, 32]"),
        (["--datalist", "nowhere.json"], "nowhere.json"),
    ],
    ids=["mistyped key", "patch size", "datalist"],
)
def test_bad_input_ends_with_one_message_and_exit_code_1(
    phantom: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = bundle("training", "train.json", "--dataset_dir", str(phantom), "--output_dir", str(tmp_path), *words)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
