"""A PACS that is broken, or that means harm: a few lines of a server on this machine."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import CTImageStorage

from medical_sam2.server import Refusal, pacs
from medical_sam2.server.worker_process import WorkerLimits
from tests.io.making import base
from tests.server.conftest import Served

STUDY, SERIES, OTHER = "1.2.3", "1.2.3.4", "1.2.9"
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def archive(*answers: Answer) -> Iterator[str]:
    """A server that answers its first request with the first of these, the last one ever after."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (left.pop(0) if len(left) > 1 else left[0])(self)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def image(number: int, study: str = STUDY, series: str = SERIES) -> bytes:
    """A small CT slice."""
    found = base(np.zeros((2, 2), np.int16), CTImageStorage)
    found.StudyInstanceUID, found.SeriesInstanceUID, found.SOPInstanceUID = study, series, f"1.2.3.4.{number}"
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    stream = BytesIO()
    found.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def body(*images: bytes, edge: bytes = b"edge", end: bytes = b"\r\n--edge--\r\n") -> bytes:
    """Images as parts."""
    return b"\r\n".join(b"--" + edge + b"\r\nContent-Type: application/dicom\r\n\r\n" + one for one in images) + end


def told(
    data: bytes, kind: str = 'multipart/related; type="application/dicom"; boundary=edge', *, length: bool = True
) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        if length:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def rows(*series: str, more: int = 0) -> Answer:
    """What a search finds."""
    values = {"0020000D": STUDY, "00080060": "CT", "00201209": 2}
    found = [{tag: {"vr": "UI", "Value": [value]} for tag, value in {**values, "0020000E": one}.items()} for one in series]
    return told(json.dumps(found).encode() + b" " * more, "application/dicom+json")


def endless(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, for as long as somebody listens."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/dicom+json")
    handler.end_headers()
    for _ in range(600):
        try:
            handler.wfile.write(b"[")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.1)


GOOD = body(image(1), image(2))


def test_what_is_right_is_taken(tmp_path: Path) -> None:
    with archive(told(GOOD)) as address:
        assert pacs.fetch(address, STUDY, SERIES, tmp_path, images=2) == 2
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (told(body(image(1), image(2, study=OTHER))), "another series"),
        (told(body(image(1), image(2, series=OTHER))), "another series"),
        (told(body(image(1), image(1))), "twice"),
        (told(body(image(1))), "1 of the 2"),
        (told(body(end=b"--edge--\r\n")), "cut off"),
        (told(GOOD[:-20], length=False), "cut off"),
        (told(GOOD[: len(GOOD) // 2 - 10], length=False), "cut off"),
        (told(body(image(1), image(2), end=b""), length=False), "cut off"),
        (told(body(image(1), image(2), edge=b"other", end=b"\r\n--other--\r\n")), "cut off"),
        (told(GOOD, "multipart/related; type=application/dicom"), "cut off"),
        (told(body(image(1)) + body(image(2), edge=b"other", end=b"")), "cut off|1 of the 2"),
        (told(GOOD, "application/json"), "does not answer"),
        (told(body(b"no image", image(2))), "does not answer"),
    ],
)
def test_images_that_were_not_asked_for_or_are_not_whole(tmp_path: Path, answer: Answer, why: str) -> None:
    with archive(answer) as address, pytest.raises(Refusal, match=why) as refused:
        pacs.fetch(address, STUDY, SERIES, tmp_path, images=2)
    assert refused.value.status == 502


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_lead_nowhere(tmp_path: Path, status: int) -> None:
    """Neither another server is asked, nor another page of this one."""
    asked = list[str]()

    def heard(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        told(GOOD)(handler)

    with archive(heard) as elsewhere:

        def away(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Location", f"{elsewhere}/studies")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        for ask in (
            lambda address: pacs.search(address, {"PatientID": "X"}),
            lambda address: pacs.fetch(address, STUDY, SERIES, tmp_path),
            lambda address: pacs.send(address, STUDY, image(1)),
        ):
            with archive(away) as address, pytest.raises(Refusal, match="elsewhere"):
                ask(address)
    assert asked == []


def test_answers_without_an_end_in_size(tmp_path: Path) -> None:
    with archive(rows(SERIES, more=17 << 20)) as address, pytest.raises(Refusal, match="more than 16 MB"):
        pacs.search(address, {"PatientID": "X"})
    large = body(image(1), b"\0" * (2 << 20))
    with archive(told(large)) as address, pytest.raises(Refusal, match="more than 1 MB"):
        pacs.fetch(address, STUDY, SERIES, tmp_path, most_bytes=1 << 20)
    with archive(rows(*(f"1.2.{i}" for i in range(1_000)))) as address:
        assert len(pacs.search(address, {"PatientID": "X"})) == pacs.MOST_FOUND  # more than was asked for


def test_answers_without_an_end_in_time(serve: Callable[..., Served]) -> None:
    """The server itself waits no longer than a child may take, and is asked other things meanwhile."""
    with archive(endless) as address:
        served = serve(pacs=address, worker_limits=WorkerLimits(seconds=8.0))
        answer = served.http.post("/api/pacs/series", json={"patient": "SECRET"})
    assert answer.status_code == 422
    assert "takes too long" in answer.json()["error"]
    assert "SECRET" not in answer.text


def test_what_was_not_fetched_is_not_kept(serve: Callable[..., Served]) -> None:
    """From the page, through a process of its own: one refusal, and no session is left."""
    with archive(rows(SERIES), told(body(image(1), image(2, study=OTHER)))) as address:
        served = serve(pacs=address)
        (found,) = served.post("pacs/series", patient="X")
        answer = served.http.post("/api/pacs/open", json={"number": found["number"]})
    assert answer.status_code == 502
    assert "another series" in answer.json()["error"]
    assert [path.name for path in served.settings.state.iterdir() if path.is_dir()] == []


def test_a_segmentation_that_is_not_kept(tmp_path: Path) -> None:
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}
    with (
        archive(told(json.dumps(failed).encode(), "application/dicom+json")) as address,
        pytest.raises(Refusal, match="did not keep"),
    ):
        pacs.send(address, STUDY, image(1))
