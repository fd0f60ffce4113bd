# SPDX-License-Identifier: Apache-2.0
"""A clinic in small: an archive with studies, and a MONAI Label server on it with the app of ``dtlp label-app``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from dtlp_components.deploy.label_app import write_label_app
from tests.clinic.archive import Archive, ct_series, orthanc
from tests.monailabel.server import Server, running
from tests.monailabel.test_server import TINY_TRAINING, edit, make_tiny_bundle

NAMES = ("training_0", "training_1", "validation_0", "unlabeled_0", "unlabeled_1")


@dataclass
class Clinic:
    """An archive, a server on it, and which series is of which scan."""

    archive: Archive
    server: Server
    series: dict[str, str]
    data: Path


@contextmanager
def open_clinic(tiny_dataset: Path, folder: Path) -> Iterator[Clinic]:
    """Both, until the block ends."""
    make_tiny_bundle(folder / "phantom_10")
    edit(folder / "phantom_10/configs/train.json", **{**TINY_TRAINING, "burn_in": 0.0})
    app = write_label_app(str(folder / "app"), str(folder / "phantom_10"))
    with orthanc(folder) as archive:
        series = {}
        for name in NAMES:
            scan = nib.as_closest_canonical(nib.load(tiny_dataset / f"{name}.nii.gz"))
            series[name], slices = ct_series(np.round(np.asarray(scan.dataobj)), (1.0, 1.0, 1.0), name)
            archive.store(slices)
        cache = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"), "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "1"}
        with running(app, archive.dicomweb, folder, **cache) as server:
            yield Clinic(archive, server, series, tiny_dataset)
