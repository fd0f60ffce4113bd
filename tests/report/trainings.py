# SPDX-License-Identifier: Apache-2.0
"""Runs with scores and records, for the tests of tables and pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dtlp_components.handlers.run_table import RunTable
from dtlp_components.keys import PseudoLabelSources as Sources
from dtlp_components.run_folder import RunFolder

CLASSES = ("liver", "<b>spleen</b>")  # names are texts, also where they look like something else
METRICS = ("dice", "jaccard", "hd95", "asd", "nsd")


def scored(folder: Path, dice: Sequence[float], method: str = "dtlp", seed: int = 0) -> RunFolder:
    """A run whose cases have these Dice scores, the same for both classes, but 0 for the second where below 10."""
    run = RunFolder(folder)
    run.evaluation.mkdir(parents=True)
    columns = ["case", "domain", *METRICS, *(f"{c}_{m}" for c in CLASSES for m in METRICS), "missed", "absent"]
    lines = [",".join(columns)]
    for i, value in enumerate(dice):
        scores = [value, value, 100 - value, 100 - value, value]
        second = [0.0] * 5 if value < 10 else scores
        lines.append(",".join(map(str, [f"c{i}", "", *scores, *scores, *second, int(value < 10), 0])))
    run.cases_csv("testing").write_text("\n".join(lines) + "\n")
    run.summary_json("testing").write_text(json.dumps({"convention": "native (mm)"}))
    run.logs.mkdir()
    settings = {"seed": seed, "method": method, "features": 8, "label_names": ["background", *CLASSES]}
    record = {
        "settings": settings,
        "environment": {"device": "CPU", "processor": "2 x Test", "threads": 1, "host": "here"},
        "datalist": {"sha256": "abc", "scans": {"labeled": 2}},
        "command": "python -m monai.bundle run training --learning_rate '<script>alert(1)</script>'",
        "cost": {"seconds": 60.0 * (1 + seed), "seconds_per_iteration": 0.5, "peak_memory_gb": 1.5},
        "iteration": 120,
    }
    run.record.write_text(json.dumps(record))
    values = {
        "loss": 0.1,
        "mix": 0.5,
        "ramp_up": 0.4,
        "learning_rate": 0.01,
        "class_weight/1": 1.2,
        "class_weight/2": 0.8,
    }
    rows = [{"iteration": i, "name": name, "value": value} for i in (10, 20, 30) for name, value in values.items()]
    RunTable(run.losses).add(rows)
    RunTable(run.pseudo_labels).add(
        [{"iteration": i, **{f"{kind}/{s}": 0.5 for kind in ("dice", "entropy") for s in Sources}} for i in (10, 20)]
    )
    return run
