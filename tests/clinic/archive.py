# SPDX-License-Identifier: Apache-2.0
"""An archive with DICOMweb, Orthanc, in a process of its own, and series made from volumes."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PLUGINS = Path("/usr/share/orthanc/plugins")
SECONDS = 60


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class Archive:
    """A running Orthanc: its address and its log."""

    url: str
    log_file: Path

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"

    def ask(self, path: str, body: Any = None) -> Any:
        """Its answer, from JSON or as bytes; bytes are sent as they are, anything else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data=data), timeout=60) as answer:
            content: bytes = answer.read()
        return json.loads(content) if "json" in answer.headers.get("content-type", "") else content

    def store(self, slices: list[bytes]) -> None:
        for content in slices:
            self.ask("/instances", content)

    def find(self, modality: str) -> list[dict[str, Any]]:
        """Series of a modality."""
        query = {"Level": "Series", "Expand": True, "Query": {"Modality": modality}}
        found: list[dict[str, Any]] = self.ask("/tools/find", query)
        return found

    def files(self, series: dict[str, Any]) -> list[bytes]:
        """The DICOM files of a series."""
        return [self.ask(f"/instances/{instance}/file") for instance in series["Instances"]]


@contextmanager
def orthanc(folder: Path) -> Iterator[Archive]:
    """An empty archive on a free port of this machine alone, until the block ends."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    plugin = PLUGINS / "libOrthancDicomWeb.so"
    if program is None or not plugin.exists():
        pytest.skip("needs Orthanc with DICOMweb (Debian: orthanc orthanc-dicomweb)")
    port = free_port()
    settings = {
        "Name": "test", "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": port, "DicomPort": free_port(), "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "Plugins": [str(plugin)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Host": "127.0.0.1"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    archive = Archive(f"http://127.0.0.1:{port}", folder / "orthanc.log")
    with open(archive.log_file, "w") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + SECONDS
        while True:
            try:
                archive.ask("/system")
                break
            except OSError:
                assert process.poll() is None, archive.log_file.read_text()
                assert time.monotonic() < end, archive.log_file.read_text()
                time.sleep(0.2)
        yield archive
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


def ct_series(volume: np.ndarray, spacing: tuple[float, float, float], patient: str) -> tuple[str, list[bytes]]:
    """
    A CT of a volume in RAS orientation, whole numbers of Hounsfield units.

    Args:
        volume: ``(x, y, z)``, right to left, back to front, feet to head.
        spacing: mm.
        patient: its ID, and its name.

    Returns:
        Its series instance UID, and its files.
    """
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    voxels = volume[::-1, ::-1]  # of a file, rows go to the left and down to the back
    slices = []
    for k in range(voxels.shape[2]):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        header.is_little_endian, header.is_implicit_VR = True, False
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        header.PatientID = header.PatientName = patient
        header.PatientBirthDate, header.PatientSex, header.AccessionNumber, header.StudyID = "19500101", "O", "1", "1"
        header.StudyDate, header.StudyTime, header.ReferringPhysicianName = "20260101", "120000", ""
        header.Manufacturer, header.SeriesDescription = "test", "abdomen"
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.PositionReferenceIndicator = ""
        header.Modality, header.SeriesNumber, header.InstanceNumber = "CT", 1, k + 1
        header.ImagePositionPatient = [0.0, 0.0, k * spacing[2]]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.PixelSpacing, header.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        header.Columns, header.Rows = voxels.shape[:2]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.RescaleSlope, header.RescaleIntercept, header.RescaleType = 1, 0, "HU"
        header.WindowCenter, header.WindowWidth = 100, 400
        header.PixelData = voxels[:, :, k].T.astype("<i2").tobytes()
        stream = io.BytesIO()
        # pydicom 2, of MONAI Label's environment, has another word for it
        whole = {"write_like_original": False} if pydicom.__version__ < "3" else {"enforce_file_format": True}
        pydicom.dcmwrite(stream, header, **whole)
        slices.append(stream.getvalue())
    return series, slices
