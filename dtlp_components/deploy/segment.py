# SPDX-License-Identifier: Apache-2.0
"""``python -m dtlp_components segment``: a bundle's ``inference.json``, run on somebody's scans."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from ..bundle.find import find_bundle
from ..bundle.launch import become_torchrun, count_processes
from ..bundle.metadata import refuse_expressions
from ..bundle.run_monai import silence
from ..bundle.trained import fold_models
from ..checks.literals import literal
from ..checks.overrides import no_such_key
from ..checks.trained_settings import record_of
from ..data.segmentations import read_table
from ..errors import InputError, raise_if_any
from ..files import read_object
from ..processes import is_first, join_processes, same_for_all
from ..report.scan_view import picture_label_maps
from ..run_folder import RunFolder
from .dicomweb import fetch_series, store_segmentations

__all__ = ["segment_scans"]


def segment_scans(
    bundle: str,
    input: str = "",
    output: str = "",
    model_file: str = "",
    checkpoint: str = "",
    device: str = "",
    flip_axes: list[int] | None = None,
    keep_largest_component: bool = False,
    uncertainty: bool = False,
    dicom_seg: bool = False,
    skip_existing: bool = False,
    preview: bool = False,
    gpus: int = 1,
    dicomweb: str = "",
    series: str = "",
    store: bool = False,
    **keys: Any,
) -> None:
    """
    Segment scans and write a label map for each, on the scan's own grid.

    This runs the bundle's inference.json; every other key at its root is also a flag. Settings that were changed for
    training (features, spacing, patch size) are taken from the record stored with the weights. Scans that cannot be
    segmented are skipped; in that case, the reasons are listed at the end and the exit code is 1.

    Args:
        bundle: folder of the bundle, or its name.
        input: a NIfTI file, or a folder of NIfTI files and, at any depth, DICOM series; empty with dicomweb.
        output: folder for <scan>_seg.nii.gz and segmentations.csv; created if missing.
        model_file: file with the weights; by default, models/model.pt of the bundle. With the output folder of dtlp
            folds, the predictions of all its models are averaged.
        checkpoint: checkpoints/last.pt of the training run, to also write a map of where its teachers disagree.
        device: cpu, cuda, cuda:1 …; by default, cuda if available.
        flip_axes: average over copies mirrored along these axes, such as "[0]"; 0 is left to right.
        keep_largest_component: keep only the largest connected component of each class.
        uncertainty: also write an entropy map, in bits.
        dicom_seg: for DICOM series, also write a DICOM Segmentation.
        skip_existing: skip scans whose label map in output is newer than the scan and the weights, to resume an
            interrupted run.
        preview: draw a picture of each scan with its label map, in <output>/pictures.
        gpus: number of processes to distribute the scans over, each with its own GPU if available.
        dicomweb: address of an archive's DICOMweb service, such as http://127.0.0.1:8042/dicom-web; the series are
            downloaded from it into <output>/dicom.
        series: series instance UIDs to download, separated by commas.
        store: upload the DICOM Segmentations to that archive.

    Raises:
        InputError: if there is no such bundle or key, or nothing to segment, before anything is done; at the end, if a
            scan was skipped.
    """
    _check_places(input, output, dicomweb, series, store)
    began = time.time()
    if "RANK" not in os.environ and (count := count_processes(gpus)) > 1:
        become_torchrun(count, ["-m", "dtlp_components", *sys.argv[1:]])
        return
    join_processes(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bundle = str(find_bundle(bundle))
    config_file = Path(bundle, "configs", "inference.json")
    if not config_file.is_file():
        raise InputError(
            f"{Path(bundle).absolute()}: expected the folder of a bundle, got one without configs/inference.json."
        )
    config = ConfigParser.load_config_file(str(config_file))
    unknown = [name for name in keys if name.partition("::")[0] not in config]
    raise_if_any([no_such_key(f"--{name}", name, list(config), config_file) for name in unknown])

    if dicomweb:
        uids = [uid.strip() for uid in series.split(",") if uid.strip()]
        input, dicom_seg = os.path.join(output, "dicom"), dicom_seg or store
        same_for_all(lambda: fetch_series(dicomweb, uids, Path(input)))
    weights = Path(model_file or RunFolder(bundle).model)
    others: list[str] = []
    if weights.is_dir():
        first, *others = fold_models(weights)
        weights = Path(first)
    record = record_of(RunFolder.of_weights(weights))
    overlays = [Path(bundle, "configs", "published.json")] if record.get("preprocessing_variant") == "published" else []
    given: dict[str, Any] = {
        "bundle_root": literal(str(bundle)),
        "input": literal(input),
        "prediction_dir": literal(output),
        "model_file": literal(str(weights)),
        "keep_largest_component": keep_largest_component,
        "uncertainty": uncertainty,
        "dicom_seg": dicom_seg,
        "skip_existing": skip_existing,
        **({"other_models": [literal(other) for other in others]} if others else {}),
        **({"flip_axes": list(flip_axes)} if flip_axes else {}),
        **({"checkpoint": literal(checkpoint)} if checkpoint else {}),
        **({"device": device} if device else {}),
        **keys,
    }
    meta_file = Path(bundle, "configs", "metadata.json")
    refuse_expressions(read_object(meta_file, "a bundle's metadata"), meta_file)
    silence()
    logging_file = Path(bundle, "configs", "logging.conf")
    workflow = ConfigWorkflow(
        workflow_type="infer",
        config_file=[str(file) for file in (config_file, *overlays)],
        meta_file=str(meta_file),
        logging_file=str(logging_file) if logging_file.is_file() else None,
        # a packed bundle has literals where others ask for the record; the overlay sets the variant with what goes with
        # it
        **{
            **{name: value for name, value in record.items() if name in config and name != "preprocessing_variant"},
            **given,
        },
    )
    workflow.initialize()
    labels = [str(name) for name in workflow.parser["label_names"]]
    channels = [str(ending) for ending in workflow.parser.get("channels", [])]
    try:
        workflow.run()
    finally:  # also of what could be segmented, if a scan was skipped
        if preview and is_first():
            _draw(Path(output), labels, channels, began)
    if store and is_first():
        store_segmentations(dicomweb, [file for file in sorted(Path(output).glob("*_seg.dcm")) if _is_new(file, began)])
    workflow.finalize()


def _is_new(file: Path, since: float) -> bool:
    """Whether a file was written in this run; some file systems count time in whole seconds."""
    return file.stat().st_mtime >= since - 1


def _draw(folder: Path, labels: list[str], channels: list[str], since: float) -> None:
    """Pictures of the label maps that were just written."""
    rows = [row for row in read_table(str(folder)) if row.get("label_map")]
    rows = [row for row in rows if _is_new(folder / os.path.basename(row["label_map"]), since)]
    if rows:
        picture_label_maps(rows, folder, labels, channels)
        print(f"Pictures: {os.path.abspath(folder / 'pictures')}")


def _check_places(input: str, output: str, dicomweb: str, series: str, store: bool) -> None:
    if not output:
        raise InputError("--output: expected a folder for the label maps, got none.")
    if bool(input) == bool(dicomweb):
        raise InputError("expected either --input or --dicomweb, got " + ("both." if input else "neither."))
    if dicomweb and not series:
        raise InputError("--series: expected series instance UIDs with --dicomweb, got none.")
    if (series or store) and not dicomweb:
        raise InputError("--series, --store: expected the archive's address in --dicomweb, got none.")
