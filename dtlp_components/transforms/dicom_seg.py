# SPDX-License-Identifier: Apache-2.0
"""Answers a DICOM series with a DICOM Segmentation."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, MetaKeys

from ..data.series import is_series, series_files
from ..errors import InputError, first_line
from ..files import whole_file
from ..keys import ScanKeys

__all__ = ["WriteDicomSegd"]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
CODING_SCHEME = "99DTLP"  # DICOM's prefix for codes of one's own
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip


class WriteDicomSegd(MapTransform):
    """
    Write a label map a second time, as a DICOM Segmentation (binary, one segment per class) that refers to the slices
    it is of; of scans that are no DICOM series nothing is written.

    It stands after ``SaveImaged(savepath_in_metadict=True)``: the file is beside the label map and ends in ``.dcm``
    instead of ``.nii.gz``. Written by highdicom. Segments carry the class's name and a code of our own, since names do
    not tell which SNOMED code is meant. Where it cannot be written (the series lacks what a Segmentation must refer to,
    its slices are sheared by a tilted gantry, the disk is full), ``problem`` in the item says why; else
    ``dicom_seg`` says where it is.

    Args:
        keys: label maps ``(1, x, y, z)`` on the scan's grid, with its affine and where they were saved.
        label_names: names of all classes, the background first.
        model_name: what made the segmentation, such as the bundle's name.
        allow_missing_keys: as in MONAI.

    Raises:
        InputError: when made, if highdicom is missing.
    """

    def __init__(
        self, keys: KeysCollection, label_names: Sequence[str], model_name: str, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        try:
            import highdicom
        except ImportError as error:
            raise InputError("--dicom_seg requires highdicom: pip install highdicom") from error
        self.highdicom = highdicom
        self.label_names, self.model_name = list(label_names), model_name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            labels = item[key]
            scan = Path(labels.meta[ImageMetaKey.FILENAME_OR_OBJ])
            if not is_series(scan):
                continue
            label_map = Path(labels.meta[MetaKeys.SAVED_TO])
            target = label_map.with_name(label_map.name.removesuffix(".nii.gz") + ".dcm")
            try:
                with whole_file(target) as part:
                    self._segmentation(labels, scan).save_as(part)
                item[ScanKeys.DICOM_SEG] = str(target)
            except (Exception, InputError) as error:  # the label map stays, whatever it is
                logging.getLogger("dtlp").debug(f"{target}: cannot be written", exc_info=True)
                item[ScanKeys.PROBLEM] = (
                    f"{scan}: {label_map} was written, but {target.name} was not ({type(error).__name__}: "
                    f"{first_line(error)})."
                )
        return item

    def _segmentation(self, labels: Any, scan: Path) -> Any:
        import pydicom
        from pydicom.sr.codedict import codes

        slices = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in series_files(scan)]
        if missing := [tag for tag in NEEDED if tag not in slices[0]]:
            raise ValueError(f"the series has no {' and no '.join(missing)}")
        for header in slices:  # highdicom copies them into the Segmentation, where they have to be, but may be empty
            for tag in MAY_BE_EMPTY:
                if tag not in header:
                    setattr(header, tag, "")
            if header.get("SliceThickness") is None:  # by which viewers draw a frame
                header.SliceThickness = round(float(np.linalg.norm(np.asarray(labels.affine)[:3, 2])), 4)
        # columns, rows, slices in RAS -> slices, rows, columns in LPS
        affine = RAS_TO_LPS @ np.asarray(labels.affine, dtype=float)
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
            raise ValueError(
                "its slices are sheared, as with a tilted gantry, which a DICOM Segmentation cannot represent"
            )
        volume = self.highdicom.Volume(
            np.ascontiguousarray(np.asarray(labels.cpu())[0].transpose(2, 1, 0).astype(np.uint8)),
            affine[:, [2, 1, 0, 3]],
            coordinate_system="PATIENT",
            frame_of_reference_uid=slices[0].FrameOfReferenceUID,
        )
        algorithm = self.highdicom.AlgorithmIdentificationSequence(
            self.model_name, family=codes.DCM.ArtificialIntelligence, version=_version()
        )
        described = [
            self.highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=self.highdicom.sr.CodedConcept(str(number), CODING_SCHEME, name[:64]),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
            )
            for number, name in enumerate(self.label_names)
            if number > 0
        ]
        return self.highdicom.seg.Segmentation(
            source_images=slices,
            pixel_array=volume,
            segmentation_type="BINARY",
            segment_descriptions=described,
            series_instance_uid=self.highdicom.UID(),
            series_number=int(getattr(slices[0], "SeriesNumber", None) or 0) + 1000,
            sop_instance_uid=self.highdicom.UID(),
            instance_number=1,
            manufacturer="DTLP bundles",
            manufacturer_model_name=self.model_name,
            software_versions=_version(),
            device_serial_number="none",
            series_description=f"{self.model_name} (research use)"[:64],
        )


def _version() -> str:
    try:
        return version("dtlp-bundles")
    except PackageNotFoundError:  # run from a clone, or from within a packed bundle
        return "unknown"
