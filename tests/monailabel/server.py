# SPDX-License-Identifier: Apache-2.0
"""A MONAI Label server in a process of its own, and what its client says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

monailabel_client = pytest.importorskip(
    "monailabel.client", reason="MONAI Label has an environment of its own: make test-monailabel"
)

ROOT = Path(__file__).parents[2]
START_SECONDS, TRAIN_SECONDS = 180, 600


@dataclass
class Server:
    """A running server: its client, its folders and its log."""

    client: Any
    app: Path
    studies: Path
    log_file: Path

    def is_up(self) -> bool:
        try:
            self.client.info()
        except (OSError, monailabel_client.client.MONAILabelClientException):
            return False
        return True

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def slicer_parameters(self, model: str) -> dict[str, Any]:
        """What 3D Slicer sends if nobody changes its options: of a list the first entry."""
        options = self.client.info()["trainers"][model]["config"]
        return {name: value[0] if isinstance(value, list) else value for name, value in options.items()}

    def train(self, model: str, **changes: Any) -> tuple[str, str]:
        """Train to the end; returns the state, and what was added to the log meanwhile."""
        start = len(self.log)
        self.client.train_start(model, {**self.slicer_parameters(model), **changes})
        end = time.monotonic() + TRAIN_SECONDS
        while (status := self.client.train_status()["status"]) in ("SUBMITTED", "RUNNING"):
            assert time.monotonic() < end, self.log[start:]
            time.sleep(0.5)
        return status, self.log[start:]


@contextmanager
def running(app: Path, studies: str | Path, folder: Path, *words: str, **variables: str) -> Iterator[Server]:
    """
    A server on a free port of this machine alone, until the block ends.

    Args:
        app: its folder.
        studies: its studies, a folder or an address.
        folder: for its log, its working folder, and what the client receives.
        words: more of its command line.
        variables: of its environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    log_file, received = folder / "server.log", folder / "received"
    received.mkdir()
    command = [
        sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies), *words,
        "--host", "127.0.0.1", "--port", port,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    with open(log_file, "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment)
    try:
        # not in the server's own folder for temporary files: it removes its copy, of the same name, a moment later
        client = monailabel_client.MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(received))
        server = Server(client, app, Path(studies), log_file)
        end = time.monotonic() + START_SECONDS
        while not server.is_up():
            assert process.poll() is None, server.log
            assert time.monotonic() < end, server.log
            time.sleep(0.5)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)
