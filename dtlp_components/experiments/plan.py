# SPDX-License-Identifier: Apache-2.0
"""An experiment's file: one bundle, variants of its training, seeds, and what is scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bundle.find import find_bundle
from ..bundle.start import config_word, workflow_files
from ..errors import InputError
from ..files import read_object, sha256
from ..run_folder import RunFolder

__all__ = ["EXPERIMENTS", "Experiment", "PlannedRun", "Variant", "checksums", "find_experiment", "read_experiment"]

EXPERIMENTS = Path(__file__).parents[1] / "recipes" / "experiments"

KEYS = {
    "title": str, "bundle": str, "overlays": list, "overrides": dict, "files": list, "variants": dict, "baseline": str,
    "seeds": list, "sections": list, "convention": str,
}  # fmt: skip
VARIANT_KEYS = {"method": str, "overlays": list, "overrides": dict, "files": list}
REQUIRED = ("bundle", "variants")
RUNNER_KEYS = {"output_dir", "seed", "resume", "dataset_dir", "datalist", "config_file"}  # which the runner sets


@dataclass(frozen=True)
class Variant:
    """
    One way to train.

    Args:
        name: in tables.
        method: of ``configs/methods``, or ``dtlp``.
        overlays: variants of the bundle, such as ``paper``, in their order.
        overrides: values by key.
        files: further overlays, laid over the bundle's in this order.
    """

    name: str
    method: str = "dtlp"
    overlays: tuple[str, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^A-Za-z0-9.-]+", "_", self.name).strip("_.") or "_"


@dataclass(frozen=True)
class PlannedRun:
    """
    One training and what is scored of it.

    Args:
        variant: how it trains.
        seed: of the training.
        run: its folder.
        training: words of MONAI's command.
        evaluations: words of MONAI's command by section.
        files: checksums of the configurations that are not words, by name.
    """

    variant: Variant
    seed: int
    run: RunFolder
    training: list[str]
    evaluations: dict[str, list[str]]
    files: dict[str, str]

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.variant.name}, seed {self.seed}"


@dataclass(frozen=True)
class Experiment:
    """
    Trainings of one bundle that are compared.

    Args:
        title: heading of the report.
        bundle: its folder.
        variants: how it is trained; the first is what the others are compared with.
        seeds: of each.
        sections: of the datalist, that are scored.
        convention: of scoring.
        fraction: of the iterations that are trained.
    """

    title: str
    bundle: Path
    variants: list[Variant]
    seeds: list[int]
    sections: list[str]
    convention: str
    fraction: float = 1.0

    def runs(self, output: Path, places: Mapping[str, str]) -> list[PlannedRun]:
        """
        Every training, seed by seed, so that all variants have one before any has two.

        Args:
            output: folder for all of them.
            places: ``dataset_dir`` and ``datalist``, where they are not the bundle's own.
        """
        return [
            self.run(variant, seed, RunFolder(output / variant.folder / f"seed_{seed}"), places)
            for seed in self.seeds
            for variant in self.variants
        ]

    def train_files(self) -> list[Path]:
        """The configuration of the first variant, and what is laid over it."""
        first = self.variants[0]
        return [*workflow_files(self.bundle, "train", first.overlays, first.method), *first.files]

    def run(self, variant: Variant, seed: int, run: RunFolder, places: Mapping[str, str]) -> PlannedRun:
        """One training, in a folder of its own."""
        words = {**variant.overrides, "seed": seed}
        train_files = [*workflow_files(self.bundle, "train", variant.overlays, variant.method), *variant.files]
        if self.fraction < 1:
            full = variant.overrides.get("max_iterations") or read_object(train_files[0])["max_iterations"]
            words["max_iterations"] = max(1, round(self.fraction * full))
        where = {**places, "output_dir": str(run.root)}
        published = [name for name in variant.overlays if name == "published"]
        evaluate_files = workflow_files(self.bundle, "evaluate", published)
        return PlannedRun(
            variant=variant,
            seed=seed,
            run=run,
            training=["run", "training", "--config_file", config_word(train_files), *_words({**where, **words})],
            evaluations={
                section: [
                    "run", "evaluating", "--config_file", config_word(evaluate_files),
                    *_words({**where, "eval_section": section, "metric_convention": self.convention}),
                ]
                for section in self.sections
            },
            files=checksums(train_files),
        )  # fmt: skip


def checksums(files: Sequence[Path]) -> dict[str, str]:
    """Of files by folder and name: the project may lie elsewhere the next time."""
    return {"/".join(file.parts[-2:]): sha256(file) for file in files}


def find_experiment(word: str) -> Path:
    """
    The file that a word means: a path, or the name of one that comes with the package.

    Raises:
        InputError: if there is none.
    """
    if Path(word).is_file():
        return Path(word)
    known = sorted(
        file.stem for file in EXPERIMENTS.glob("*.json") if {"variants", "strategies"} & read_object(file).keys()
    )
    if word in known:
        return EXPERIMENTS / f"{word}.json"
    raise InputError(f"{word}: no such file; expected an experiment's JSON file or one of {', '.join(known)}.")


def read_experiment(file: Path, fraction: float = 1.0, bundle: str = "", rounds: Sequence[str] = ()) -> Experiment:
    """
    Read an experiment's file; every key and value is checked before anything is trained.

    Args:
        file: JSON.
        fraction: of the iterations to train.
        bundle: in place of the file's, if not empty.
        rounds: keys of rounds of labeling, which are read elsewhere; there is one variant then, which may go unnamed.

    Raises:
        InputError: if a key is missing or unknown or has another kind of value, or the bundle has no such overlay.
    """
    content = read_object(file, "an experiment")
    content = {key: value for key, value in content.items() if key not in rounds}
    if rounds:
        content.setdefault("variants", {"training": {}})
    if bundle:
        content["bundle"] = bundle
    _check(content, KEYS, str(file))
    missing = [key for key in REQUIRED if not content.get(key)]
    if missing:
        raise InputError(f"{file}: expected {' and '.join(missing)}, got none.")
    folder = find_bundle(content["bundle"])
    variants = [_variant(name, entry, content, file) for name, entry in content["variants"].items()]
    folders = [variant.folder for variant in variants]
    if twice := sorted({folder for folder in folders if folders.count(folder) > 1}):
        raise InputError(f"{file}: variants: expected names that give distinct folders, got {twice[0]} more than once.")
    baseline = content.get("baseline", variants[0].name)
    if baseline not in content["variants"]:
        raise InputError(f"{file}: baseline: expected one of {', '.join(content['variants'])}, got {baseline!r}.")
    seeds = content.get("seeds", [0])
    if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        raise InputError(f"{file}: seeds: expected a list of integers of at least 0, got {seeds!r}.")
    sections = content.get("sections", ["testing"])
    if not sections or not all(isinstance(section, str) for section in sections):
        raise InputError(f"{file}: sections: expected a list of sections of the datalist, got {sections!r}.")
    if not 0 < fraction <= 1:
        raise InputError(f"--fraction: expected a number greater than 0 and at most 1, got {fraction!r}.")
    for variant in variants:  # whoever has no such overlay is told before the first run
        workflow_files(folder, "train", variant.overlays, variant.method)
    return Experiment(
        title=content.get("title", file.stem),
        bundle=folder,
        variants=sorted(variants, key=lambda variant: variant.name != baseline),
        seeds=list(dict.fromkeys(seeds)),
        sections=list(dict.fromkeys(sections)),
        convention=content.get("convention", "native"),
        fraction=fraction,
    )


def _variant(name: str, entry: Any, content: Mapping[str, Any], file: Path) -> Variant:
    where = f"{file}: variants: {name}"
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected an object with {', '.join(VARIANT_KEYS)}, got {entry!r}.")
    if "=" in name or "," in name or not name:
        raise InputError(f"{where}: expected a name without = or a comma, which separate names in `dtlp compare`.")
    _check(entry, VARIANT_KEYS, where)
    overrides = {**content.get("overrides", {}), **entry.get("overrides", {})}
    for key, value in overrides.items():
        if key in RUNNER_KEYS:
            raise InputError(f"{where}: overrides: expected no {key}, which is set by the command line or by seeds.")
        if isinstance(value, (dict, str)) and (isinstance(value, dict) or value.startswith(("$", "@", "%"))):
            raise InputError(
                f"{where}: overrides: {key}: expected a plain value, got {value!r}. Put what MONAI computes or "
                "builds into a separate JSON file, listed in `files`."
            )
    files = tuple(file.parent / name for name in (*content.get("files", ()), *entry.get("files", ())))
    for overlay in files:
        if not overlay.is_file():
            raise InputError(f"{where}: files: {overlay}: no such file.")
    overlays = entry.get("overlays", content.get("overlays", []))
    if not all(isinstance(overlay, str) for overlay in overlays):
        raise InputError(f"{where}: overlays: expected a list of names such as paper, got {overlays!r}.")
    return Variant(name, entry.get("method", "dtlp"), tuple(overlays), overrides, files)


def _check(content: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    """Refuse keys that nobody reads, and values of another kind."""
    kinds: dict[type, str] = {str: "a string", dict: "an object", list: "a list"}
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{where}: expected keys among {', '.join(known)}, got {key!r}.")
        if not isinstance(value, known[key]):
            raise InputError(f"{where}: {key}: expected {kinds[known[key]]}, got {value!r}.")


def _words(values: Mapping[str, Any]) -> list[str]:
    return [
        word for key, value in values.items() for word in (f"--{key}", value if isinstance(value, str) else repr(value))
    ]
