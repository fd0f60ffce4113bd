# SPDX-License-Identifier: Apache-2.0
"""The scans of a training that have no label, those that have one, and what its networks say of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from tqdm.auto import tqdm

from ..bundle.find import find_bundle
from ..bundle.teachers import WITH_DECODERS, Teachers, choose_source, load_teachers
from ..bundle.trained import TrainedBundle, find_trained
from ..data.channel_files import channel_files
from ..data.datalists import load_datalist
from ..data.scans import ScanDataset, find_images
from ..data.series import scan_stamp
from ..errors import InputError
from ..files import read_object, sha256, write_json
from ..inferers.scan_segmenter import ScanSegmenter
from ..keys import DatalistKeys, ScanKeys
from ..keys import PseudoLabelSources as Sources
from ..report.cases import parser_of_training, told_places
from ..run_folder import RunFolder
from .opinions import ScanOpinion, judge_scan

__all__ = ["Pool", "find_pool"]

SECONDS_BETWEEN_SAVES = 30.0
SAMPLES = 2  # of the diffusion teacher: what it draws from other noise is an opinion of its own


@dataclass(frozen=True)
class Pool:
    """
    Scans around a training.

    Args:
        trained: the training.
        run: its folder.
        unlabeled: paths of the scans without a label.
        labeled: paths of those that were trained on with one.
        label_names: of all classes.
        device: where its networks are to compute.
    """

    trained: TrainedBundle
    run: RunFolder
    unlabeled: list[str]
    labeled: list[str]
    label_names: list[str]
    device: torch.device

    @property
    def has_teachers(self) -> bool:
        """Whether the training had unlabeled scans, a checkpoint of it is there, and a method with two teachers."""
        told = told_places(self.run)
        method = self.trained.settings.get("method", "dtlp")
        return self.run.last.is_file() and told.get("batch_size_unlabeled", 1) != 0 and method in WITH_DECODERS

    def lists(self, datalist: str, dataset_dir: str, section: str) -> tuple[str, str, str]:
        """What ``load_datalist`` takes: the training's own list, where no other is given."""
        parser = parser_of_training(self.trained, self.run, dataset_dir, datalist)
        return parser.get_parsed_content("datalist"), section, parser.get_parsed_content("dataset_dir")

    def teachers(self, samples: int = 1) -> Teachers:
        """
        The training's teachers.

        Raises:
            InputError: if it had none.
        """
        train = str(self.trained.folder / "configs" / "train.json")
        return load_teachers(train, str(self.run.last), self.trained.settings, self.device, samples)

    def segmenter(self, source: str = Sources.STUDENT.value) -> Callable[[MetaTensor], dict[str, Any]]:
        """
        Maps a preprocessed image to labels and maps on the scan's own grid, of entropy and, if there are teachers, of
        disagreement (:py:class:`dtlp_components.ScanSegmenter`).

        Args:
            source: whose labels.
        """
        teachers = self.teachers() if self.has_teachers else None
        network = choose_source(source, self.trained.load_student().to(self.device), teachers)
        inferer = self.trained.parser("inference").get_parsed_content("inferer")
        segment = ScanSegmenter(inferer, uncertainty=True, teachers=teachers)
        return lambda image: segment(image, network, self.device)

    def images(self, paths: Sequence[str]) -> Iterator[tuple[str, MetaTensor | None, str]]:
        """Of each scan its path, the preprocessed image ``(in_channels, D, H, W)``, or ``None`` and what is wrong."""
        parser = self.trained.parser("inference")
        transform = Compose(parser.get_parsed_content("deterministic_transforms"))
        find_problems = parser.get_parsed_content("dataset::find_problems")
        dataset = ScanDataset([{str(Keys.IMAGE): path} for path in paths], transform, find_problems)
        for path, item in zip(paths, (dataset[i] for i in range(len(dataset))), strict=True):
            if ScanKeys.PROBLEM in item:
                yield path, None, item[ScanKeys.PROBLEM]
            else:
                yield path, item[Keys.IMAGE], ""

    def opinions(self, paths: Sequence[str], cache: Path) -> tuple[dict[str, ScanOpinion], list[str]]:
        """
        What the networks say of scans, with progress and the time left; a scan that cannot be read is left out.

        Args:
            paths: of the scans.
            cache: JSON file that keeps what was found, for the next time; scans and weights that changed are looked at
                again. It is written every half minute and at the end, so that a command that was stopped goes on.

        Returns:
            Opinions by path, and a sentence for each scan that is left out.
        """
        weights, entries = self._entries(cache)
        channels = self.trained.channels
        there = (path for path in paths if any(map(os.path.exists, channel_files(path, channels))))
        stamps = {path: dict(scan_stamp(path, channels)) for path in there}
        found = {
            path: ScanOpinion(**entries[path]["opinion"])
            for path in paths
            if path in entries and entries[path].get("stamp") == stamps.get(path)
        }
        problems, left = [], [path for path in paths if path not in found]
        if left:
            student = self.trained.load_student().to(self.device)
            teachers = self.teachers(SAMPLES) if self.has_teachers else None
            parser = self.trained.parser("inference")
            patch, batch = parser.get_parsed_content("patch_size"), int(parser.get_parsed_content("window_batch_size"))
            saved, seconds = time.monotonic(), 0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_SAVES
            try:
                for path, image, problem in tqdm(
                    self.images(left), total=len(left), desc="predicting scans", unit="scan", mininterval=seconds
                ):
                    if image is None:
                        problems.append(problem)
                        continue
                    volume = torch.as_tensor(image).as_subclass(Tensor)
                    found[path] = judge_scan(path, volume, student, teachers, patch, self.label_names, batch)
                    entries[path] = {"stamp": stamps[path], "opinion": asdict(found[path])}
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        write_json(cache, {"weights": weights, "scans": entries})
                        saved = time.monotonic()
            finally:
                write_json(cache, {"weights": weights, "scans": entries})
        return found, problems

    def _entries(self, cache: Path) -> tuple[dict[str, str], dict[str, Any]]:
        """Checksums of the weights, and what the file keeps of them."""
        files = [self.trained.weights, *([self.run.last] if self.has_teachers else [])]
        weights = {file.name: sha256(file) for file in files}
        kept = read_object(cache) if cache.is_file() else {}
        return weights, kept.get("scans", {}) if kept.get("weights") == weights else {}


def find_pool(
    bundle: str,
    output_dir: str = "",
    unlabeled: str = "",
    dataset_dir: str = "",
    datalist: str = "",
    section: str = DatalistKeys.UNLABELED.value,
    device: str = "",
    scans: bool = True,
) -> Pool:
    """
    Find a training and the scans around it.

    Args:
        bundle: folder of the bundle, or its name.
        output_dir: of the training; the bundle's folder if empty.
        unlabeled: a NIfTI file or a folder of scans; those of the datalist if empty.
        dataset_dir: folder of the scans; what the training was told, or the bundle's own, if empty.
        datalist: file with the lists; the same if empty.
        section: of the datalist, whose scans count as those without a label.
        device: cpu, cuda, …; cuda if there is one if empty.
        scans: look for scans; a server has its own.

    Raises:
        InputError: if there is no such training or no such scan.
    """
    folder = find_bundle(bundle)
    run = RunFolder(output_dir or folder)
    trained = find_trained(str(folder), str(run.root))
    names = [str(name) for name in trained.config("train")["label_names"]]
    where_to = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not scans:
        return Pool(trained, run, [], [], names, where_to)
    parser = parser_of_training(trained, run, dataset_dir, datalist)
    file, root = parser.get_parsed_content("datalist"), parser.get_parsed_content("dataset_dir")
    labeled: list[str] = []
    if not unlabeled or os.path.exists(file):
        labeled = [item[Keys.IMAGE] for item in load_datalist(file, DatalistKeys.TRAINING.value, root)]
    if unlabeled:
        known = {os.path.realpath(path) for path in labeled}
        found = [item[Keys.IMAGE] for item in find_images(unlabeled, trained.channels)]
        found = [path for path in found if os.path.realpath(path) not in known]
        where = unlabeled
    else:
        found = [item[Keys.IMAGE] for item in load_datalist(file, section, root)]
        where = f"{file}: section `{section}`"
    if not found:
        raise InputError(f"{where}: expected scans without a label, got none.")
    return Pool(trained, run, found, labeled, names, where_to)
