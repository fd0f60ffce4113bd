# SPDX-License-Identifier: Apache-2.0
"""Label maps in which voxels are open: marked before training, left out of scores."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from ..data.partial_labels import open_classes
from ..keys import NO_LABEL, DatalistKeys

__all__ = ["LeaveOutOpenVoxelsd", "MarkOpenVoxelsd", "leave_out_open_voxels"]


class MarkOpenVoxelsd(MapTransform):
    """
    Give open voxels of a label map a value below 0 (:py:func:`dtlp_components.data.partial_labels.open_classes`).

    Those are the voxels that a file marks with ``ignore_label``, and, in a scan whose item has ``labels``, the names of
    the classes that were drawn, all of its background. The item loses its ``labels``. All later transforms take the
    values for whole numbers like others, so that they move with the image.

    Args:
        keys: of label maps, class indices ``(1, x, y, z)``.
        label_names: of all classes, the background first.
        ignore_label: value in label files; none if ``None``.
        table: what open voxels may be, of :py:func:`open_classes`.
        allow_missing_keys: skip keys that the item lacks.

    Example:
        >>> mark = MarkOpenVoxelsd("label", ["background", "liver", "spleen"], 9, [[0, 1, 2], [0, 2]])
        >>> label = torch.tensor([0.0, 1.0, 9.0]).reshape(1, 1, 1, 3)
        >>> mark({"label": label, "labels": ("liver",)})["label"].flatten().tolist()
        [-2.0, 1.0, -1.0]
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_names: Sequence[str],
        ignore_label: int | None = None,
        table: Sequence[Sequence[int]] = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_names, self.ignore_label = list(label_names), ignore_label
        self.table = [list(row) for row in table]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its label maps marked."""
        item = dict(data)
        drawn = item.pop(DatalistKeys.LABELS.value, None)
        if not self.table:
            return item
        own = open_classes([{DatalistKeys.LABELS.value: drawn}] if drawn else [], self.label_names)
        for key in self.key_iterator(item):
            label = item[key]
            marked = label.clone()
            if own:
                marked[label == 0] = NO_LABEL - self.table.index(own[1])
            if self.ignore_label is not None:
                marked[label == self.ignore_label] = NO_LABEL
            item[key] = marked
        return item


class LeaveOutOpenVoxelsd(MapTransform):
    """
    Make background of what cannot be scored: voxels to ignore, and classes that nobody drew in the scan.

    Those are then in neither map, which scores take for a class that is not there. A class that somebody drew stays
    where it is predicted, and counts as wrong in what nobody drew. Surface distances see a border where the prediction
    is cut off.

    Args:
        keys: the prediction and the label, class indices of one shape.
        table: see :py:class:`MarkOpenVoxelsd`.

    Example:
        >>> leave_out = LeaveOutOpenVoxelsd(["pred", "label"], [[0, 1, 2], [0, 2]])
        >>> maps = {"pred": torch.tensor([[1, 2, 1]]), "label": torch.tensor([[-2, -2, 1]])}
        >>> [values.tolist() for values in leave_out(maps).values()]
        [[[1, 0, 1]], [[0, 0, 1]]]
    """

    def __init__(self, keys: KeysCollection, table: Sequence[Sequence[int]] = ()) -> None:
        super().__init__(keys)
        self.table = [list(row) for row in table]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with both maps changed; as it is if no voxel can be open."""
        item = dict(data)
        if not self.table:
            return item
        prediction, label = (item[key] for key in self.keys)
        item[self.keys[0]], item[self.keys[1]] = leave_out_open_voxels(prediction, label, self.table)
        return item


def leave_out_open_voxels(prediction: Tensor, label: Tensor, table: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prediction and label, class indices of one shape, as :py:class:`LeaveOutOpenVoxelsd` makes them."""
    left = prediction.clone()
    left[label == NO_LABEL] = 0
    for row, classes in enumerate(table):
        if row and bool((label == NO_LABEL - row).any()):
            left[torch.isin(prediction, torch.tensor(classes, device=prediction.device).to(prediction.dtype))] = 0
    return left, label.clamp_min(0)
