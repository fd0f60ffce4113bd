# SPDX-License-Identifier: Apache-2.0
"""``dtlp calibrate``: what the probabilities of a trained model are worth, on labeled scans it was not trained on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.metrics import CalibrationErrorMetric
from monai.networks.utils import one_hot
from monai.transforms import Compose, LoadImage
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..bundle.find import find_bundle
from ..bundle.trained import FOLDS, fold_models
from ..data.readers import ScanReader
from ..errors import InputError
from ..files import write_json
from ..handlers.training_curves import save_figure
from ..inferers.scan_segmenter import ScanSegmenter
from ..keys import DatalistKeys, ScanKeys
from ..metrics.calibration import (
    Calibration,
    calibrated_run,
    checksum_of_weights,
    conformal_margins,
    fit_temperature,
    tempered,
)
from ..metrics.overlap import batch_dice
from ..run_folder import RunFolder
from ..tables import number_of
from ..transforms.partial_labels import MarkOpenVoxelsd, leave_out_open_voxels
from .cases import BINS, LabeledScans, count_by_confidence
from .figures import draw_calibration

__all__ = ["calibrate_model"]

VOXELS_PER_SCAN = 200_000  # that the temperature is fitted on, drawn at random
# probability of background from which on a voxel says nothing: most of a scan, where every network is sure and right
BACKGROUND = 0.99


def calibrate_model(
    bundle: str,
    output_dir: str = "",
    dataset_dir: str = "",
    datalist: str = "",
    section: str = "",
    coverage: float = 0.9,
    device: str = "cpu",
) -> Path:
    """
    Calibrate a trained model's confidence on labeled scans; segment then uses the calibration.

    A temperature makes its probabilities correct on average, and, given at least twenty scans, segment also writes an
    interval for the mean Dice of each scan. Both hold only for scans like these: other scanners, patients or labels
    need their own calibration. The labels that segment writes do not change. A calibration curve before and after is
    drawn.

    With the output folder of dtlp folds, the average of all its models is calibrated on all labeled scans: each model
    on the scans that it did not see.

    Args:
        bundle: folder of the bundle, or its name.
        output_dir: folder of the training run, or the output folder of dtlp folds; by default, the bundle's folder.
        dataset_dir: folder of the scans; by default, the one used in training, or else the bundle's.
        datalist: datalist file; by default, the one used in training, or else the bundle's.
        section: section of the datalist whose labels were not used for training; by default, validation.
        coverage: fraction of new scans whose Dice lies within the interval.
        device: cpu, cuda, cuda:1 ….

    Returns:
        Path of ``logs/calibration.json``.

    Raises:
        InputError: if there is no training or no labeled scan, the section was trained on, or a cross-validation is to
            be calibrated on other scans than those that its folds held out.
    """
    if not 0 < coverage < 1:
        raise InputError(f"--coverage: expected a number between 0 and 1, got {coverage!r}.")
    section = section or DatalistKeys.VALIDATION.value
    if section in (DatalistKeys.TRAINING.value, DatalistKeys.UNLABELED.value):
        raise InputError(
            f"--section: expected labeled scans that training has not seen, got {section!r}, which it was trained on."
        )
    folder = Path(output_dir or find_bundle(bundle))
    folds = fold_models(folder) if (folder / FOLDS).is_file() else []
    if folds and (datalist or section != DatalistKeys.VALIDATION):
        raise InputError(
            f"--output_dir {folder}: expected neither --datalist nor --section with a cross-validation, each model of "
            "which is calibrated on the scans that its fold held out."
        )
    places = [str(RunFolder.of_weights(weights).root) for weights in folds] or [str(folder)]
    found = [LabeledScans.find(bundle, place, dataset_dir, datalist, section) for place in places]
    first, *others = (scans.trained.weights for scans in found)
    run, count = calibrated_run(first, others), sum(len(scans.items) for scans in found)
    held_out = number_of(count, "scan") + (", each held out by its fold" if folds else f" of section `{section}`")

    students = [scans.trained.load_student().to(device) for scans in found]
    parts = [_voxels(scans, student) for scans, student in zip(found, students, strict=True)]
    logits, label = (torch.cat(part) for part in zip(*parts, strict=True))
    if not len(label):
        raise InputError(
            f"the model confidently predicts background everywhere in all {held_out}, so there is nothing to "
            "calibrate. Are these the right weights, and the kind of scans it was trained on?"
        )
    temperature = fit_temperature(logits, label)
    _draw(logits, label, temperature, run.calibration_curve)

    calibration = Calibration(temperature, checksum_of_weights(first, others), section, count, coverage=coverage)
    scores = [_dice(scans, student, calibration) for scans, student in zip(found, students, strict=True)]
    expected, dice = ([value for part in parts for value in part] for parts in zip(*scores, strict=True))
    too_few = ""
    try:
        below, above = conformal_margins(expected, dice, coverage)
    except InputError as error:
        too_few = str(error)
    else:
        calibration = replace(calibration, below=below, above=above)
    write_json(run.calibration, calibration.content())

    before, after = (_error(logits, label, t) for t in (1.0, temperature))
    print(f"Temperature {temperature:.3f} from {held_out}.")
    print(f"Expected calibration error, mean over classes: {100 * before:.2f} % before, {100 * after:.2f} % after.")
    print(f"Mean Dice {100 * np.mean(dice):.1f} %; expected by the model: {100 * np.mean(expected):.1f} %.")
    if too_few:
        print(f"No interval: {too_few}")
    else:
        print(
            f"For {100 * coverage:g} % of scans like these, the mean Dice of a new scan lies between {100 * below:.1f} "
            f"below and {100 * above:.1f} above the value expected by the model."
        )
    print(f"Calibration: {os.path.abspath(run.calibration)}\nCurve: {os.path.abspath(run.calibration_curve)}")
    return run.calibration


def _voxels(scans: LabeledScans, network: nn.Module) -> tuple[Tensor, Tensor]:
    """
    Logits ``(N, C)`` and classes ``(N,)`` of voxels of all scans that may be foreground, on the training grid.

    The network alone decides which those are: by the label as well, they would be chosen for its being wrong.
    """
    transform = Compose(scans.parser.get_parsed_content("deterministic_transforms"))
    inferer, device = scans.parser.get_parsed_content("inferer"), next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    logits, labels = [], []
    for item in tqdm(scans.items, desc="temperature", unit="scan", disable=None):
        scan = transform(dict(item))
        image = torch.as_tensor(scan[Keys.IMAGE]).as_subclass(Tensor)[None].to(device)
        label = torch.as_tensor(scan[Keys.LABEL]).as_subclass(Tensor).long().flatten()
        with torch.no_grad():
            volume = inferer(image, network)[0].float().cpu().flatten(1)
        near = ((torch.softmax(volume, dim=0)[0] < BACKGROUND) & (label >= 0)).nonzero()[:, 0]
        drawn = near[torch.randperm(len(near), generator=generator)[:VOXELS_PER_SCAN]]
        logits.append(volume[:, drawn].T)
        labels.append(label[drawn])
    return torch.cat(logits), torch.cat(labels)


def _dice(scans: LabeledScans, network: nn.Module, calibration: Calibration) -> tuple[list[float], list[float]]:
    """What the model expects of each scan and what it reached, on the scan's own grid, as ``segment`` writes them."""
    device = next(network.parameters()).device
    segmenter = ScanSegmenter(scans.parser.get_parsed_content("inferer"), calibration=calibration)
    inference = scans.trained.parser("inference")
    inference["preprocessing_keys"] = [Keys.IMAGE.value]
    transform = Compose(inference.get_parsed_content("deterministic_transforms"))
    read = LoadImage(reader=ScanReader(), ensure_channel_first=True)
    mark = MarkOpenVoxelsd(Keys.LABEL, scans.label_names, scans.ignore_label, scans.table)
    expected, dice = [], []
    for item in tqdm(scans.items, desc="Dice", unit="scan", disable=None):
        found = segmenter(transform({Keys.IMAGE: item[Keys.IMAGE]})[Keys.IMAGE], network, device)
        predicted = torch.as_tensor(found[ScanKeys.PRED]).as_subclass(Tensor).long()
        stored = torch.as_tensor(read(item[Keys.LABEL])).as_subclass(Tensor).long()
        marked = mark({**item, Keys.LABEL: stored})[Keys.LABEL.value]
        predicted, label = leave_out_open_voxels(predicted, marked, scans.table)
        scores, present = batch_dice(predicted, label, len(scans.label_names))
        there = present | (torch.bincount(predicted.flatten(), minlength=len(scans.label_names)) > 0)
        # nothing but background was expected, or is there
        expected.append(float(found[ScanKeys.QUALITY].get("expected_dice", 0.0)))
        dice.append(float(scores[1:][there[1:]].mean()) if there[1:].any() else 1.0)
    return expected, dice


def _error(logits: Tensor, label: Tensor, temperature: float) -> float:
    metric = CalibrationErrorMetric(num_bins=BINS, include_background=False, calibration_reduction="expected")
    probabilities = torch.softmax(logits / temperature, dim=1).T[None].contiguous()
    metric(y_pred=probabilities, y=one_hot(label[None, None], probabilities.shape[1]))
    error = metric.aggregate()
    assert isinstance(error, Tensor)
    return float(error)


def _draw(logits: Tensor, label: Tensor, temperature: float, file: Path) -> None:
    curves = {}
    for name, t in (("as trained", 1.0), (f"temperature {temperature:.2f}", temperature)):
        confidence, predicted = tempered(torch.softmax(logits, dim=1).T, t).max(dim=0)
        curves[name] = count_by_confidence(confidence, predicted == label)
    save_figure(draw_calibration(curves), file)
