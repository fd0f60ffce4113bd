# SPDX-License-Identifier: Apache-2.0
"""Small text files: written so that no reader ever meets half of one, where a run keeps its settings, and checksums."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = ["place_file", "read_json", "read_object", "replacing", "sha256", "write_json", "write_text"]


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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    A file to write beside ``path``, which takes that name only when the block ends well.

    Whoever finds ``path`` finds it complete, no matter when an earlier run was killed.
    """
    # always the same name: what a killed run leaves, the next one overwrites
    part = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}).") from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all; :py:class:`InputError` if that is impossible."""
    try:
        write_text(str(path), json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}).") from error


def read_json(path: Path, expected: str) -> Any:
    """
    Parse a JSON file.

    Args:
        path: the file.
        expected: what the file should have been, for the error message.

    Raises:
        InputError: if there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); expected {expected}.") from error


def place_file(source: Path, target: Path) -> None:
    """
    Make ``target`` the same file as ``source``: a hard link on one file system, a copy across two.

    Raises:
        InputError: if ``target`` exists with another content, which is left alone.
    """
    if target.exists():
        if not source.samefile(target) and not filecmp.cmp(source, target, shallow=False):
            raise InputError(
                f"{target}: exists and differs from {source}; move it away or choose another output folder."
            )
        return
    with replacing(target) as part:
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:  # another file system, or one without hard links, or a file of somebody else's
            shutil.copyfile(source, part)


def read_object(path: Path) -> dict[str, Any]:
    """
    Content of a JSON file that holds an object.

    Raises:
        InputError: if it holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}.")
    return content
