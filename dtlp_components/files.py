# SPDX-License-Identifier: Apache-2.0
"""Files that no reader ever meets half of, JSON whose faults are named, and checksums."""

from __future__ import annotations

import fcntl
import filecmp
import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = [
    "claim",
    "claimed_by",
    "free_name",
    "is_leftover",
    "json_text",
    "locked",
    "part_name",
    "part_of",
    "place_file",
    "read_json",
    "read_object",
    "release",
    "replacing",
    "sha256",
    "whole_file",
    "write_json",
    "write_text",
]


MOST_JSON = 200_000_000  # bytes; a list of 100 000 scans has a tenth of it
PART = ".part-"  # how names begin of what is not whole yet


def part_of(path: Path) -> Path:
    """Where a file that one program writes at a time is until it is whole; what a killed run leaves, the next takes."""
    return path.with_name(f"{PART}{path.name}")


def part_name(name: str) -> str:
    """A name of its own, hidden and of the same ending, for what is to become `name`."""
    return f"{PART}{secrets.token_hex(4)}-{name}"


def is_leftover(path: Path) -> bool:
    """Whether a file is what a killed program leaves of one that it was writing."""
    return path.name.startswith(PART)


def free_name(path: Path) -> Path:
    """The path, or, if it is taken, the first of it with ``-2``, ``-3``, … before the ending that is not."""
    if not path.exists():
        return path
    return next(other for i in count(2) if not (other := path.with_stem(f"{path.stem}-{i}")).exists())


def sha256(path: Path) -> str:
    """Checksum of a file of any size, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def whole_file(path: str | os.PathLike[str], part: Path | None = None, *, durable: bool = False) -> Iterator[Path]:
    """
    A file to write beside `path`, which takes that name only when the block ends well; their folder is made.

    Whoever finds `path` finds it complete, no matter when the program was killed.

    Args:
        path: the file.
        part: name until it is whole, in the same folder, since a rename is atomic only within one file system. A name
            of its own if not given, hidden and of the same ending, so that several processes may write one file.
        durable: wait until the disk has it, so that a power cut leaves no empty file under `path`.

    Raises:
        OSError: if the folder cannot be made or written to; `path` is untouched then.
    """
    target = Path(path)
    part = part or target.with_name(part_name(target.name))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        if durable:
            _sync(part)
        os.replace(part, target)
        if durable:
            _sync(target.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    :py:func:`whole_file` for the large files of a data set, which one command writes.

    Raises:
        InputError: if that is impossible.
    """
    try:
        # always the same name: what a killed run leaves, the next one overwrites
        with whole_file(path, part_of(path)) as part:
            yield part
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}).") from error


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """
    Wait until no other process is in such a block for the same folder.

    The folder itself is locked: packages for this (filelock) leave a file in it.

    Raises:
        OSError: if there is no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


_CLAIMED: dict[str, Any] = {}  # open files by path


def claim(file: Path) -> str:
    """
    Lock a file for this process until :py:func:`release`, or the process ends in whatever way.

    Args:
        file: its path; made, with its folder, and filled with who holds it.

    Returns:
        Who holds it: process, machine and time, if that is another process; else an empty text.
    """
    path = str(file.absolute())
    if path in _CLAIMED:
        return ""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closing it would give the lock away
    if holder := _lock(stream):
        stream.close()
        return holder
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    stream.flush()
    _CLAIMED[path] = stream
    return ""


def claimed_by(file: Path) -> str:
    """Who has claimed a file, if that is another process; else an empty text. Nothing is made or kept locked."""
    if str(file.absolute()) in _CLAIMED or not file.exists():
        return ""
    with open(file, "r+", encoding="utf-8") as stream:  # NFS locks what may be written alone
        return _lock(stream)


def _lock(stream: Any) -> str:
    """Lock an open file, or say who has."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        return stream.read(200).strip() or "another process"
    except OSError:  # a file system without locks
        pass
    return ""


def release(file: Path) -> None:
    """Give up what :py:func:`claim` has locked, if it has."""
    stream = _CLAIMED.pop(str(file.absolute()), None)
    if stream is not None:
        stream.close()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """
    Write `text` in UTF-8, whole or not at all.

    Raises:
        OSError: see :py:func:`whole_file`.
    """
    with whole_file(path) as part:
        part.write_bytes(text.encode("utf-8"))


def json_text(content: Any, indent: int = 2) -> str:
    """`content` as JSON to be read by people: indented, letters of any language as they are."""
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    # of a file's name that is not UTF-8, what cannot be encoded becomes JSON's \udcfc
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all; :py:class:`InputError` if that is impossible."""
    try:
        write_text(path, json_text(content))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}).") from error


def read_json(path: str | os.PathLike[str], expected: str) -> Any:
    """
    Parse a JSON file in UTF-8, with or without the mark that Windows puts in front.

    Args:
        path: the file.
        expected: what the file should have been, for the error message.

    Raises:
        InputError: if there is no such file, or it is not JSON.
    """
    try:
        state = os.stat(path)
        if stat.S_ISFIFO(state.st_mode):  # which nobody may ever write to
            raise InputError(f"{path}: expected {expected} in a file, got a pipe.")
        if state.st_size > MOST_JSON:
            size, most = (f"{number / 1e6:.0f} MB" for number in (state.st_size, MOST_JSON))
            raise InputError(f"{path}: expected {expected} of at most {most}, got {size}.")
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
    except json.JSONDecodeError as error:
        found = f"is not JSON ({error.msg} at line {error.lineno}, column {error.colno})"
    except RecursionError:
        found = "is not JSON (nested too deeply)"
    except UnicodeDecodeError as error:
        found = f"is not JSON (byte {error.start} is not valid UTF-8)"
    except ValueError as error:  # a NUL in its path, a number of thousands of digits
        found = f"cannot be read ({error})"
    raise InputError(f"{path}: {found}; expected {expected}.")


def read_object(path: str | os.PathLike[str], expected: str = "a JSON object") -> dict[str, Any]:
    """
    Content of a JSON file that holds an object.

    Raises:
        InputError: if it holds anything else; see :py:func:`read_json`.
    """
    content = read_json(path, expected)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected {expected}, got {type(content).__name__}.")
    return content


def place_file(source: Path, target: Path) -> None:
    """
    Make ``target`` the same file as ``source``: a hard link on one file system, a copy across two.

    Raises:
        InputError: if ``target`` exists with another content, which is left alone.
    """
    if target.exists():
        if not source.samefile(target) and not filecmp.cmp(source, target, shallow=False):
            raise InputError(
                f"{target}: already exists and differs from {source}; move it or choose another output folder."
            )
        return
    with replacing(target) as part:
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:  # another file system, or one without hard links, or a file of somebody else's
            shutil.copyfile(source, part)
