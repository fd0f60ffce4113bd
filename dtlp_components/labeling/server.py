# SPDX-License-Identifier: Apache-2.0
"""
The MONAI Label app that ``dtlp label-app`` writes: bundles with strategies for the next sample, scores, proposals to
correct, and a validation that stays unseen. It is imported by a MONAI Label server alone, in its own environment.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai.transforms import SaveImage
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

from .. import __version__
from ..data.study_split import assign_studies
from ..errors import InputError
from ..files import read_object, write_json
from ..keys import DatalistKeys, ScanKeys
from ..keys import PseudoLabelSources as Sources
from ..metrics.uncertainty import DISPUTED
from .opinions import ScanOpinion
from .pool import Pool, find_pool
from .strategies import BY_TEACHERS, STRATEGIES, choose_scans

__all__ = ["DTLPApp"]

LOGGER = logging.getLogger(__name__)
ORIGINAL = "original"  # label of a study that somebody is to correct
SCORES = "study_scores.json"  # of the last scoring that came to its end, which may be of earlier weights
SPLIT = "validation_split.json"  # in the bundle's folder, beside the models that were trained by it
PROPOSALS = 5  # label maps to correct that are made after each training, of the most disputed studies
LIMIT = 200  # studies without a label that are fetched for a training or a scoring


class DTLPApp(MONAILabelApp):  # type: ignore[misc]
    """
    A server's app of bundles in ``model/``.

    ``--conf models a,b`` takes some of them, ``--conf proposals 10`` makes more label maps to correct, and
    ``--conf max_unlabeled 500`` fetches more studies of an archive to train on. ``--conf next mixed`` answers who asks
    for a random study by another strategy: MONAI Label's OHIF always asks for ``random``, whatever is chosen there.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        folders = sorted(Path(app_dir, "model").glob("*/configs/inference.json"))
        asked = [name.strip() for name in (conf.get("models") or "").split(",") if name.strip()]
        self.bundles = {f.parents[1].name: f.parents[1] for f in folders if not asked or f.parents[1].name in asked}
        if missing := [name for name in asked if name not in self.bundles]:
            raise InputError(f"--conf models: expected bundles of {app_dir}/model, got {', '.join(missing)}.")
        super().__init__(
            app_dir=app_dir, studies=studies, conf=dict(conf), name=f"DTLP bundles ({__version__})",
            description="Segmentation that also learns from unlabeled studies", version=__version__,
        )  # fmt: skip

    def init_infers(self) -> dict[str, InferTask]:
        """The student of each bundle."""
        return {name: BundleInferTask(str(folder), self.conf) for name, folder in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        """The training of each bundle, whose validation is remembered."""
        return {name: StudyTraining(str(folder), self.conf) for name, folder in self.bundles.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        """Those of ``dtlp next``, for each bundle if there are several, and MONAI Label's own."""
        found: dict[str, Strategy] = {"random": Random(), "first": First()}
        for name, folder in self.bundles.items():
            for strategy in STRATEGIES:
                if strategy != "random":
                    found[strategy if len(self.bundles) == 1 else f"{strategy}, {name}"] = NextStudy(strategy, folder)
        if chosen := self.conf.get("next"):
            if chosen not in found:
                raise InputError(f"--conf next: expected one of {', '.join(found)}, got {chosen!r}.")
            found["random"] = found[chosen]
        return found

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """What the teachers of each bundle say of the studies."""
        count = int(self.conf.get("proposals", PROPOSALS))
        return {f"dtlp_{name}": StudyScores(name, folder, count, self.conf) for name, folder in self.bundles.items()}


class StudyTraining(BundleTrainTask):  # type: ignore[misc]
    """
    MONAI Label's training of a bundle, with two differences: a study that was once trained on is never validated on,
    and the studies without a label are those of the server's datastore, an archive's as well as a folder's.
    """

    def _fetch_datalist(self, request: Any, datastore: Any) -> Any:
        self._groups = {}
        for image in datastore.get_labeled_images():
            info = datastore.get_image_info(image)
            patient = info.get("PatientID")
            # a file's name, or the patient where an archive says who it is
            self._groups[image] = f"patient {patient}" if patient and patient != "UNK" else image
        self._unlabeled = self._find_unlabeled(datastore)
        return super()._fetch_datalist(request, datastore)

    def _find_unlabeled(self, datastore: Any) -> list[dict[str, str]]:
        images, found = unlabeled_images(datastore, self.conf), []
        for i, image in enumerate(images, start=1):
            try:
                found.append({"image": str(datastore.get_image_uri(image))})
            except Exception as error:  # an archive may refuse one study
                LOGGER.warning(f"{image}: cannot be downloaded ({error}); training continues without it.")
            if i % 20 == 0:
                LOGGER.info(f"{i} of {len(images)} unlabeled studies downloaded")
        return found

    def _partition_datalist(self, datalist: Any, request: Any, shuffle: bool = False) -> Any:
        share = float(request.get("val_split", 0.2))
        if share < 0:
            return super()._partition_datalist(datalist, request, shuffle)
        named = {self._name(item["image"]): item for item in datalist}
        groups = {name: self._groups.get(name, name) for name in named}
        found = assign_studies(sorted(set(groups.values())), share, Path(self.bundle_path, SPLIT))
        training = [item for name, item in named.items() if found[groups[name]] == DatalistKeys.TRAINING]
        validation = [name for name in named if found[groups[name]] == DatalistKeys.VALIDATION]
        LOGGER.info(f"{len(training)} labeled studies for training, {len(self._unlabeled)} unlabeled.")
        names = ", ".join(validation) or "none"
        LOGGER.info(f"{len(validation)} for validation, as recorded in {Path(self.bundle_path, SPLIT)}: {names}")
        return training, [named[name] for name in validation]

    def _name(self, image: str) -> str:
        """The datastore's name of an image's file."""
        name = Path(image).name
        return next((key for key in self._groups if name == key or name.startswith(f"{key}.")), name)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        overrides["unlabeled#items"] = self._unlabeled
        return overrides


class StudyScores(ScoringMethod):  # type: ignore[misc]
    """
    What the student and its teachers say of every study, kept in the study's info; and of the most disputed ones
    without a label, the ensemble's label map as label ``original``, to correct.

    MONAI Label's epistemic scoring repeats one network with dropout; this asks the networks of the training.

    Args:
        name: of the bundle.
        folder: of the bundle.
        proposals: label maps to make.
        conf: of the server.
    """

    def __init__(self, name: str, folder: Path, proposals: int, conf: Mapping[str, str]) -> None:
        super().__init__(f"Disagreement of the teachers of {name}")
        self.name, self.folder, self.proposals, self.conf = name, folder, proposals, conf

    def __call__(self, request: Any, datastore: Any) -> dict[str, Any]:
        """Score studies that were not, or by other weights."""
        began = time.monotonic()
        unlabeled = unlabeled_images(datastore, self.conf)
        if not (self.folder / "models" / "model.pt").is_file():
            return {"total": len(unlabeled), "executed": 0, "problem": "no model yet"}
        # by path, which a study of an archive has once it was fetched
        images = {str(datastore.get_image_uri(i)): i for i in [*unlabeled, *datastore.get_labeled_images()]}
        pool = pool_of(self.folder, request)
        opinions, problems = pool.opinions(list(images), self.folder / "opinions.json")
        for problem in problems:
            LOGGER.warning(problem)
        for path, opinion in opinions.items():
            scores = {key: round(value, 4) for key, value in opinion.scores.items()}
            datastore.update_image_info(images[path], {f"dtlp_{self.name}": scores})
        write_json(self.folder / SCORES, {images[path]: asdict(opinion) for path, opinion in opinions.items()})
        made = 0
        if pool.has_teachers:
            paths = [path for path in opinions if images[path] in unlabeled]
            disputed = choose_scans("disagreement", [opinions[path] for path in paths], [], self.proposals)
            chosen = {path: images[path] for path in (paths[choice.index] for choice in disputed)}
            made = self._propose(pool, chosen, opinions, datastore)
        summary = {
            "total": len(images), "executed": len(opinions), "proposals": made,
            "latency": round(time.monotonic() - began, 1),
        }  # fmt: skip
        LOGGER.info(f"Scores of {self.name}: {summary}")
        return summary

    def _propose(
        self, pool: Pool, images: Mapping[str, str], opinions: Mapping[str, ScanOpinion], datastore: Any
    ) -> int:
        """Label maps of the ensemble; a study that has one of these weights is left as it is."""
        weights = pool.run.last.stat().st_mtime_ns
        todo = {path: image for path, image in images.items() if _info(datastore, image).get("weights") != weights}
        if not todo:
            return 0
        segment = pool.segmenter(Sources.ENSEMBLE.value)
        with tempfile.TemporaryDirectory(prefix="dtlp-") as folder:
            for path, volume, problem in pool.images(list(todo)):
                if volume is None:
                    LOGGER.warning(problem)
                    continue
                save = SaveImage(
                    output_dir=folder, output_postfix="", output_ext=".nii.gz", output_dtype="uint8",
                    separate_folder=False, resample=False, print_log=False,
                )  # fmt: skip
                labels = segment(volume)[ScanKeys.PRED]
                labels.meta["filename_or_obj"] = f"{todo[path]}.nii.gz"
                save(labels)
                scores = {key: round(value, 4) for key, value in opinions[path].scores.items()}
                info = {"dtlp": {**scores, "source": "ensemble", "weights": weights}}
                datastore.save_label(todo[path], str(Path(folder, f"{todo[path]}.nii.gz")), ORIGINAL, info)
        return len(todo)


class NextStudy(Strategy):  # type: ignore[misc]
    """
    The study to label next, by a strategy of ``dtlp next``. One that was handed out since the last scoring is not
    handed out again while there are others: several people may label at a time.

    Args:
        strategy: its name.
        folder: of the bundle whose networks are asked.
    """

    def __init__(self, strategy: str, folder: Path) -> None:
        super().__init__(f"{strategy}, by {folder.name}")
        self.strategy, self.folder = strategy, folder
        self._offered: set[str] = set()

    def __call__(self, request: Any, datastore: Any) -> dict[str, Any] | None:
        """The study's id with the reason; at random if none has been scored yet."""
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not images:
            return None
        known = kept_opinions(self.folder)
        if self.strategy in BY_TEACHERS and not any(DISPUTED in opinion.scores for opinion in known.values()):
            known = {}  # a scoring before the first training says nothing of disagreement
        left = [image for image in images if image in known and image not in self._offered]
        if not left:
            self._offered.clear()
            left = [image for image in images if image in known]
        if not left:
            LOGGER.info(f"No study has been scored by {self.folder.name} yet; choosing one at random.")
            return dict(Random()({**request, "strategy": "random"}, datastore) or {})
        unlabeled = set(images)
        labeled = [opinion for image, opinion in known.items() if image not in unlabeled]
        (choice,) = choose_scans(self.strategy, [known[image] for image in left], labeled, 1)
        image = left[choice.index]
        self._offered.add(image)
        LOGGER.info(f"{self.strategy}: {image}: {choice.reason}")
        return {"id": image, "weight": known[image].scores.get(DISPUTED, 0.0), "reason": choice.reason}


def unlabeled_images(datastore: Any, conf: Mapping[str, str]) -> list[str]:
    """Studies without a label, as many as the server is to look at: an archive may have thousands."""
    images, limit = sorted(datastore.get_unlabeled_images()), int(conf.get("max_unlabeled", LIMIT))
    if len(images) > limit:
        LOGGER.info(f"{len(images)} unlabeled studies, of which {limit} are used (--conf max_unlabeled).")
    return images[:limit]


def pool_of(folder: Path, request: Mapping[str, Any] | None = None) -> Pool:
    """The training in a bundle's folder, without scans around it."""
    device = str((request or {}).get("device") or "")
    return find_pool(str(folder), str(folder), scans=False, device="" if device == "cuda" else device)


def kept_opinions(folder: Path) -> dict[str, ScanOpinion]:
    """
    What the last whole scoring found, by study: while a new model is asked, which takes minutes, the one before it
    knows more than chance.
    """
    file = folder / SCORES
    return {image: ScanOpinion(**entry) for image, entry in read_object(file).items()} if file.is_file() else {}


def _info(datastore: Any, image: str) -> dict[str, Any]:
    """What an earlier proposal says of itself."""
    try:
        found = datastore.get_label_info(image, ORIGINAL)
    except Exception:  # there is none
        return {}
    info = found.get("dtlp") if isinstance(found, dict) else None
    return info if isinstance(info, dict) else {}
