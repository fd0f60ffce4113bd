# SPDX-License-Identifier: Apache-2.0
"""Several processes: who is who, what they exchange, who tells an error, and who is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dtlp_components.errors import InputError, may_tell
from dtlp_components.processes import (
    average_tensors,
    copy_from_first,
    first_process_first,
    gather,
    highest,
    is_first,
    join_processes,
    my_share,
    num_processes,
    rank,
    same_for_all,
)
from tests.together import together


def test_a_process_alone_is_the_first_of_one() -> None:
    join_processes("cpu", environment={})
    numbers = [torch.ones(3)]
    average_tensors(numbers)
    copy_from_first(numbers)
    with first_process_first():
        pass
    assert (rank(), num_processes(), is_first(), highest(3), gather("a")) == (0, 1, True, 3, ["a"])
    assert same_for_all(lambda: "made") == "made"
    assert list(my_share("abc")) == [0, 1, 2]
    assert numbers[0].tolist() == [1, 1, 1]
    assert may_tell()


def _exchange() -> dict[str, Any]:
    columns_first = torch.arange(6.0).view(2, 3).t() + rank()  # not contiguous
    number = torch.tensor(10.0 * rank())
    average_tensors([columns_first, number])
    own = torch.full((2, 2), float(rank()))
    copy_from_first([own])
    return {
        "mean": columns_first.tolist(),
        "number": number.item(),
        "copied": own.tolist(),
        "gathered": gather({"rank": rank()}),
        "highest": highest(rank() * 15),
        "made": same_for_all(lambda: f"by {rank()}"),
        "share": list(my_share("abcde")),
        "few": list(my_share("a")),
    }


def test_what_processes_exchange(tmp_path: Path) -> None:
    zero, one = together(_exchange, folder=tmp_path)
    assert zero["mean"] == one["mean"] == [[0.5, 3.5], [1.5, 4.5], [2.5, 5.5]]
    assert zero["number"] == one["number"] == 5
    assert zero["copied"] == one["copied"] == [[0, 0], [0, 0]]
    assert zero["gathered"] == one["gathered"] == [{"rank": 0}, {"rank": 1}]
    assert zero["highest"] == one["highest"] == 15
    assert zero["made"] == one["made"] == "by 0"
    assert (zero["share"], one["share"]) == ([0, 2, 4], [1, 3])
    assert zero["few"] == one["few"] == [0]


def _in_order(file: Path) -> float:
    with first_process_first():
        if is_first():
            time.sleep(0.5)
            file.write_text("written")
        else:
            assert file.read_text() == "written"
    return 0.0


def test_others_enter_a_block_after_the_first(tmp_path: Path) -> None:
    together(_in_order, tmp_path / "file", folder=tmp_path)


def _who_tells() -> list[bool]:
    return [may_tell(), may_tell()]


def test_one_process_tells_an_error(tmp_path: Path) -> None:
    answers = together(_who_tells, folder=tmp_path, count=3)
    assert sorted(answers) == [[False, False], [False, False], [True, True]]


@pytest.mark.parametrize(
    ("name", "launcher"),
    [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpiexec")],
)
def test_tasks_without_torchrun_are_refused(name: str, launcher: str) -> None:
    with pytest.raises(InputError, match=f"got 4 started by {launcher} .* {launcher} torchrun --nproc_per_node"):
        join_processes("cpu", environment={name: "4"})
    join_processes("cpu", environment={name: "1"})
    assert num_processes() == 1
