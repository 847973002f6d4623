"""Files and connections that mean harm: refused within the limits, and nothing is left behind."""

import io as streams
import socket
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from medical_sam2.server.worker_process import WorkerLimits
from tests.phantoms import phantom
from tests.server.browsing import running
from tests.server.conftest import TOKEN, Served, saved


def opened(served: Served, data: bytes, suffix: str) -> Any:
    """What the server says to such a file."""
    id = served.post("sessions")["id"]
    assert served.http.put(f"/api/sessions/{id}/files?suffix={suffix}", content=data).status_code == 200
    answer = served.http.post(f"/api/sessions/{id}/open", json={})
    assert served.http.get(f"/api/sessions/{id}").status_code == 404
    assert str(served.settings.state) not in answer.text
    return answer


def encode_runs(**entries: bytes) -> bytes:
    """A zip file."""
    stream = streams.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return stream.getvalue()


def bomb(_: Path) -> tuple[bytes, str]:
    return encode_runs(**{"a.nii": bytes(1 << 28)}), ".zip"


def forged_size(folder: Path) -> tuple[bytes, str]:
    """A header that declares 2 TB."""
    import nibabel as nib

    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    data = bytearray(image.to_bytes())
    data[42:48] = np.array([30_000, 30_000, 2_000], "<i2").tobytes()
    return bytes(data), ".nii"


def huge_picture(folder: Path) -> tuple[bytes, str]:
    """A PNG of 60000 × 60000 pixels in a few kilobytes."""
    stream = streams.BytesIO()
    Image.new("1", (8, 8)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data), ".png"


def outward_entry(_: Path) -> tuple[bytes, str]:
    return encode_runs(**{"../../evil.nii": b"x" * 400}), ".zip"


def linked_entry(_: Path) -> tuple[bytes, str]:
    stream = streams.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("link.nii")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return stream.getvalue(), ".zip"


def nested(_: Path) -> tuple[bytes, str]:
    return encode_runs(**{"inner.zip": encode_runs(**{"a.nii": b"x"})}), ".zip"


def forged_archive(folder: Path) -> tuple[bytes, str]:
    """The directory of the archive promises more than there is."""
    data = bytearray(encode_runs(**{"a.nii": b"x" * 400}))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (1 << 31).to_bytes(4, "little")
    return bytes(data), ".zip"


def outside_data(folder: Path) -> tuple[bytes, str]:
    """A header that takes its voxels from another file of the machine."""
    text = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = /etc/passwd\n"
    return text.encode(), ".mhd"


def outside_nrrd(folder: Path) -> tuple[bytes, str]:
    text = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: /etc/passwd\n\n"
    return text.encode(), ".nhdr"


def truncated(folder: Path) -> tuple[bytes, str]:
    data = saved(phantom(), folder / "a.nii.gz").read_bytes()
    return data[: len(data) // 2], ".nii.gz"


def script(_: Path) -> tuple[bytes, str]:
    return b"<html><script>alert(1)</script>", ".nii.gz"


def nothing(_: Path) -> tuple[bytes, str]:
    return b"", ".nii.gz"


@pytest.mark.parametrize("made", [bomb, forged_size, huge_picture, truncated])
def test_files_that_want_more_than_there_is(served: Served, tmp_path: Path, made: Callable[[Path], tuple[bytes, str]]) -> None:
    """To a decoder in a process of its own, within its limits."""
    answer = opened(served, *made(tmp_path))
    assert answer.status_code == 422
    assert "error" in answer.json()


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    "made", [outward_entry, linked_entry, nested, forged_archive, outside_data, outside_nrrd, script, nothing]
)
def test_hostile_files(shared: Served, tmp_path: Path, made: Callable[[Path], tuple[bytes, str]]) -> None:
    answer = opened(shared, *made(tmp_path))
    assert answer.status_code == 422
    assert "error" in answer.json()
    assert not (tmp_path / "evil.nii").exists()
    assert not [*shared.settings.state.parent.rglob("evil.nii")]


def test_a_decoder_that_takes_too_long_or_too_much(serve: Callable[..., Served], ct: Path) -> None:
    for limits in (WorkerLimits(seconds=0.05), WorkerLimits(memory_mb=64)):
        served = serve(worker_limits=limits)
        assert opened(served, ct.read_bytes(), ".nii.gz").status_code == 422


def test_more_than_is_allowed(serve: Callable[..., Served], ct: Path) -> None:
    served = serve(most_upload_mb=1, most_files=2, most_sessions=2, most_voxels=100)
    id = served.post("sessions")["id"]
    put = f"/api/sessions/{id}/files?suffix=.dcm"
    assert served.http.put(put, content=bytes(1 << 21)).status_code == 413  # its length is told
    assert served.http.put(put, content=iter([bytes(1 << 19)] * 4)).status_code == 413  # its length is not told
    assert served.http.put(put, content=b"x", headers={"content-length": "-1"}).status_code in {400, 413}
    assert list((served.settings.state / id / "source").iterdir()) == []
    for expected in (200, 200, 413):
        assert served.http.put(put, content=b"x").status_code == expected
    assert served.http.post("/api/sessions", json={}).status_code == 200
    assert served.http.post("/api/sessions", json={}).status_code == 503
    served.http.delete(f"/api/sessions/{id}")
    assert opened(served, ct.read_bytes(), ".nii.gz").status_code == 413


@pytest.fixture
def patient_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medical_sam2.server.app.HEADERS_WITHIN_S", 0.3)


@pytest.mark.usefixtures("patient_limit")
def test_slow_clients_are_dropped(tmp_path: Path, queue: InferenceQueue) -> None:
    """One that never ends its headers, and one that never ends its body."""
    settings = ServerSettings(tmp_path / "state", token=TOKEN, idle_s=0.3)
    begun = f"POST /api/sessions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 5000\r\n"
    with running(settings, queue) as found:
        for text, expected in ((begun, b""), (begun + "\r\n{", b"HTTP/1.1 408")):
            with socket.create_connection(("127.0.0.1", found.port), timeout=30) as client:
                client.sendall((text % found.port).encode())
                assert client.recv(4096)[:12] == expected
        with socket.create_connection(("127.0.0.1", found.port), timeout=30) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000)
            assert client.recv(4096).startswith(b"HTTP/1.1 4")


def test_smuggled_lengths(tmp_path: Path, queue: InferenceQueue) -> None:
    with running(ServerSettings(tmp_path / "state", token=TOKEN), queue) as found:
        for extra in (
            b"Content-Length: 5\r\nContent-Length: 6\r\n",
            b"Host: evil.example\r\n",
            b"Transfer-Encoding: x, chunked\r\n",
        ):
            with socket.create_connection(("127.0.0.1", found.port), timeout=30) as client:
                host = f"Host: 127.0.0.1:{found.port}\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
                client.sendall(b"POST /api/sessions HTTP/1.1\r\n" + host + extra + b"\r\n{}")
                assert client.recv(4096)[9:10] in {b"4", b"5"}
