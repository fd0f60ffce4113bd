# SPDX-License-Identifier: Apache-2.0
"""An experiment as an array job of SLURM: text that everybody can read and change, since every cluster differs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

__all__ = ["array_script"]

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={logs}/slurm-%A_%a.out
# Add what your cluster asks for: a partition, an account. A task that is preempted or runs out of time writes a
# checkpoint and goes on from there when it is started again; tasks that are done end at once.
cd {folder}
exec {python} -m dtlp_components experiment {words} --only "$SLURM_ARRAY_TASK_ID"
"""


def array_script(name: str, count: int, folder: str, logs: str, words: Sequence[str]) -> str:
    """
    The script.

    Args:
        name: of the job.
        count: runs, a task each.
        folder: to start in.
        logs: folder for what tasks print.
        words: of the command ``experiment``.
    """
    return SCRIPT.format(
        name=shlex.quote(name),
        last=count - 1,
        folder=shlex.quote(folder),
        logs=logs,
        python=shlex.quote(sys.executable),
        words=shlex.join(words),
    )
