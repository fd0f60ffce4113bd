# SPDX-License-Identifier: Apache-2.0
"""The whole way in minutes: drawn volumes, training, evaluation, inference on an unseen scan, a picture."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from .datasets.phantom import write_phantom
from .errors import InputError
from .keys import DatalistKeys
from .report.picture import write_picture
from .run_folder import RunFolder

__all__ = ["run_demo"]

BUNDLE = Path("bundles", "phantom_10")


def run_demo(output: str = "demo") -> None:
    """
    Draw the phantom, train ``phantom_10`` on it, evaluate, segment an unseen scan and draw a picture.

    Training, evaluation and inference are the commands that a user would type; they are printed before they run.

    Args:
        output: folder for data and results.

    Raises:
        InputError: if the current folder is not the root of the repository, or one of the commands fails.
    """
    if not (BUNDLE / "configs" / "train.json").is_file():
        raise InputError(f"{BUNDLE} is not here: run this from the root of the repository.")
    started = time.monotonic()
    data, run = Path(output, "data"), RunFolder(Path(output, BUNDLE.name))
    write_phantom(str(data))
    common = ["--dataset_dir", str(data), "--output_dir", str(run.root)]
    _bundle("training", "train.json", common)
    _bundle("evaluating", "evaluate.json", common)
    scan = min((data / "imagesTs").glob("*.nii.gz"))
    _bundle("run", "inference.json", [*common, "--input", str(scan)])
    picture = write_picture(str(BUNDLE), str(data), str(run.root))
    print(
        f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. What there is to look at:\n"
        f"  picture       {picture}\n"
        f"  scores        {run.cases_csv(DatalistKeys.TESTING)}\n"
        f"  label map     {run.predictions}\n"
        f"  weights       {run.model}\n"
        f"  curves        {shlex.join([sys.executable, '-m', 'mlflow', 'ui', '--backend-store-uri'])} "
        f"sqlite:///{run.mlflow.absolute()}\n"
        f"To hand it on: python -m dtlp_components pack {BUNDLE} packed --run_dir {run.root}"
    )


def _bundle(run_id: str, config: str, arguments: list[str]) -> None:
    words = ["-m", "monai.bundle", "run", run_id, "--config_file", str(BUNDLE / "configs" / config), *arguments]
    print("\n$ " + shlex.join(["python", *words]), flush=True)
    code = subprocess.run([sys.executable, *words], check=False).returncode
    if code:
        raise InputError(f"The command above failed with exit code {code}.")
