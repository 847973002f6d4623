"""A server with the phantom, whose network is known."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from starlette.testclient import TestClient

from medical_sam2 import io
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.server import refusal_for, worker_process
from medical_sam2.server.app import build
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore
from medical_sam2.server.worker_process import WorkerProcesses
from tests.phantoms import Phantom, phantom, segmenter
from tests.server.browsing import Person, chromium, running

TOKEN, PORT = "token-of-the-tests", 8421


@dataclass(frozen=True)
class Served:
    """A server, and somebody who was let in.

    Args:
        http: the client, with its cookie.
        store: the server's sessions.
        settings: of the server.
    """

    http: TestClient
    store: SessionStore
    settings: ServerSettings

    def post(self, path: str, **form: Any) -> Any:
        """The answer to a request that must work."""
        answer = self.http.post(f"/api/{path}", json=form)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, path: Path, suffix: str = ".nii.gz") -> str:
        """A session with this file."""
        id = self.post("sessions")["id"]
        answer = self.http.put(f"/api/sessions/{id}/files?suffix={suffix}", content=path.read_bytes())
        assert answer.status_code == 200, answer.text
        self.post(f"sessions/{id}/open")
        return id


@pytest.fixture
def queue() -> InferenceQueue:
    """The known network."""
    return InferenceQueue(segmenter)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders in this process, for tests that are about something else: a process takes a second to start."""

    def done(_: WorkerProcesses, order: Mapping[str, Any]) -> Any:
        try:
            return worker_process.do(json.loads(json.dumps(order)))
        except MedicalSam2Error as error:
            refusal = refusal_for(error)
            assert refusal
            raise refusal from None

    monkeypatch.setattr(WorkerProcesses, "run", done)


@contextmanager
def entered(settings: ServerSettings, queue: InferenceQueue) -> Iterator[Served]:
    """A server, until the context ends."""
    app, store = build(settings, queue)
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", raise_server_exceptions=False) as client:  # type: ignore[arg-type]
        assert client.get(f"/?token={TOKEN}", follow_redirects=False).status_code == 303
        yield Served(client, store, settings)


@pytest.fixture
def serve(tmp_path: Path, queue: InferenceQueue) -> Iterator[Callable[..., Served]]:
    """Starts servers."""
    with ExitStack() as stack:

        def started(**options: Any) -> Served:
            state = tmp_path / f"state{next(numbers)}"
            settings = ServerSettings(**({"state": state, "token": TOKEN, "port": PORT} | options))
            return stack.enter_context(entered(settings, queue))

        numbers = count()
        yield started


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests of a file."""
    settings = ServerSettings(tmp_path_factory.mktemp("standing") / "state", token=TOKEN, port=PORT)
    with entered(settings, InferenceQueue(segmenter)) as served:
        yield served


@pytest.fixture
def shared(standing: Served) -> Iterator[Served]:
    """A server for tests that need nothing of their own; cookies and sessions are put back for the next one."""
    cookies = list(standing.http.cookies.jar)
    yield standing
    standing.http.cookies.clear()
    for cookie in cookies:
        standing.http.cookies.jar.set_cookie(cookie)
    for folder in filter(Path.is_dir, standing.settings.state.iterdir()):
        standing.store.remove(folder.name)


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """A server as usual."""
    return serve()


def saved(case: Phantom, path: Path) -> Path:
    """The phantom as a file."""
    io.save(case.volume.array, path, case.volume)
    return path


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """The phantom in LPS, as a NIfTI file."""
    return saved(phantom("LPS"), tmp_path / "phantom.nii.gz")


def session(folder: Path, queue: InferenceQueue, code: str = "LPS") -> tuple[Session, Phantom]:
    """A session about the phantom, without a server."""
    folder.mkdir(exist_ok=True)
    case = phantom(code)
    return Session("0" * 32, folder, SessionVolume(case.volume), queue), case


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for all tests of a file."""
    with chromium(solid=False) as one:
        yield one


@pytest.fixture
def person(tmp_path: Path, browser: Browser) -> Iterator[Person]:
    """Somebody who was let in, and meets no error of the page; nothing is asked of another machine."""
    with running(ServerSettings(tmp_path / "state", token="t" * 32), InferenceQueue(segmenter)) as settings:
        one = Person.at(browser, settings)
        yield one
        one.page.context.close()
    assert one.problems == []
    assert [url for url in one.asked if not url.startswith((f"http://127.0.0.1:{settings.port}/", "data:", "blob:"))] == []
