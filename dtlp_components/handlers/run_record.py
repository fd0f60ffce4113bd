# SPDX-License-Identifier: Apache-2.0
"""The record of a training: what was trained, how, on what and by what, and what it cost."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from .. import __version__
from ..files import read_object, sha256, write_json
from ..run_folder import RunFolder

__all__ = ["RunRecord", "RunRecordKeeper"]

PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "nibabel", "scikit-image")


class RunRecord:
    """
    ``logs/run.json``, written when a training starts and completed when it ends, by :py:class:`RunRecordKeeper`.

    A resumed training adds an entry to ``resumed`` and keeps the rest. Ignite and MONAI log parameters to a tracker
    alone, which a run may not have, or may lose.

    Args:
        output_dir: holds ``logs/``.
        name: of the training.
        settings: values of the keys of the configuration.
        overrides: those that the command line set.
        datalist: file with the lists of scans, of which the checksum is recorded.
        scans: items by section.
        device: where the training computes.

    Example:
        >>> import os, tempfile
        >>> from ignite.engine import Engine
        >>> folder = tempfile.TemporaryDirectory()
        >>> record = RunRecord(folder.name, "first", {"seed": 0}, {}, "", {"training": []}, torch.device("cpu"))
        >>> engine = Engine(lambda engine, batch: None)
        >>> RunRecordKeeper(record).attach(engine)
        >>> _ = engine.run([0], max_epochs=1)
        >>> os.listdir(os.path.join(folder.name, "logs"))
        ['run.json']
    """

    def __init__(
        self,
        output_dir: str,
        name: str,
        settings: Mapping[str, Any],
        overrides: Mapping[str, Any],
        datalist: str,
        scans: Mapping[str, Sequence[Any]],
        device: torch.device,
    ) -> None:
        self.file = RunFolder(output_dir).record
        self.device = torch.device(device)
        self.started, self.started_at, self.seconds_before = 0.0, 0, 0.0
        self.content: dict[str, Any] = {
            "name": name,
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "overrides": dict(overrides),
            "settings": dict(settings),
            "datalist": {
                "file": os.path.abspath(datalist) if datalist else None,
                "sha256": sha256(Path(datalist)) if datalist and os.path.isfile(datalist) else None,
                "scans": {section: len(items) for section, items in scans.items()},
                "scans_sha256": _digest(scans),
            },
            "environment": {
                "dtlp_components": __version__,
                "git": _git_state(),
                "python": platform.python_version(),
                **{package: _version(package) for package in PACKAGES},
                "host": platform.node(),
                "system": platform.platform(),
                "processor": _processor(),
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU",
            },
        }

    @property
    def parameters(self) -> dict[str, str]:
        """The same as short texts by name, as MLflow's parameters."""
        flat = {**self.content["settings"], **self.content["environment"]}
        flat |= {f"scans::{section}": count for section, count in self.content["datalist"]["scans"].items()}
        flat["datalist_sha256"] = self.content["datalist"]["sha256"]
        # what MLflow takes: names of letters, digits and a few signs, values of up to 500 characters
        return {name.replace("::", "."): str(value)[:500] for name, value in flat.items()}

    def start(self, engine: Engine) -> None:
        """Write the record, or add to the one of the run that goes on."""
        self.started, self.started_at = time.monotonic(), engine.state.iteration
        now = _now()
        if engine.state.iteration == 0 or not self.file.is_file():
            self.content |= {"started": now, "finished": None, "cost": {"seconds": 0.0}, "resumed": []}
        else:
            earlier = read_object(self.file, "the record of a training")
            again = {"at": now, "iteration": engine.state.iteration, "overrides": self.content["overrides"]}
            if earlier.get("settings") != _as_read(self.content["settings"]):
                again["settings"] = self.content["settings"]
            if earlier.get("environment") != _as_read(self.content["environment"]):
                again["environment"] = self.content["environment"]
            self.content = {**earlier, "resumed": [*earlier.get("resumed", []), again]}
        self.seconds_before = float(self.content.get("cost", {}).get("seconds", 0.0))
        write_json(self.file, self.content)

    def update(self, engine: Engine) -> None:
        """Say how far it is and what it took."""
        seconds = time.monotonic() - self.started
        self.content["iteration"] = engine.state.iteration
        self.content["cost"] = {
            "seconds": round(self.seconds_before + seconds, 1),
            "seconds_per_iteration": round(seconds / max(1, engine.state.iteration - self.started_at), 4),
            "peak_memory_gb": round(_peak_memory() / 1e9, 3),
            **(
                {"peak_gpu_memory_gb": round(torch.cuda.max_memory_allocated(self.device) / 1e9, 3)}
                if self.device.type == "cuda"
                else {}
            ),
        }
        write_json(self.file, self.content)

    def finish(self, engine: Engine) -> None:
        """Say when it ended."""
        self.content["finished"] = _now()
        write_json(self.file, self.content)


class RunRecordKeeper:
    """
    Write a :py:class:`RunRecord` when a training starts, goes on and ends. Attach after whoever resumes the training.

    It is apart from the record, which others name in the configuration, since a list of handlers has to be written out
    for MONAI Label.

    Args:
        record: of the training.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.record.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.record.update)
        engine.add_event_handler(Events.COMPLETED, self.record.finish)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _digest(scans: Mapping[str, Sequence[Any]]) -> str:
    """Of the names of the scans, so that two runs can be told to have had the same, wherever they lay."""
    text = "\n".join(
        f"{section}\t{Path(item['image']).name}" for section, items in sorted(scans.items()) for item in items
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _as_read(value: Any) -> Any:
    """As it comes back from JSON, where a tuple is a list."""
    if isinstance(value, Mapping):
        return {str(key): _as_read(item) for key, item in value.items()}
    return [_as_read(item) for item in value] if isinstance(value, (list, tuple)) else value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> str | None:
    """Commit of the package's own repository, with a mark if files differ; ``None`` outside of one."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():  # a repository around an installed package is somebody else's
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}, changed" if changes else commit


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _peak_memory() -> int:
    """Largest resident set of this process, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
