# SPDX-License-Identifier: Apache-2.0
"""Scans to segment, one at a time: a broken one becomes a sentence, and no end to the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from ..errors import InputError, cause_of
from ..keys import ScanKeys

__all__ = ["ScanDataset"]


class ScanDataset(Dataset):
    """
    Preprocessed scans, and what is wrong with those that cannot be.

    Args:
        data: items ``{"image": path}``.
        transform: preprocessing; maps an item to an item.
        find_problems: maps a path to sentences, none if the scan can be segmented; called before `transform`.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        transform: Callable[[Any], Any],
        find_problems: Callable[[str], Sequence[str]],
    ) -> None:
        self.data, self.transform, self.find_problems = data, transform, find_problems

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The transformed item, or ``image``, its path, and ``problem``."""
        path = self.data[index][ScanKeys.IMAGE]
        try:
            if problems := self.find_problems(path):
                return {str(ScanKeys.IMAGE): path, str(ScanKeys.PROBLEM): " ".join(problems)}
            item: dict[str, Any] = self.transform(dict(self.data[index]))
            return item
        except (Exception, InputError) as error:  # whatever it is, it is this scan's
            logging.getLogger("dtlp").debug(f"{path}: cannot be preprocessed", exc_info=True)
            return {
                str(ScanKeys.IMAGE): path,
                str(ScanKeys.PROBLEM): f"{path}: cannot be preprocessed ({cause_of(error)}).",
            }
