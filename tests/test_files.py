# SPDX-License-Identifier: Apache-2.0
"""Files are whole or not there, and a fault in JSON is named in one sentence."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dtlp_components.errors import InputError
from dtlp_components.files import (
    claim,
    claimed_by,
    free_name,
    json_text,
    place_file,
    read_json,
    read_object,
    release,
    replacing,
    sha256,
    whole_file,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("way", [whole_file, replacing])
def test_file_has_its_name_only_when_it_is_whole(way, tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.nii.gz"
    with way(target) as part:
        part.write_bytes(b"voxels")
        assert not target.exists()
        assert part.name.startswith(".")
        assert part.name.endswith(".nii.gz")
    assert target.read_bytes() == b"voxels"
    assert names(target.parent) == ["a.nii.gz"]


@pytest.mark.parametrize("way", [whole_file, replacing])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_earlier_file_alone(way, error, tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")

    def write_half() -> None:
        with way(target) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


def test_two_may_write_one_file_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with whole_file(target) as first:
        first.write_text("first")
        with whole_file(target) as second:
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"


def test_what_a_killed_command_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".part-a.txt").write_text("half of an earlier one")
    with replacing(tmp_path / "a.txt") as part:
        part.write_text("whole")
    assert names(tmp_path) == ["a.txt"]


def test_colleagues_may_read_what_is_written(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "grüße\r\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert (tmp_path / "a.txt").read_bytes() == "grüße\r\n".encode()  # line ends as they are


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "a.txt", "")
    with pytest.raises(InputError, match=r"file/a\.json: cannot be written \("):
        write_json(tmp_path / "file" / "a.json", {})


def test_json_is_readable_and_survives_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xfcller.nii")
    assert json_text({"größe": [1]}) == '{\n  "größe": [\n    1\n  ]\n}\n'
    write_json(tmp_path / "a.json", {"image": name})
    assert read_json(tmp_path / "a.json", "a datalist") == {"image": name}


def test_mark_that_windows_puts_in_front_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_object(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a\.json: cannot be read \(No such file or directory\); expected a datalist\.$"),
        (b'\n{"training": }', r"a\.json: is not JSON \(Expecting value at line 2, column 14\); expected a datalist\.$"),
        (b'{"training\xff": []}', r"a\.json: is not JSON \(byte 10 is not valid UTF-8\); expected a datalist\.$"),
        (b"[1]", r"a\.json: expected a datalist, got list\.$"),
    ],
)
def test_fault_in_json_is_one_sentence(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_object(tmp_path / "a.json", "a datalist")


def test_placed_file_is_the_source_and_another_is_left_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    source.write_bytes(b"scan")
    place_file(source, target)
    assert target.samefile(source)
    place_file(source, target)  # again changes nothing
    (tmp_path / "other").write_bytes(b"else")
    with pytest.raises(InputError, match=r"target: already exists and differs from .*other"):
        place_file(tmp_path / "other", target)
    assert target.read_bytes() == b"scan"


def test_file_across_two_file_systems_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_bytes(b"scan")
    place_file(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"scan"
    assert not (tmp_path / "target").samefile(tmp_path / "source")


def test_checksum_is_that_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- locks


HOLD = """
import sys, time
from pathlib import Path
from dtlp_components.files import claim
claim(Path(sys.argv[1]))
print(1, flush=True)
time.sleep(60)
"""


def test_file_is_claimed_by_one_process_until_it_ends_in_whatever_way(tmp_path: Path) -> None:
    file = tmp_path / "logs/lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert re.fullmatch(rf"process {holder.pid} on {socket.gethostname()} since [-0-9]{{10}} [:0-9]{{8}}", claim(file))
    holder.kill()
    holder.wait()
    assert claim(file) == ""
    assert claim(file) == ""  # by this process, twice
    release(file)
    release(file)


def test_claim_is_over_when_it_is_released(tmp_path: Path) -> None:
    assert claim(tmp_path / "lock") == ""
    ask = "import sys, pathlib, dtlp_components.files as f; print(f.claim(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", ask, str(tmp_path / "lock")]
    assert f"process {os.getpid()} on" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    release(tmp_path / "lock")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


ADD = """
import sys
from pathlib import Path
from dtlp_components.files import locked
file = Path(sys.argv[1]) / "sum"
for _ in range(200):
    with locked(sys.argv[1]):
        file.write_text(str(int(file.read_text()) + 1))
"""


def test_locked_folder_loses_no_change_of_two_processes(tmp_path: Path) -> None:
    (tmp_path / "sum").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "sum").read_text() == "400"
    assert names(tmp_path) == ["sum"]


def test_free_name_is_the_first_that_is_not_taken(tmp_path: Path) -> None:
    for expected in ("a.csv", "a-2.csv", "a-3.csv"):
        assert free_name(tmp_path / "a.csv") == tmp_path / expected
        (tmp_path / expected).touch()


# --- JSON that is none


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.json")
    with pytest.raises(InputError, match=r"list\.json: expected a datalist in a file, got a pipe"):
        read_json(tmp_path / "list.json", "a datalist")


def test_file_of_no_reasonable_size_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "list.json", "wb") as file:
        file.truncate(300_000_000)  # takes no room on the disk
    with pytest.raises(InputError, match="expected a datalist of at most 200 MB, got 300 MB"):
        read_json(tmp_path / "list.json", "a datalist")


@pytest.mark.parametrize("text", ["[" * 100_000, f"[{'9' * 5000}]"], ids=["deep", "long number"])
def test_json_that_nobody_wrote_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(InputError, match=r"list\.json: .*; expected a datalist"):
        read_json(tmp_path / "list.json", "a datalist")


def test_path_with_a_nul_is_named() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_json("a\0b", "a datalist")


def test_asking_who_has_claimed_a_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert claimed_by(file) == ""
    assert not file.exists()
    assert claim(file) == ""
    assert claimed_by(file) == ""  # this process, which keeps it
    ask = "import sys, pathlib, dtlp_components.files as f; print(f.claimed_by(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", ask, str(file)]
    assert f"process {os.getpid()} on" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    release(file)
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"
