# SPDX-License-Identifier: Apache-2.0
"""``dtlp folds``: cross-validation of a bundle on all its labeled scans, and models to average."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from ..bundle.find import find_bundle
from ..bundle.start import config_word, take_flag, workflow_files
from ..bundle.trained import FOLDS
from ..checks.literals import literal
from ..errors import InputError
from ..files import read_object, write_json, write_text
from ..keys import DatalistKeys as Keys
from ..report.scores import read_training
from ..report.statistics import bootstrap_interval
from ..run_folder import RunFolder
from ..tables import align, csv_text
from .plan import PlannedRun, Variant, checksums
from .runner import Runner, is_done, refuse_other_settings

__all__ = ["checksum_of", "deal_folds", "find_places", "train_folds"]

OUT_OF_FOLD = "out_of_fold_cases.csv"
DATALIST = "datalist.json"  # in the folder of each training


def train_folds(bundle: str, *words: str) -> None:
    """
    Cross-validate a bundle: train it once per fold of its labeled scans, and score the held-out scans.

    All labeled scans except those for testing are divided into --folds K folds (default 5), keeping the scans of a
    patient together. K training runs follow, one after the other or --jobs N at a time, each with all unlabeled scans
    and each scored on its held-out fold: the mean over all scans, with a 95 % interval, estimates what the bundle's
    settings achieve on scans like these. Finished runs are not repeated, interrupted ones resume. `dtlp segment BUNDLE
    SCANS OUT --model_file RUN`, where RUN is the output folder, averages the K models.

    Every other key of the bundle's train.json is a flag, as for train.

    Args:
        bundle: folder of the bundle, or its name.
        words: --folds, --jobs, --output_dir, --method, --variant, and keys and values of train.json.

    Raises:
        InputError: if there are fewer labeled scans (or patients) than folds, or a training failed.
    """
    count_word, rest = take_flag(words, "folds")
    jobs_word, rest = take_flag(rest, "jobs")
    variant, rest = take_flag(rest, "variant")
    method, rest = take_flag(rest, "method")
    output, rest = take_flag(rest, "output_dir")
    datalist, rest = take_flag(rest, "datalist")
    dataset_dir, rest = take_flag(rest, "dataset_dir")
    seed_word, rest = take_flag(rest, "seed")
    count, jobs = _number("folds", count_word or "5", 2), _number("jobs", jobs_word or "1", 1)
    seed = _number("seed", seed_word or "0", 0)
    folder = find_bundle(bundle)
    files = workflow_files(folder, "train", [variant], method)
    places = find_places(files[0], datalist, dataset_dir)
    root = Path(output) if output else folder / "folds"

    lists = deal_folds(read_object(places["datalist"], "a datalist"), count, seed, str(places["datalist"]))
    evaluate = workflow_files(folder, "evaluate", [variant] if variant == "published" else [])
    runs = []
    for i, content in enumerate(lists, start=1):
        run = RunFolder(root / f"fold_{i}")
        listed = run.root / DATALIST
        where = {"dataset_dir": str(places["dataset_dir"]), "datalist": str(listed), "output_dir": str(run.root)}
        given = [word for key, value in where.items() for word in (f"--{key}", value)]
        training = ["run", "training", "--config_file", config_word(files), *given, "--seed", str(seed), *rest]
        scored = Keys.VALIDATION.value
        evaluation = ["run", "evaluating", "--config_file", config_word(evaluate), *given, "--eval_section", scored]
        # the list is part of what a fold is: other scans are another cross-validation
        seen = checksums(files) | {"datalist": checksum_of(content)}
        runs.append(PlannedRun(Variant(f"fold {i}"), seed, run, training, {scored: evaluation}, seen))
    refuse_other_settings(runs)
    for fold, content in zip(runs, lists, strict=True):
        fold.run.root.mkdir(parents=True, exist_ok=True)
        write_json(fold.run.root / DATALIST, content)
    write_json(root / FOLDS, {"bundle": str(folder), "folds": [fold.run.root.name for fold in runs]})

    runner = Runner(jobs, list(range(torch.cuda.device_count())))
    runner.run_alone(root, runs)
    runner.raise_if_failed()
    if all(is_done(run) for run in runs):
        print(_out_of_fold(root, [run.run for run in runs]))
        segment = shlex.join(["dtlp", "segment", bundle, "SCANS", "OUT", "--model_file", str(root)])
        calibrate = shlex.join(["dtlp", "calibrate", bundle, "--output_dir", str(root)])
        print(f"To segment with the average of all {count} models: {segment}")
        print(f"To have it say which Dice to expect, before that: {calibrate}")


def deal_folds(datalist: Mapping[str, Any], count: int, seed: int, source: str) -> list[dict[str, Any]]:
    """
    Datalists of a cross-validation: each labeled scan is in the validation of one and in the training of the others.

    Args:
        datalist: has ``training`` and perhaps ``validation``, whose scans take part; other sections stay as they are.
        count: of folds.
        seed: of the draw.
        source: of the datalist, for the message.

    Raises:
        InputError: if there are fewer patients than folds.

    Example:
        >>> scans = [{"image": f"{i}.nii.gz", "label": f"{i}_label.nii.gz"} for i in range(4)]
        >>> [len(fold["validation"]) for fold in deal_folds({"training": scans}, 2, 0, "datalist.json")]
        [2, 2]
    """
    items = [*datalist.get(Keys.TRAINING, []), *datalist.get(Keys.VALIDATION, [])]
    patients: dict[str, list[Any]] = {}
    for item in items:
        patients.setdefault(str(item.get(Keys.PATIENT.value) or item[Keys.IMAGE.value]), []).append(item)
    if len(patients) < count:
        raise InputError(
            f"--folds {count}: expected at most one fold per labeled patient in training and validation, got only "
            f"{len(patients)} patients in {source}."
        )
    parts: list[list[Any]] = [[] for _ in range(count)]
    # RandomState, not default_rng: NumPy promises that its draws never change
    for i in np.random.RandomState(seed).permutation(len(patients)).tolist():
        min(parts, key=len).extend(list(patients.values())[i])
    return [
        {
            **datalist,
            Keys.TRAINING.value: [item for other in parts if other is not part for item in other],
            Keys.VALIDATION.value: part,
        }
        for part in parts
    ]


def _out_of_fold(root: Path, runs: Sequence[RunFolder]) -> str:
    """A table of the scans' scores under the models that did not see them; written as CSV as well."""
    folds = [read_training(run.root.name, [run], Keys.VALIDATION.value) for run in runs]
    columns = [name for name in folds[0].scores if name.endswith("dice")]
    rows = [
        {"case": case, "fold": fold.name, **{name: fold.scores[name][0, i] for name in columns}}
        for fold in folds
        for i, case in enumerate(fold.cases)
    ]
    write_text(root / OUT_OF_FOLD, csv_text(rows, ["case", "fold", *columns]))
    table = [["Dice [%], out of fold", "mean", "95 % interval", "least", "scans"]]
    for name in [*columns[1:], columns[0]]:
        values = np.array([row[name] for row in rows], float)
        values = values[np.isfinite(values)]
        if len(values):
            low, high = bootstrap_interval(values[None])
            label = "mean" if name == "dice" else name.removesuffix("_dice")
            numbers = [f"{values.mean():.2f}", f"{low:.2f} to {high:.2f}", f"{values.min():.2f}", str(len(values))]
            table.append([label, *numbers])
    return f"\n{align(table)}\n\nThe interval is over scans. Scan by scan: {os.path.abspath(root / OUT_OF_FOLD)}"


def find_places(config: Path, datalist: str, dataset_dir: str) -> dict[str, Path]:
    """Where the list and the scans are, as the training would find them."""
    parser = ConfigParser(ConfigParser.load_config_file(str(config)))
    given = {"dataset_dir": dataset_dir, "datalist": datalist}
    parser.update({key: literal(value) for key, value in given.items() if value})
    found = {key: Path(os.path.abspath(parser.get_parsed_content(key))) for key in given}
    if not found["datalist"].is_file():
        raise InputError(f"datalist not found: {found['datalist']}. Add --datalist, and --dataset_dir for its scans.")
    return found


def _number(flag: str, word: str, least: int) -> int:
    if not word.isdecimal() or int(word) < least:
        raise InputError(f"--{flag}: expected an integer of at least {least}, got {word!r}.")
    return int(word)


def checksum_of(content: Mapping[str, Any]) -> str:
    """Of a datalist, by what is in it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
