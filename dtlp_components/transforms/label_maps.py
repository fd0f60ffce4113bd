# SPDX-License-Identifier: Apache-2.0
"""Predicted label maps: the largest component of each class, and files that are whole or not there."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor, PathLike
from monai.data import NibabelWriter
from monai.transforms import KeepLargestConnectedComponent, MapTransform, generate_spatial_bounding_box
from monai.utils import ImageMetaKey, convert_to_numpy, get_equivalent_dtype

from ..data.nifti import placed_image
from ..errors import InputError, first_line
from ..files import whole_file

__all__ = ["KeepLargestComponentd", "WholeFileWriter"]


class KeepLargestComponentd(MapTransform):
    """
    Keep the largest connected component of each class of a label map, the rest becomes background.

    MONAI's ``KeepLargestConnectedComponent`` with its neighborhood (voxels that share a corner are connected), called
    within the box of each class: on the whole of a large scan it takes many times the memory of the labels.

    Args:
        keys: label maps ``(1, x, y, z)``, changed in place.
        allow_missing_keys: as in MONAI.

    Example:
        >>> labels = torch.zeros(1, 8, 9, 10, dtype=torch.uint8)
        >>> labels[:, 1:4, 1:4, 1:4] = 1
        >>> labels[:, 6, 6, 6] = 1
        >>> int(KeepLargestComponentd("pred")({"pred": labels})["pred"].sum())
        27
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.keep_largest = KeepLargestConnectedComponent(applied_labels=1, is_onehot=False)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            labels = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            for label in filter(None, np.unique(labels.cpu().numpy()).tolist()):  # all but the background
                start, stop = generate_spatial_bounding_box(labels == label, allow_smaller=True)
                box = labels[
                    (slice(None), *(slice(low, high) for low, high in zip(start, stop, strict=True)))
                ]  # a view
                kept = torch.as_tensor(self.keep_largest((box == label).to(torch.uint8))).bool()
                box[(box == label) & ~kept] = 0
        return item


class WholeFileWriter(NibabelWriter):
    """
    For ``SaveImaged(writer=, resample=False)``: the file is written under another name in its folder and moved into
    place.

    The volume ``(1, x, y, z)`` is written as it is: MONAI's writer drops a last axis of one slice, and then takes the
    affine for that of a plane, which is singular if the slices do not lie along the patient's z. Its header places it
    where every program shows the scan (:py:func:`dtlp_components.data.nifti.placed_header`); MONAI's writer puts one
    affine into both forms, with the shear taken out of one of them.

    Raises:
        InputError: from ``write``, if that fails; of anything else MONAI says that a package is missing.

    Example:
        >>> import os, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> writer = WholeFileWriter(output_dtype="uint8")
        >>> writer.set_data_array(torch.ones(1, 4, 5, 6))
        >>> writer.set_metadata({"affine": torch.eye(4)})
        >>> writer.write(os.path.join(folder.name, "scan_seg.nii.gz"))
        >>> os.listdir(folder.name)
        ['scan_seg.nii.gz']
    """

    def set_data_array(self, data_array: NdarrayOrTensor, *args: Any, **kwargs: Any) -> None:
        self.data_obj = convert_to_numpy(data_array)[0]

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, *args: Any, **kwargs: Any) -> None:
        _, self.affine, _ = self.get_meta_info(meta_dict)
        self.source = str((meta_dict or {}).get(ImageMetaKey.FILENAME_OR_OBJ, ""))

    def write(self, filename: PathLike, verbose: bool = False, **obj_kwargs: Any) -> None:
        try:
            voxels = np.asarray(self.data_obj).astype(get_equivalent_dtype(self.output_dtype, np.ndarray))
            with whole_file(filename) as part:
                nib.save(placed_image(voxels, np.asarray(self.affine, float), self.source), part)
        except Exception as error:
            raise InputError(f"{filename}: cannot be written ({type(error).__name__}: {first_line(error)}).") from error
