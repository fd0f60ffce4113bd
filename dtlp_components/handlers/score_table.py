# SPDX-License-Identifier: Apache-2.0
"""Scores of every test scan as a table: per case, per class and per domain, printed and written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import CommonKeys, ImageMetaKey

from ..errors import InputError
from ..files import json_text, read_object, write_text
from ..keys import DatalistKeys
from ..metrics.conventions import CONVENTIONS, METRICS, NATIVE, TOLERANCE
from ..metrics.segmentation_scores import CaseScores, segmentation_scores
from ..processes import gather, is_first
from ..run_folder import RunFolder
from ..tables import align, csv_text, number_of

__all__ = ["ScoreTable", "case_names", "origin_of"]


@dataclass(frozen=True)
class _Case:
    path: str
    domain: str
    scores: CaseScores

    def values(self, metric: str) -> np.ndarray:
        """One value per foreground class, NaN for a class without a score."""
        return getattr(self.scores, metric)


class ScoreTable:
    """
    Score every case of a MONAI evaluator on the grid it comes on and report the result.

    After postprocessing, ``engine.state.output`` must be a list of dicts with ``pred`` and ``label``, label maps
    ``(1, D, H, W)`` on one grid (for ``native`` that of the scan), and ``image``. The label's affine gives the voxel
    spacing, the image's ``filename_or_obj`` the case's name, ``domain`` in ``engine.state.batch`` (if any) its domain.
    How a case is scored: :py:mod:`dtlp_components.metrics.conventions`. MONAI's ``MetricsSaver`` writes a file
    per metric; it has no domains, and a class that was missed, NaN in MONAI's metrics, drops out of its means.

    At the end of the epoch ``engine.state.metrics`` gets ``dice`` and ``jaccard`` (percent), ``hd95`` and ``asd`` (mm
    or voxels, by the convention) and ``nsd`` (percent): the mean over classes of each class's mean over cases. At the
    end of the run a table is printed, and in ``{output_dir}/evaluation`` three files are written or replaced, named by
    section and convention:
    ``…_cases.csv`` with one row per case, ``…_summary.json`` and ``…_summary.csv`` with means, standard deviations and
    counts per class and domain, and the convention. ``n`` counts the cases in a mean. A cell without a value is empty
    in CSV and null in JSON.

    Args:
        output_dir: folder that gets the folder ``evaluation``.
        label_names: name of each class, the background first; or a dict ``{"0": "background", "1": name, ...}``.
        section: section of the datalist that is scored; names the files.
        convention: how cases are scored: ``native`` (mm), ``genericssl`` or ``uamt`` (voxels, as published).
        tolerance: of the surface Dice, mm.
        model_file: whose scores they are; the summary says so, with its iteration and the training's name.

    Raises:
        ValueError: if `label_names` does not name the classes 0, 1, ... once each.
        InputError: if there is no such convention; at the end of a run that scored no case.

    Example:
        >>> import os, tempfile
        >>> from ignite.engine import Engine
        >>> from monai.data import MetaTensor
        >>> folder = tempfile.TemporaryDirectory()
        >>> label = MetaTensor(torch.zeros(1, 8, 9, 10))
        >>> label[:, 2:6, 2:6, 2:6] = 1
        >>> image = MetaTensor(torch.rand(1, 8, 9, 10), meta={"filename_or_obj": "scan.nii.gz"})
        >>> engine = Engine(lambda engine, batch: [{"pred": label, "label": label, "image": image}])
        >>> ScoreTable(folder.name, ["background", "liver"], "testing").attach(engine)
        >>> state = engine.run([[{}]], max_epochs=1)  # doctest: +ELLIPSIS
        Scores of section `testing`, 1 case,...
        >>> state.metrics["dice"]
        100.0
    """

    def __init__(
        self,
        output_dir: str,
        label_names: Sequence[str] | Mapping[str, str],
        section: str,
        convention: str = "native",
        tolerance: float = TOLERANCE,
        model_file: str | None = None,
    ) -> None:
        if isinstance(label_names, Mapping):
            by_index = {int(k): str(v) for k, v in label_names.items()}
            if sorted(by_index) != list(range(len(by_index))):
                raise ValueError(f"label_names must name the classes from 0 on without a gap, got {dict(label_names)}.")
            names = [by_index[i] for i in range(len(by_index))]
        else:
            names = [str(name) for name in label_names]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"label_names must be different names, the background and at least one more, got {names}.")
        if convention not in CONVENTIONS:
            raise InputError(f"convention: expected one of {', '.join(CONVENTIONS)}, got `{convention}`.")
        self.convention = CONVENTIONS[convention]
        self.tolerance, self.model_file = tolerance, model_file
        self.run = RunFolder(output_dir)
        self.classes = names[1:]
        self.section = section
        self.cases: list[_Case] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator, whose every run starts a new table."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._set_metrics)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _start(self, engine: Engine) -> None:
        self.cases = []

    def _score(self, engine: Engine) -> None:
        outputs: Any = engine.state.output
        batch: Any = engine.state.batch
        for item, given in zip(outputs, batch, strict=True):
            pred, label = item[CommonKeys.PRED], item[CommonKeys.LABEL]
            if not isinstance(label, MetaTensor):
                raise TypeError(f"the label needs its affine, expected a MetaTensor, got {type(label).__name__}.")
            path = str(item[CommonKeys.IMAGE].meta[ImageMetaKey.FILENAME_OR_OBJ])
            spacing = label.pixdim.tolist()
            scores = segmentation_scores(
                pred[0], label[0], len(self.classes) + 1, spacing, self.convention, self.tolerance
            )
            self.cases.append(_Case(path, given.get(DatalistKeys.DOMAIN, ""), scores))

    def _set_metrics(self, engine: Engine) -> None:
        # every process scored its own share; of few cases, all of them
        by_path = {case.path: case for cases in gather(self.cases) for case in cases}
        self.cases = [by_path[path] for path in sorted(by_path)]
        if not self.cases:
            raise InputError(f"section `{self.section}`: no case was scored.")
        engine.state.metrics.update(self._summarize(self.cases)["mean"])

    def _report(self, engine: Engine) -> None:
        if not is_first():
            return
        domains = sorted({case.domain for case in self.cases} - {""})
        summary = {
            "section": self.section,
            "convention": self._rule(),
            **({} if self.model_file is None else origin_of(self.model_file)),
            "units": self.convention.units,
            **self._summarize(self.cases),
            "domains": {d: self._summarize([case for case in self.cases if case.domain == d]) for d in domains},
        }
        files = {
            self.run.cases_csv(self.section, self.convention.name): _to_csv(self._case_rows()),
            self.run.summary_json(self.section, self.convention.name): json_text(_without_nan(summary), indent=4),
            self.run.summary_csv(self.section, self.convention.name): _to_csv(self._summary_rows(summary)),
        }
        for file, text in files.items():
            write_text(file, text)
        print(self._table(summary), flush=True)
        for name, counts in summary["classes"].items():
            if counts["missed"] and counts["missed"] == summary["cases"] - counts["absent"]:
                print(
                    f"Warning: `{name}` was not predicted in any of the {counts['missed']} cases that have it. Train "
                    "longer, or with another --seed or more --features; a small network can lose a class early in "
                    "training.",
                    flush=True,
                )
        names = ", ".join(file.name for file in files)
        print(f"Written to {os.path.abspath(self.run.evaluation)}: {names}", flush=True)

    def _rule(self) -> str:
        """The convention in words, with what was chosen beside it."""
        return f"{self.convention} NSD at {self.tolerance:g} mm." if self.convention is NATIVE else str(self.convention)

    def _summarize(self, cases: Sequence[_Case]) -> dict[str, Any]:
        """Means, standard deviations and counts; NaN where there is nothing to average."""
        absent, missed = (np.array([getattr(c.scores, k) for c in cases]).sum(axis=0) for k in ("absent", "missed"))
        classes: dict[str, dict[str, Any]] = {name: {} for name in self.classes}
        mean, std = {}, {}
        for metric in METRICS:
            values = np.array([case.values(metric) for case in cases])  # (cases, classes)
            for name, column in zip(self.classes, values.T, strict=True):
                classes[name][metric] = {"mean": _mean(column), "std": _std(column)}
            mean[metric] = _mean([classes[name][metric]["mean"] for name in self.classes])
            std[metric] = _std([_mean(row) for row in values])
        # an absent class has a score in some conventions, and then counts in the mean
        scored = np.sum([~np.isnan(case.values("dice")) for case in cases], axis=0)
        for i, name in enumerate(self.classes):
            counts = {"n": int(scored[i]), "missed": int(missed[i]), "absent": int(absent[i])}
            classes[name].update(counts)
        counts = {"cases": len(cases), "missed": int(missed.sum()), "absent": int(absent.sum())}
        return {**counts, "mean": mean, "std": std, "classes": classes}

    def _case_rows(self) -> list[dict[str, Any]]:
        names = case_names([case.path for case in self.cases])
        rows = []
        for name, case in zip(names, self.cases, strict=True):
            row: dict[str, Any] = {"case": name, "domain": case.domain}
            row.update({metric: _mean(case.values(metric)) for metric in METRICS})
            for i, label in enumerate(self.classes):
                row.update({f"{label}_{metric}": case.values(metric)[i] for metric in METRICS})
            row.update({"missed": int(case.scores.missed.sum()), "absent": int(case.scores.absent.sum())})
            rows.append(row)
        return rows

    def _summary_rows(self, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for domain, part in [("all", summary), *summary["domains"].items()]:
            for name in self.classes:
                row: dict[str, Any] = {"domain": domain, "class": name}
                for metric in METRICS:
                    scores = part["classes"][name][metric]
                    row.update({f"{metric}_mean": scores["mean"], f"{metric}_std": scores["std"]})
                rows.append({**row, **{count: part["classes"][name][count] for count in ("n", "missed", "absent")}})
            row = {"domain": domain, "class": "mean"}
            for metric in METRICS:
                row.update({f"{metric}_mean": part["mean"][metric], f"{metric}_std": part["std"][metric]})
            rows.append({**row, "n": part["cases"], "missed": part["missed"], "absent": part["absent"]})
        return [{**row, "convention": self._rule()} for row in rows]

    def _table(self, summary: Mapping[str, Any]) -> str:
        header = [*(f"{metric} [{unit}]" for metric, unit in self.convention.units.items()), "n", "missed", "absent"]
        rows = self._summary_rows(summary)
        by_class = [["class", *header]] + [[r["class"], *_cells(r)] for r in rows if r["domain"] == "all"]
        lines = [
            f"Scores of section `{self.section}`, {number_of(summary['cases'], 'case')}, mean ± std",
            align(by_class, right=True),
        ]
        if summary["domains"]:
            means = [r for r in rows if r["domain"] != "all" and r["class"] == "mean"]
            by_domain = [["domain", *header], *([r["domain"], *_cells(r)] for r in means)]
            lines += ["", align(by_domain, right=True)]
        return "\n".join([*lines, self._rule()])


def origin_of(model_file: str) -> dict[str, Any]:
    """Which weights were scored: the file, and of which iteration and training it is, where the run says so."""
    run = RunFolder.of_weights(model_file)
    iteration = read_object(run.exported).get("iteration") if run.exported.is_file() else None
    name = run.run_name.read_text(encoding="utf-8") if run.run_name.is_file() else None
    return {"model_file": os.path.abspath(model_file), "iteration": iteration, "run": name}


def case_names(paths: Sequence[str]) -> list[str]:
    """File names without their endings; with folders where two are equal, as in ``<case>/image.nii.gz``."""
    stems = [path.removesuffix(".gz").removesuffix(".nii") for path in paths]
    names = [os.path.basename(stem) for stem in stems]
    if len(set(names)) < len(names):
        common = os.path.commonpath([os.path.dirname(stem) for stem in stems])
        names = [os.path.relpath(stem, common) for stem in stems]
    return names


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN, without NumPy's warning, if there are none."""
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


def _std(values: Iterable[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(np.std(known)) if known else float("nan")


def _without_nan(value: Any) -> Any:
    """None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def _to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    def cell(value: Any) -> Any:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.4f}"
        return value

    return csv_text([{name: cell(value) for name, value in row.items()} for row in rows])


def _cells(row: Mapping[str, Any]) -> list[str]:
    scores = [(row[f"{metric}_mean"], row[f"{metric}_std"]) for metric in METRICS]
    return [
        *("-" if np.isnan(mean) else f"{mean:.2f} ± {std:.2f}" for mean, std in scores),
        *(str(row[count]) for count in ("n", "missed", "absent")),
    ]
