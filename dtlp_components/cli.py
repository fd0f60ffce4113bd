# SPDX-License-Identifier: Apache-2.0
"""The command line: ``dtlp <command>``, which is also ``python -m dtlp_components <command>``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from . import __version__
from .command_line.call import call_command
from .errors import drop_unread_output

__all__ = ["COMMANDS", "main"]

# A command is a function, imported when it is called; its parameters are the flags, its docstring is the help. A group
# of commands is a further table.
COMMANDS: dict[str, Any] = {
    "list": "bundle.catalog:list_bundles",
    "keys": "bundle.key_listing:print_keys",
    "train": "bundle.start:train_bundle",
    "evaluate": "bundle.start:evaluate_bundle",
    "calibrate": "report.calibrate:calibrate_model",
    "segment": "deploy.segment:segment_scans",
    "next": "labeling.command:next_scans",
    "pseudo": "labeling.pseudo:write_pseudo_labels",
    "new": "own_data.command:new_bundle",
    "prepare": {
        "amos": "datasets.amos:prepare_amos",
        "hippocampus": "datasets.hippocampus:prepare_hippocampus",
        "la": "datasets.la:prepare_la",
        "mmwhs": "datasets.mmwhs:prepare_mmwhs",
        "mnms": "datasets.mnms:prepare_mnms",
        "synapse": "datasets.synapse:prepare_synapse",
    },
    "phantom": "datasets.phantom:write_phantom",
    "picture": "report.picture:write_picture",
    "experiment": "experiments.command:run_experiment",
    "compare": "report.compare:compare_runs",
    "folds": "experiments.folds:train_folds",
    "report": "report.command:write_report",
    "export": "deploy.export:export_bundle",
    "pack": "deploy.pack:pack_bundle",
    "label-app": "deploy.label_app:write_label_app",
    "bench": "bench.command:run_bench",
    "render": "bundle.start:render_bundles",
    "demo": "demo:run_demo",
}
NAME = "dtlp"


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run one command.

    Args:
        arguments: words of the command line, those of the process if ``None``.

    Raises:
        SystemExit: see :py:func:`dtlp_components.command_line.call.call_command`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"{NAME} {__version__}")
        drop_unread_output()
    else:
        call_command(NAME, words, COMMANDS)
