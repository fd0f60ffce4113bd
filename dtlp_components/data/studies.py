# SPDX-License-Identifier: Apache-2.0
"""The studies of a MONAI Label server that nobody has labeled yet."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..keys import DatalistKeys
from .nifti import nifti_files

__all__ = ["unlabeled_studies"]


def unlabeled_studies(
    studies_dir: str, labeled: Sequence[Mapping[str, str]], validation: Sequence[Mapping[str, str]] = ()
) -> list[dict[str, str]]:
    """
    List the studies in a MONAI Label server's folder that it has not put into a list, and log how many there are.

    The server tells a training what has a final label, and nothing of the rest. A study is a NIfTI file directly in the
    folder; what is below it (``labels/``, with final labels and submitted predictions) is not looked at, and no file is
    opened.

    Args:
        studies_dir: the server's ``--studies``, which it exports as ``MONAI_LABEL_STUDIES``. For anything but a folder
            (a DICOMweb server's address) a warning is logged and no study found.
        labeled: items ``{"image": path, ...}`` to train on.
        validation: items to validate on.

    Returns:
        One ``{"image": absolute path}`` per study that is in neither list, whatever links lead to it, sorted by path.
    """
    logger = logging.getLogger("dtlp")
    folder = Path(os.path.abspath(studies_dir))
    if not folder.is_dir():
        logger.warning(
            f"{studies_dir}: expected the folder of a MONAI Label server that stores its studies as NIfTI files, got "
            f"no such folder: {len(labeled)} labeled studies are known, but unlabeled ones cannot be listed."
        )
        return []
    # the server gives real paths; its folder may hold links
    known = {os.path.realpath(item[DatalistKeys.IMAGE]) for item in (*labeled, *validation)}
    unlabeled = [file for file in nifti_files(folder) if os.path.realpath(file) not in known]
    logger.info(
        f"{len(labeled) + len(validation)} labeled and {len(unlabeled)} unlabeled studies in {folder}; "
        f"labeled: {len(labeled)} for training, {len(validation)} for validation."
    )
    return [{str(DatalistKeys.IMAGE): str(file)} for file in unlabeled]
