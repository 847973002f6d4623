"""Connections that cost more than they should, and the end of the server."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from medical_sam2.server import app
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from tests.server.browsing import running
from tests.server.conftest import TOKEN


def asked(port: int, *, path: str = "/api/about", more: str = "", token: str = TOKEN) -> bytes:
    """A request that is let in."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n{more}\r\n".encode()


def answered(client: socket.socket) -> bytes:
    """The first line of the next answer, which is read to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (piece := client.recv(65_536)):
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while len(body) < length:
        body += client.recv(65_536)
    return head.split(b"\r\n")[0]


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def insist(client: socket.socket, data: bytes, times: int) -> None:
    """Send it again and again, and take nothing."""
    for _ in range(times):
        client.sendall(data)
        time.sleep(0.1)


def test_drips_after_an_answer(tmp_path: Path, queue: InferenceQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was answered has as long for the next request as for the first, however it comes."""
    monkeypatch.setattr(app, "HEADERS_WITHIN_S", 1.0)
    with running(ServerSettings(tmp_path / "state", token=TOKEN), queue) as found, connected(found.port) as client:
        for _ in range(2):
            client.sendall(asked(found.port))
            assert answered(client) == b"HTTP/1.1 200 OK"
        with pytest.raises(ConnectionError):
            insist(client, b"G", 300)


def test_answers_that_nobody_takes(tmp_path: Path, queue: InferenceQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "UNREAD_WITHIN_S", 1.0)
    with running(ServerSettings(tmp_path / "state", token=TOKEN), queue) as found, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", found.port))
        client.settimeout(30)
        with pytest.raises(ConnectionError):
            insist(client, asked(found.port, path="/app.js") * 20, 300)


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HT", b"POST /login HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 100\r\n\r\np"]
)
def test_idle_strangers_keep_nobody_out(
    tmp_path: Path, queue: InferenceQueue, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(app, "MOST_CONNECTIONS", 16)
    with running(ServerSettings(tmp_path / "state", token=TOKEN), queue) as found, ExitStack() as stack:
        known = stack.enter_context(connected(found.port))
        known.sendall(asked(found.port))
        assert answered(known) == b"HTTP/1.1 200 OK"
        for _ in range(50):
            stranger = stack.enter_context(connected(found.port))
            stranger.sendall(begun % found.port if b"%d" in begun else begun)
        for client in (known, stack.enter_context(connected(found.port))):
            client.sendall(asked(found.port))
            assert answered(client) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("hangs", [False, True])
def test_terminated(tmp_path: Path, hangs: bool) -> None:
    """SIGTERM ends the command with 0 and soon, also while a PACS keeps somebody waiting."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web"
        command = ["serve", "--no-browser", "--port", str(port), "--state", str(tmp_path / "state"), "--pacs", address]
        code = f"import sys; from medical_sam2.cli import main; sys.exit(main({command!r}))"
        server = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        try:
            assert server.stderr is not None
            token = server.stderr.readline().decode().strip().rpartition("token=")[2]
            for _ in range(600):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            with connected(port) as client:
                if hangs:
                    body = b'{"patient": "X"}'
                    head = asked(port, path="/api/pacs/series", token=token).replace(b"GET", b"POST").removesuffix(b"\r\n")
                    client.sendall(head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                    silent.settimeout(60)
                    waiting, _ = silent.accept()  # the PACS was asked
                else:
                    client.sendall(asked(port, token=token))
                    assert answered(client) == b"HTTP/1.1 200 OK"
                    waiting = client
                server.send_signal(signal.SIGTERM)
                assert server.wait(30) == 0
                if hangs:
                    assert answered(client) == b"HTTP/1.1 503 Service Unavailable"
                assert b"Traceback" not in server.stderr.read()
                waiting.settimeout(5)
                while waiting.recv(65_536):  # until whoever asked for the server has ended, too
                    pass
                waiting.close()
        finally:
            server.kill()
            server.communicate()
