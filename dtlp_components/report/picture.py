# SPDX-License-Identifier: Apache-2.0
"""``python -m dtlp_components picture``: one scan with what a training says of it, as the report shows it."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError
from ..handlers.training_curves import save_figure
from .cases import CasePredictor
from .figures import PLANES, draw_case

__all__ = ["write_picture"]


def write_picture(
    bundle: str,
    dataset_dir: str = "",
    output_dir: str = "",
    file: str = "",
    section: str = "",
    case: int = 0,
    datalist: str = "",
    plane: str = "",
) -> Path:
    """
    Draw one scan with its reference: contours of the prediction, errors, entropy, and each teacher's prediction.

    The scan is shown on the training grid, in three planes with true proportions; the patient's right is on the left.
    The networks are loaded from the run's last checkpoint, with the settings that the run recorded.

    Args:
        bundle: folder of the bundle, or its name.
        dataset_dir: folder of the scans; by default, the one used in training, or else the bundle's.
        output_dir: folder of the training run; by default, the bundle's folder.
        file: PNG file to write; by default, ``<output_dir>/pictures/<scan>.png``.
        section: section of the datalist to take the scan from; by default, testing, or else validation.
        case: number of the scan in its section, from 0.
        datalist: datalist file; by default, the one used in training, or else the bundle's.
        plane: axial, coronal or sagittal; by default, all three.

    Returns:
        Path of the PNG.

    Raises:
        InputError: if there is no checkpoint or no such scan.
    """
    if plane and plane not in PLANES:
        raise InputError(f"--plane: expected one of {', '.join(PLANES)}, got {plane!r}.")
    predictor = CasePredictor(bundle, output_dir, dataset_dir, datalist, section)
    if not 0 <= case < len(predictor.items):
        raise InputError(
            f"--case: expected the number of a scan in section `{predictor.section}`, from 0 to "
            f"{len(predictor.items) - 1}, got {case}."
        )
    maps = predictor.predict(case)
    target = Path(file) if file else predictor.run.picture(maps.name)
    save_figure(draw_case(maps, predictor.label_names, [plane] if plane else tuple(PLANES)), target)
    print(f"Picture: {os.path.abspath(target)}")
    return target
