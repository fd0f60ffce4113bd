# SPDX-License-Identifier: Apache-2.0
"""Runs what an experiment plans: what is done is not done again, what was stopped goes on, what fails is named."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ..checks.literals import literal_words
from ..errors import InputError
from ..files import claim, read_object, release, write_json
from ..tables import number_of, time_text
from .plan import PlannedRun

__all__ = ["Runner", "is_done", "refuse_other_settings", "settings_problem"]


def settings_problem(planned: PlannedRun) -> str | None:
    """One sentence if a run's folder has a training of other settings; ``None`` if it has not, or has none."""
    state = _state(planned)
    if not state:
        return None
    before, now = dict(_pairs(state["training"])), dict(_pairs(planned.training))
    changed = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    files = sorted({*state["files"], *planned.files})
    changed += [f"{name} was changed" for name in files if state["files"].get(name) != planned.files.get(name)]
    if not changed:
        return None
    return (
        f"{planned.run.root}: expected the settings of the experiment, got a run with other settings "
        f"({'; '.join(changed)}). Use another --output, or remove that folder."
    )


def refuse_other_settings(planned: Sequence[PlannedRun]) -> None:
    """
    Raises:
        InputError: if a run's folder has a training of other settings, with one sentence for each such run.
    """
    if problems := [problem for run in planned if (problem := settings_problem(run))]:
        raise InputError("\n".join(problems))


def is_done(planned: PlannedRun) -> bool:
    """Whether a run is trained and scored."""
    state = _state(planned)
    return bool(state and state["trained"] and set(planned.evaluations) <= set(state["scored"]))


@dataclass
class Runner:
    """
    Run trainings and their evaluations, each in a process of its own.

    Args:
        jobs: how many at a time; each has a GPU of its own where there are any, else its share of the cores.
        gpus: numbers of the GPUs, empty on a CPU.
        failed: sentences on runs that failed, filled while running.
    """

    jobs: int = 1
    gpus: Sequence[int] = ()
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._devices: queue.Queue[int | None] = queue.Queue()
        for job in range(self.jobs):
            self._devices.put(self.gpus[job % len(self.gpus)] if self.gpus else None)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped_by: int | None = None

    def run(self, planned: Sequence[PlannedRun]) -> None:
        """
        Run what is not done yet.

        Raises:
            SystemExit: if a signal came: the trainings under way have written checkpoints then.
        """
        todo = [run for run in planned if not is_done(run)]
        print(f"{number_of(len(planned), 'run')}, {len(planned) - len(todo)} of them already done.", flush=True)
        started, done = time.monotonic(), 0
        with self._listening(), ThreadPoolExecutor(self.jobs) as pool:
            futures = {pool.submit(self._run_one, run): run for run in todo}
            for future in as_completed(futures):
                if self._stopped_by is not None:
                    continue
                done += 1
                left = (time.monotonic() - started) / done * (len(todo) - done)
                print(
                    f"[{done}/{len(todo)}] {futures[future].label}: {future.result()}; {time_text(left)} left",
                    flush=True,
                )
        if self._stopped_by is not None:
            print("Interrupted; run the same command again to resume.", file=sys.stderr)
            raise SystemExit(128 + self._stopped_by)

    def run_alone(self, folder: Path, planned: Sequence[PlannedRun]) -> None:
        """
        As :py:meth:`run`, with the folder of all runs locked meanwhile.

        Raises:
            InputError: if another process runs there.
        """
        lock = folder / "lock"
        if holder := claim(lock):
            raise InputError(
                f"{folder}: another experiment is running there ({holder}). Wait until it ends, or use --output."
            )
        try:
            self.run(planned)
        finally:
            release(lock)

    def raise_if_failed(self) -> None:
        """
        Raises:
            InputError: if a run failed, with what each of them said.
        """
        if self.failed:
            raise InputError(f"{number_of(len(self.failed), 'run')} failed:\n" + "\n".join(self.failed))

    def _run_one(self, planned: PlannedRun) -> str:
        """Train and score; says how it went."""
        if self._stopped_by is not None:
            return "stopped"
        device, started = self._devices.get(), time.monotonic()
        try:
            state = _state(planned) or {
                "training": planned.training,
                "files": planned.files,
                "trained": False,
                "scored": [],
            }
            write_json(planned.run.experiment, state)
            steps = [] if state["trained"] else [("", [*planned.training, "--resume", "True"])]
            steps += [(s, words) for s, words in planned.evaluations.items() if s not in state["scored"]]
            for section, words in steps:
                if self._stopped_by is not None:
                    return "stopped"
                if code := self._process(planned, words, device):
                    said = _last_line(planned)
                    self.failed.append(f"{planned.label}: {said} (full log: {planned.run.experiment_log})")
                    return f"FAILED with exit code {code}"
                if section:
                    state["scored"].append(section)
                else:
                    state["trained"] = True
                write_json(planned.run.experiment, state)
            return f"done in {time_text(time.monotonic() - started)}"
        finally:
            self._devices.put(device)

    def _process(self, planned: PlannedRun, words: Sequence[str], device: int | None) -> int:
        environment = dict(os.environ)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        elif self.jobs > 1:  # torch would give every process all cores, which is many times slower
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.jobs)))
        planned.run.logs.mkdir(parents=True, exist_ok=True)
        with open(planned.run.experiment_log, "ab") as log:
            with self._lock:
                if self._stopped_by is not None:
                    return 0
                process = subprocess.Popen(
                    [sys.executable, "-m", "monai.bundle", *literal_words(words)],
                    stdout=log, stderr=subprocess.STDOUT, env=environment,
                    start_new_session=True,  # a Ctrl-C is for this process, which hands it on
                )  # fmt: skip
                self._processes.add(process)
            code = process.wait()
            self._processes.discard(process)
        return code

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Hand the first signal on to the trainings, which write a checkpoint before they end."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        earlier = {number: signal.signal(number, self._stop) for number in numbers} if _is_main_thread() else {}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopped_by = number
        for process in list(self._processes):
            process.send_signal(signal.SIGTERM)


def _state(planned: PlannedRun) -> dict[str, Any]:
    """What an earlier start has done of a run; empty if there was none."""
    file = planned.run.experiment
    if not file.is_file():
        return {}
    state = read_object(file, "the state of a run")
    expected = {"training": list, "files": dict, "trained": bool, "scored": list}
    if any(not isinstance(state.get(key), kind) for key, kind in expected.items()):
        raise InputError(f"{file}: expected the state of a run, got something else; remove the folder to train again.")
    return state


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags and values, without those that say where things are; of configurations there are checksums."""
    for i, word in enumerate(words[:-1]):
        if word.startswith("--") and word not in ("--output_dir", "--dataset_dir", "--config_file"):
            yield word, words[i + 1]


def _last_line(planned: PlannedRun) -> str:
    """What an error says: errors are told in one line."""
    lines = planned.run.experiment_log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()[:400] if lines else "nothing was printed"


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
