# SPDX-License-Identifier: Apache-2.0
"""The whole way in minutes: drawn volumes, training, evaluation, inference on an unseen scan, a picture."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from .bundle.find import find_bundle
from .bundle.run_monai import run_monai
from .datasets.phantom import write_phantom
from .keys import DatalistKeys
from .report.command import write_report
from .report.picture import write_picture
from .run_folder import RunFolder, mlflow_address

__all__ = ["run_demo"]

BUNDLE = "phantom_10"


def run_demo(output: str = "demo") -> None:
    """
    Draw the phantom, train `phantom_10` on it, evaluate, segment an unseen scan and draw a picture.

    Training, evaluation and inference are the commands that a user would type; they are printed before they run.

    Args:
        output: folder for data and results.

    Raises:
        InputError: if one of the commands fails.
    """
    started = time.monotonic()
    bundle, data, run = find_bundle(BUNDLE), Path(output, "data"), RunFolder(Path(output, BUNDLE))
    write_phantom(str(data))
    common = ["--dataset_dir", str(data), "--output_dir", str(run.root)]
    configs = bundle / "configs"
    run_monai(["run", "training", "--config_file", str(configs / "train.json"), *common])
    run_monai(["run", "evaluating", "--config_file", str(configs / "evaluate.json"), *common])
    scan = min((data / "imagesTs").glob("*.nii.gz"))
    run_monai(["run", "run", "--config_file", str(configs / "inference.json"), *common, "--input", str(scan)])
    picture = write_picture(str(bundle), str(data), str(run.root))
    page = run.root / "report.html"
    write_report(f"{BUNDLE}={run.root}", output=str(page), bundle=str(bundle), dataset_dir=str(data))
    print(
        f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. What there is to look at:\n"
        f"  report        {page}\n"
        f"  picture       {picture}\n"
        f"  scores        {run.cases_csv(DatalistKeys.TESTING)}\n"
        f"  label map     {run.predictions}\n"
        f"  weights       {run.model}\n"
        f"  curves        {run.progress}\n"
        f"  MLflow        {shlex.join([sys.executable, '-m', 'mlflow', 'ui', '--backend-store-uri'])} "
        f"{shlex.quote(mlflow_address(str(run.root)))}\n"
        "                then http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning\n"
        f"To hand it on: dtlp pack {bundle} packed --run_dir {run.root}"
    )
