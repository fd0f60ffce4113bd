# SPDX-License-Identifier: Apache-2.0
"""Series out of an archive by DICOMweb, and segmentations back into it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputError, first_line

__all__ = ["fetch_series", "store_segmentations"]


def fetch_series(url: str, series: Sequence[str], folder: Path) -> list[Path]:
    """
    Fetch series, each into a folder of its own, named by its UID; one that is there already is not fetched again.

    Who asks is told to the archive as ``requests`` does it: by the user's ``~/.netrc``, over https best.

    Args:
        url: of the archive's DICOMweb service, such as ``http://127.0.0.1:8042/dicom-web``.
        series: series instance UIDs.
        folder: for the folders.

    Returns:
        The folders.

    Raises:
        InputError: if the archive does not answer, has no such series, or a package is missing.
    """
    fetched = []
    with _talk_to(url) as client:
        import pydicom

        for uid in series:
            if not pydicom.uid.UID(uid).is_valid:
                raise InputError(f"--series: expected series instance UIDs, got {uid!r}.")
            target = folder / uid
            fetched.append(target)
            if target.is_dir():
                continue
            found = client.search_for_series(search_filters={"SeriesInstanceUID": uid})
            headers = [pydicom.Dataset.from_json(item) for item in found]
            studies = {str(h.StudyInstanceUID) for h in headers if str(h.get("SeriesInstanceUID")) == uid}
            if len(studies) != 1:
                raise InputError(f"{url}: expected one series {uid}, got {len(studies)}.")
            folder.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=folder, prefix=f".{uid}."))
            try:
                for number, instance in enumerate(client.iter_series(studies.pop(), uid)):
                    instance.save_as(part / f"{number:05d}.dcm", enforce_file_format=True)
                part.rename(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            print(f"{uid}: {len(list(target.iterdir()))} files downloaded from {url}", flush=True)
    return fetched


def store_segmentations(url: str, files: Sequence[Path]) -> None:
    """
    Put DICOM files into an archive.

    Args:
        url: of its DICOMweb service.
        files: DICOM Segmentations.

    Raises:
        InputError: if it does not answer, or does not take them.
    """
    with _talk_to(url) as client:
        import pydicom

        for file in files:
            client.store_instances([pydicom.dcmread(file)])
            print(f"{file.name}: stored in {url}", flush=True)


@contextmanager
def _talk_to(url: str) -> Iterator[Any]:
    """A client of the archive, whose errors become sentences."""
    try:
        from dicomweb_client import DICOMwebClient
    except ImportError as error:
        raise InputError("--dicomweb requires dicomweb-client: pip install dicomweb-client pydicom") from error
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InputError(f"--dicomweb: expected an address such as http://127.0.0.1:8042/dicom-web, got {url!r}.")
    try:
        yield DICOMwebClient(url=url.rstrip("/"))
    except OSError as error:  # such as all errors of `requests`, whose errors of HTTP have an answer
        answer = getattr(error, "response", None)
        if answer is None:
            raise InputError(f"--dicomweb {url}: no answer ({first_line(error)[:160]}).") from error
        hint = " Put the archive's user name and password into ~/.netrc." if answer.status_code in (401, 403) else ""
        raise InputError(
            f"--dicomweb {url}: the archive answered with HTTP status {answer.status_code}.{hint}"
        ) from error
