# SPDX-License-Identifier: Apache-2.0
"""Which studies of a growing archive are validated on: decided once for each, and remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import locked, read_object, write_json
from ..keys import DatalistKeys

__all__ = ["assign_studies"]

TRAINING, VALIDATION = DatalistKeys.TRAINING.value, DatalistKeys.VALIDATION.value


def assign_studies(groups: Sequence[str], share: float, file: Path) -> dict[str, str]:
    """
    Say of every group of studies whether it is trained or validated on, for good.

    A server that cuts its labeled studies anew at every training validates on what an earlier training has learned
    from. Here a group that was once assigned stays where it is. Of the new ones, those whose names have the smallest
    hashes are validated on, until the share of all groups is reached; with three groups or more, there is at least one.

    Args:
        groups: of labeled studies, such as patients; each once.
        share: of the groups to validate on, 0 to 1; it may be missed where earlier trainings had another.
        file: JSON that remembers, by group; it is written.

    Returns:
        ``training`` or ``validation`` by group, for `groups`.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "split.json"
        >>> first = assign_studies(["a", "b", "c"], 0.2, file)
        >>> later = assign_studies(["a", "b", "c", "d", "e", "f"], 0.5, file)
        >>> all(later[name] == first[name] for name in "abc"), list(later.values()).count("validation")
        (True, 3)
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.parent):
        known: Mapping[str, str] = read_object(file) if file.is_file() else {}
        assigned = {group: known[group] for group in groups if known.get(group) in (TRAINING, VALIDATION)}
        new = sorted((group for group in groups if group not in assigned), key=_hash)
        wanted = round(share * len(groups))
        if share > 0 and len(groups) >= 3:
            wanted = max(1, wanted)
        missing = max(0, wanted - list(assigned.values()).count(VALIDATION))
        # never all of them: there has to be something to train on
        if TRAINING not in assigned.values():
            missing = min(missing, len(new) - 1)
        for i, group in enumerate(new):
            assigned[group] = VALIDATION if i < missing else TRAINING
        write_json(file, {**known, **assigned})
    return {group: assigned[group] for group in groups}


def _hash(group: str) -> str:
    return hashlib.sha256(group.encode("utf-8", "surrogateescape")).hexdigest()
