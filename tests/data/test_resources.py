# SPDX-License-Identifier: Apache-2.0
"""Cores and memory: the machine's, and what a limit leaves of them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from dtlp_components.data.resources import available_memory, in_threads, usable_cores
from dtlp_components.errors import InputError

GB = 10**9


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 20000000 kB\nMemFree: 1 kB\nMemAvailable: 8000000 kB\n")
    return tmp_path


def memory(folder: Path) -> int | None:
    return available_memory(folder / "meminfo", folder / "cgroup")


def limit(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_memory_is_what_linux_calls_available(machine: Path) -> None:
    assert memory(machine) == 8_192_000_000


@pytest.mark.parametrize(
    ("limit_file", "use_file"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_limit_of_a_container_counts(machine: Path, limit_file: str, use_file: str) -> None:
    limit(machine, {limit_file: str(4 * GB), use_file: str(1 * GB)})
    assert memory(machine) == 3 * GB
    limit(machine, {limit_file: "max"})
    assert memory(machine) == 8_192_000_000


def test_more_used_than_allowed_leaves_nothing(machine: Path) -> None:
    limit(machine, {"memory.max": "5", "memory.current": "9"})
    assert memory(machine) == 0


def test_nothing_is_said_where_the_system_does_not(tmp_path: Path) -> None:
    assert memory(tmp_path) is None


def test_processes_on_a_machine_share_it(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = usable_cores()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory(machine) == 4_096_000_000
    assert usable_cores() == max(1, alone // 2)


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)), raising=False)
    assert usable_cores() == 16


def test_results_keep_their_order_and_come_from_several_threads() -> None:
    seen = set()

    def slow_at_first(number: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.05 if number == 0 else 0.01)
        return number * number

    assert list(in_threads(slow_at_first, range(6), 3)) == [0, 1, 4, 9, 16, 25]
    assert len(seen) == 3


def test_error_ends_it_even_one_that_ends_a_program() -> None:
    begun = []

    def fail_at_two(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        if number == 2:
            raise InputError("a full disk")
        return number

    with pytest.raises(InputError, match="a full disk"):
        list(in_threads(fail_at_two, range(1000), 2))
    assert len(begun) < 100
