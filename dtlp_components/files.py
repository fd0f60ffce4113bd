# SPDX-License-Identifier: Apache-2.0
"""Small text files: written so that no reader ever meets half of one, where a run keeps its settings, and checksums."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

__all__ = ["model_settings_file", "run_name_file", "settings_of_weights", "sha256", "write_text"]


def model_settings_file(output_dir: str | os.PathLike) -> Path:
    """Where a training run keeps the numbers that evaluation and inference have to share with it."""
    return Path(output_dir, "logs", "model_settings.json")


def settings_of_weights(model_file: str | os.PathLike) -> Path:
    """The :py:func:`model_settings_file` of the run that has weights in its ``models/``."""
    return model_settings_file(Path(os.path.abspath(model_file)).parent.parent)


def run_name_file(output_dir: str | os.PathLike) -> Path:
    """Where a training run keeps its name in MLflow."""
    return Path(output_dir, "logs", "run_name.txt")


def sha256(path: Path) -> str:
    """Checksum of a file of any size, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: str, text: str) -> None:
    """
    Write `text` to `path` atomically (UTF-8), making its folder: `path` holds the old text or the new one, never a part.

    Raises:
        OSError: if the folder cannot be made or written to; `path` is untouched then.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    # in the same folder, since a rename is atomic only within one file system
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide results from colleagues
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
