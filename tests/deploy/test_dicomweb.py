# SPDX-License-Identifier: Apache-2.0
"""Series out of a running Orthanc, and segmentations back into it; and what is refused without one."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from dtlp_components.deploy.dicomweb import fetch_series
from dtlp_components.deploy.segment import segment_scans
from dtlp_components.errors import InputError
from tests import tiny
from tests.clinic.archive import Archive, ct_series, orthanc

pytest.importorskip("dicomweb_client", reason="an optional package: pip install dicomweb-client")

BUNDLE = "bundles/phantom_10"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as found:
        yield found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parser = ConfigParser()
    parser.read_config(f"{BUNDLE}/configs/inference.json")
    parser.update(tiny.FACTS)
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("run") / "models/model.pt"
    file.parent.mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), file)
    return file


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 200, (20, 18, 12))


@pytest.mark.slow
def test_series_come_whole_and_once(archive: Archive, tmp_path: Path) -> None:
    series, slices = ct_series(volume(0), (1.0, 1.0, 2.0), "one")
    archive.store(slices)
    (folder,) = fetch_series(archive.dicomweb, [series], tmp_path)
    assert len(list(folder.iterdir())) == 12
    first = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    fetch_series(archive.dicomweb, [series], tmp_path)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == first
    assert [path.name for path in tmp_path.iterdir()] == [series]


@pytest.mark.slow
def test_segmentation_of_an_archive_s_series_goes_back_into_it(archive: Archive, weights: Path, tmp_path: Path) -> None:
    import pydicom

    uids = []
    for seed in (1, 2):
        series, slices = ct_series(volume(seed), (1.0, 1.0, 2.0), f"patient {seed}")
        archive.store(slices)
        uids.append(series)
    segment_scans(
        BUNDLE, output=str(tmp_path / "out"), dicomweb=archive.dicomweb, series=", ".join(uids), store=True,
        model_file=str(weights), **tiny.FACTS,
    )  # fmt: skip
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 2
    headers = [pydicom.dcmread(io.BytesIO(archive.files(found)[0])) for found in archive.find("SEG")]
    assert {str(h.ReferencedSeriesSequence[0].SeriesInstanceUID) for h in headers} == set(uids)
    assert {str(h.PatientID) for h in headers} == {"patient 1", "patient 2"}


@pytest.mark.slow
def test_series_that_is_not_there_is_refused_and_nothing_is_left(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected one series 1\.2\.3, got 0"):
        fetch_series(archive.dicomweb, ["1.2.3"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"input": "a"}, "--output: expected a folder"),
        ({"output": "o"}, "expected either --input or --dicomweb, got neither"),
        ({"output": "o", "input": "a", "dicomweb": "http://b"}, "expected either --input or --dicomweb, got both"),
        ({"output": "o", "dicomweb": "http://b"}, "--series: expected series instance UIDs"),
        ({"output": "o", "input": "a", "store": True}, "expected the archive's address"),
    ],
)
def test_words_that_do_not_go_together_are_refused(flags: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        segment_scans(BUNDLE, **flags)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["archive", "ftp://archive/x", "http://"])
def test_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--dicomweb: expected an address such as"):
        fetch_series(url, ["1.2"], tmp_path)


def test_uid_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected series instance UIDs, got '\.\./\.\./etc'"):
        fetch_series("http://127.0.0.1:1/dicom-web", ["../../etc"], tmp_path)


def test_archive_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/dicom-web"
    with pytest.raises(InputError, match=rf"--dicomweb {url}: no answer"):
        fetch_series(url, ["1.2"], tmp_path)


def test_archive_that_wants_a_password_says_where_it_belongs(tmp_path: Path) -> None:
    class Locked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Locked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(InputError, match=r"the archive answered with HTTP status 401\. Put .* ~/\.netrc"):
            fetch_series(f"http://127.0.0.1:{server.server_port}/dicom-web", ["1.2"], tmp_path)
    finally:
        server.shutdown()
