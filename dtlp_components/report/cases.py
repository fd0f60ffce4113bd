# SPDX-License-Identifier: Apache-2.0
"""What the networks of a training say of a scan whose labels are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.networks.utils import eval_mode
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys

from ..bundle.find import find_bundle
from ..bundle.teachers import load_training_networks
from ..bundle.trained import TrainedBundle, find_trained
from ..checks.literals import literal
from ..data.datalists import SCORED_SECTIONS, load_datalist, scored_section
from ..data.partial_labels import open_classes
from ..errors import InputError
from ..files import read_object
from ..handlers.pseudo_label_monitor import predict_sources
from ..handlers.score_table import case_names
from ..keys import PseudoLabelSources as Sources
from ..metrics.overlap import batch_dice
from ..metrics.uncertainty import entropy_bits
from ..run_folder import RunFolder
from ..transforms.partial_labels import leave_out_open_voxels

__all__ = [
    "BINS",
    "CaseMaps",
    "CasePredictor",
    "LabeledScans",
    "count_by_confidence",
    "parser_of_training",
    "told_places",
]

BINS = 10  # of the calibration curve
# sections in which labels were not trained on, in the order in which they are looked for


@dataclass(frozen=True)
class CaseMaps:
    """
    One scan on the training grid.

    Args:
        name: of the scan, as in the tables of scores.
        image: ``(D, H, W)``, in RAS orientation.
        spacing: of voxels, mm.
        reference: labels, same shape.
        labels: label map of each source, the student's first.
        dice: mean over the classes of the reference, of each source, 0 to 1.
        entropy: of the student, bits, same shape.
        same: sources whose label map is the student's, and which are not among ``labels``.
        calibration: voxels, right ones and sum of confidence by bin of the student's confidence, ``(3, BINS)``; where
            the student or the reference see more than background.
    """

    name: str
    image: np.ndarray
    spacing: tuple[float, float, float]
    reference: np.ndarray
    labels: dict[str, np.ndarray]
    dice: dict[str, float]
    entropy: np.ndarray
    same: list[str]
    calibration: np.ndarray


@dataclass(frozen=True)
class LabeledScans:
    """
    Scans of a training's datalist whose labels are known.

    Args:
        trained: the training.
        told: where it was told that its scans lie, and whether it had unlabeled ones.
        parser: of its ``train.json``, with its settings and places.
        section: of the datalist.
        items: of that section, each with ``image`` and ``label``.
        label_names: of all classes.
        ignore_label: value in label files of voxels that nobody labeled; ``None`` if there is none.
        table: what their open voxels may be (:py:func:`dtlp_components.data.partial_labels.open_classes`).
    """

    trained: TrainedBundle
    told: dict[str, Any]
    parser: ConfigParser
    section: str
    items: list[dict[str, Any]]
    label_names: list[str]
    ignore_label: int | None
    table: list[list[int]]

    @classmethod
    def find(cls, bundle: str, output_dir: str, dataset_dir: str, datalist: str, section: str) -> LabeledScans:
        """
        See :py:class:`CasePredictor` for the arguments.

        Raises:
            InputError: if there is no such training or no labeled scan.
        """
        folder = find_bundle(bundle)
        run = RunFolder(output_dir or folder)
        trained = find_trained(str(folder), str(run.root))
        parser, told = parser_of_training(trained, run, dataset_dir, datalist), told_places(run)
        parser.update({"output_dir": literal(str(run.root)), "batch_size_unlabeled": 0})
        file, scans = parser.get_parsed_content("datalist"), parser.get_parsed_content("dataset_dir")
        section = section or _section_with_labels(file)
        items = load_datalist(file, section, scans)
        if not items or any(Keys.LABEL not in item for item in items):
            raise InputError(
                f"{file}: section `{section}`: expected scans with labels, got {len(items)} scans"
                + (" without." if items else ".")
            )
        names = [str(name) for name in parser["label_names"]]
        ignored = parser.get_parsed_content("ignore_label", default=None)
        table = open_classes(items, names, ignored)
        parser["open_classes"] = table
        return cls(trained, told, parser, section, items, names, ignored, table)


class CasePredictor:
    """
    The networks of a training and the labeled scans to show them.

    Args:
        bundle: folder of the bundle, or its name.
        output_dir: of the training; the bundle's folder if empty.
        dataset_dir: folder of the scans; what the training was told, or the bundle's own, if empty.
        datalist: file with the lists; the same if empty.
        section: of the datalist; the first of ``testing`` and ``validation`` that has labeled scans if empty.

    Raises:
        InputError: if there is no checkpoint or no labeled scan.
    """

    def __init__(
        self, bundle: str, output_dir: str = "", dataset_dir: str = "", datalist: str = "", section: str = ""
    ) -> None:
        self.run = RunFolder(output_dir or find_bundle(bundle))
        if not self.run.last.is_file():  # before anything that takes time
            raise InputError(f"No checkpoint at {self.run.last.absolute()}: train first, or pass the run's output_dir.")
        found = LabeledScans.find(bundle, output_dir, dataset_dir, datalist, section)
        parser = found.parser
        self.section, self.items, self.label_names = found.section, found.items, found.label_names
        self.table = found.table
        self.transform = Compose(parser.get_parsed_content("deterministic_transforms"))
        self.network, self.teacher = load_training_networks(parser, self.run.last)
        self.student = parser.get_parsed_content("exported_model")
        self.labeler, self.inferer = parser.get_parsed_content("pseudo_labeler"), parser.get_parsed_content("inferer")
        self.has_teachers = (
            found.trained.settings.get("method") != "supervised" and found.told.get("batch_size_unlabeled", 1) != 0
        )

    @property
    def names(self) -> list[str]:
        """Of the scans as the tables of scores have them, in the order of the section."""
        return case_names([item[Keys.IMAGE] for item in self.items])

    def predict(self, index: int) -> CaseMaps:
        """Everything on the scan of that number in the section, from 0."""
        item = self.items[index]
        scan = self.transform(item)
        image = torch.as_tensor(scan[Keys.IMAGE]).as_subclass(torch.Tensor)
        reference = torch.as_tensor(scan[Keys.LABEL]).as_subclass(torch.Tensor).long()[0]
        device = next(self.network.parameters()).device
        with eval_mode(self.network, self.teacher, self.student), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            maps = predict_sources(image[None].to(device), self.student, self.labeler, self.inferer)
        student = maps[Sources.STUDENT][0].float().cpu()
        prediction, known = leave_out_open_voxels(student.argmax(dim=0), reference, self.table)
        labels, dice, same = {str(Sources.STUDENT): prediction.numpy()}, {}, []
        for name in (Sources.STUDENT, *(name for name in maps if name != Sources.STUDENT)):
            if name != Sources.STUDENT and not self.has_teachers:
                continue
            label, _ = leave_out_open_voxels(maps[name].argmax(dim=1)[0].cpu(), reference, self.table)
            scores, present = batch_dice(label, known, len(self.label_names))
            dice[str(name)] = float(scores[1:][present[1:]].mean())
            if name != Sources.STUDENT and torch.equal(label, prediction):
                same.append(str(name))
            labels.setdefault(str(name), label.numpy())
        spacing = tuple(float(side) for side in scan[Keys.IMAGE].pixdim)
        return CaseMaps(
            name=self.names[index],
            image=image[0].numpy(),
            spacing=(spacing[0], spacing[1], spacing[2]),
            reference=known.numpy(),
            labels={name: label for name, label in labels.items() if name not in same},
            dice=dice,
            entropy=entropy_bits(student[None])[0, 0].numpy(),
            same=same,
            calibration=_calibration(student, prediction, reference),
        )


def _calibration(student: torch.Tensor, prediction: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    seen = ((prediction > 0) | (reference > 0)) & (reference >= 0)  # where a label is known
    return count_by_confidence(student.amax(dim=0)[seen], (prediction == reference)[seen])


def count_by_confidence(confidence: torch.Tensor, right: torch.Tensor) -> np.ndarray:
    """
    Voxels, right ones and sum of confidence by bin of the confidence, ``(3, BINS)``.

    Args:
        confidence: of the predicted class, ``(N,)``, 0 to 1.
        right: whether it is the true one, ``(N,)`` bool.
    """
    confidence, right = confidence.double(), right.double()
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    sums = [
        torch.bincount(bins, weights=weights, minlength=BINS) for weights in (torch.ones_like(right), right, confidence)
    ]
    return torch.stack(sums).numpy()


def parser_of_training(trained: TrainedBundle, run: RunFolder, dataset_dir: str, datalist: str) -> ConfigParser:
    """Of ``train.json``, with the places that are given, or that the training was told."""
    parser, told = trained.parser("train"), told_places(run)
    places = {"dataset_dir": dataset_dir or told.get("dataset_dir"), "datalist": datalist or told.get("datalist")}
    parser.update({key: literal(value) for key, value in places.items() if value})
    return parser


def told_places(run: RunFolder) -> dict[str, Any]:
    """Where the training was told that its scans lie, and whether it had unlabeled ones."""
    if not run.record.is_file():
        return {}
    record = read_object(run.record, "the record of a training")
    overrides, settings = record.get("overrides"), record.get("settings")
    told: dict[str, Any] = {**settings} if isinstance(settings, dict) else {}
    places = overrides if isinstance(overrides, dict) else {}
    found = {key: places[key] for key in ("dataset_dir", "datalist") if isinstance(places.get(key), str)}
    # a path of a record is no expression, whatever it looks like
    safe = {key: value for key, value in found.items() if not value.startswith(("$", "@", "%"))}
    return {"batch_size_unlabeled": told.get("batch_size_unlabeled", 1), **safe}


def _section_with_labels(datalist: str) -> str:
    section = scored_section(datalist)
    if not section:
        raise InputError(
            f"{datalist}: expected scans in section {' or '.join(map(str, SCORED_SECTIONS))}, whose labels were not "
            "used for training, got none. Choose another section with --section."
        )
    return section
