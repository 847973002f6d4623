"""What breaks while sessions are kept: two requests at once, a full disk, damaged files, a clock that jumps."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from medical_sam2.server import worker_process
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from medical_sam2.server.session_store import SessionStore
from medical_sam2.server.worker_process import WorkerProcesses
from tests.server.conftest import Served
from tests.server.test_session_store import filled

pytestmark = pytest.mark.usefixtures("inline")


def uploaded(served: Served, ct: Path) -> str:
    """A session whose file has come and was not opened."""
    id = served.post("sessions")["id"]
    assert served.http.put(f"/api/sessions/{id}/files?suffix=.nii.gz", content=ct.read_bytes()).status_code == 200
    return id


def test_one_session_opened_twice_at_once(served: Served, ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One does it; the other is told so, and nothing that is mapped is written to."""
    begun, go, run, counted = threading.Event(), threading.Event(), WorkerProcesses.run, list[str]()

    def slow(children: WorkerProcesses, order: Mapping[str, Any]) -> Any:
        counted.append(order["do"])
        begun.set()
        assert go.wait(30)
        return run(children, order)

    monkeypatch.setattr(WorkerProcesses, "run", slow)
    id = uploaded(served, ct)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(served.http.post, f"/api/sessions/{id}/open", json={})
        assert begun.wait(30)
        assert served.http.post(f"/api/sessions/{id}/open", json={}).status_code == 409
        assert served.http.put(f"/api/sessions/{id}/files?suffix=.nii.gz", content=b"x").status_code == 409
        go.set()
        assert first.result(30).status_code == 200
    assert served.http.post(f"/api/sessions/{id}/open", json={}).status_code == 404  # it is no upload any more
    assert counted == ["decode"]
    assert served.http.get(f"/api/sessions/{id}/frames/axial/3").status_code == 200


def test_arrays_appear_whole_or_not_at_all(served: Served, ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that dies half way leaves nothing, and the file can be opened after all."""
    id, run = uploaded(served, ct), WorkerProcesses.run

    def broken(children: WorkerProcesses, order: Mapping[str, Any]) -> Any:
        run(children, order)
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(WorkerProcesses, "run", broken)
        assert served.http.post(f"/api/sessions/{id}/open", json={}).status_code == 507
    assert sorted(path.name for path in (served.settings.state / id).iterdir()) == ["reading.json", "source"]
    served.post(f"sessions/{id}/open")


def test_a_session_closed_while_it_is_opened(served: Served, ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    id, run = uploaded(served, ct), WorkerProcesses.run

    def closed(children: WorkerProcesses, order: Mapping[str, Any]) -> Any:
        served.store.remove(id)
        Path(order["target"]).parent.mkdir()
        run(children, order)
        for path in (Path(order["target"]), Path(order["target"]).parent):
            path.rename(served.settings.state / f"gone-{path.name}")

    monkeypatch.setattr(WorkerProcesses, "run", closed)
    assert served.http.post(f"/api/sessions/{id}/open", json={}).status_code in {404, 422}
    assert served.http.get("/api/sessions").json() == []


def test_files_that_come_at_once_have_names_of_their_own(served: Served) -> None:
    id = served.post("sessions")["id"]
    room = served.store.uploads.new_file
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: room(id, ".dcm"), range(40)))
    paths[3].unlink()  # an upload that broke off
    assert len({*paths, room(id, ".dcm")}) == 41
    put = f"/api/sessions/{id}/files?suffix=.hdr"
    assert [served.http.put(put, content=b"x").status_code for _ in range(2)] == [200, 409]


@pytest.mark.parametrize("how", ["meta", "array", "missing array", "journal", "missing line", "doubled line", "swapped lines"])
def test_a_damaged_session_is_listed_as_such_beside_the_others(
    serve: Callable[..., Served], tmp_path: Path, ct: Path, how: str
) -> None:
    state = tmp_path / "kept"
    served = serve(state=state)
    good, bad = served.upload(ct), served.upload(ct)
    for version in range(4):
        served.post(f"sessions/{bad}/structures", version=version)
    served.http.__exit__(None, None, None)
    folder = state / bad
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    new = {
        "missing line": lines[:1] + lines[2:],
        "doubled line": [*lines, lines[3]],
        "swapped lines": [*lines[1::-1], *lines[2:]],
    }
    if how == "meta":
        (folder / "decoded" / "meta.json").write_bytes(b'{"kind": "volume"')
    elif how == "array":
        (folder / "decoded" / "0.npy").write_bytes((folder / "decoded" / "0.npy").read_bytes()[:200])
    elif how == "missing array":
        (folder / "decoded" / "0.npy").unlink()
    else:
        journal.write_bytes(b"".join(new.get(how, [lines[0], b'{"version": 2, "kind"\n', *lines[2:]])))
    again = serve(state=state)
    listed = {each["id"]: each for each in again.http.get("/api/sessions").json()}
    assert set(listed) == {good, bad}
    assert "problem" not in listed[good]
    assert "remove it" in listed[bad]["problem"]
    answer = again.http.get(f"/api/sessions/{bad}")
    assert answer.status_code == 422
    assert "remove it" in answer.json()["error"]
    assert again.http.get(f"/api/sessions/{good}").status_code == 200
    assert again.http.delete(f"/api/sessions/{bad}").status_code == 200
    assert not folder.exists()


def test_a_result_that_is_damaged(serve: Callable[..., Served], tmp_path: Path, ct: Path) -> None:
    served = serve(state=tmp_path / "kept")
    id = served.upload(ct)
    served.post(f"sessions/{id}/structures", version=0)
    gesture = {"plane": "axial", "t": 8, "kind": "points", "points": [[6, 5]], "positive": [True]}
    served.post(f"sessions/{id}/say", version=1, label=1, **gesture)
    served.post(f"sessions/{id}/track", version=2)
    served.store.get(id).job.wait(60)  # type: ignore[union-attr]
    served.http.__exit__(None, None, None)
    (tmp_path / "kept" / id / "results" / "1.npz").write_bytes(b"PK\x03\x04")
    again = serve(state=tmp_path / "kept")
    answer = again.http.get(f"/api/sessions/{id}")
    assert answer.status_code == 422
    assert "damaged" in answer.json()["error"]


def test_a_full_disk_is_said_and_nothing_is_changed(served: Served, ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing a file that comes, a step, and whatever a decoder leaves."""
    id, waiting = served.upload(ct), served.post("sessions")["id"]
    write, full = os.write, OSError(errno.ENOSPC, "No space left on device")

    def failing(file: int, data: bytes) -> int:
        if str(served.settings.state) in os.readlink(f"/proc/self/fd/{file}"):
            raise full
        return write(file, data)

    def no_room(*_: object, **__: object) -> None:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", failing)
        patched.setattr(WorkerProcesses, "run", no_room)
        for answer in (
            served.http.post(f"/api/sessions/{id}/structures", json={"version": 0}),
            served.http.put(f"/api/sessions/{waiting}/files?suffix=.nii.gz", content=ct.read_bytes()),
        ):
            assert answer.status_code == 507
            assert "disk is full" in answer.json()["error"]
        assert list((served.settings.state / waiting / "source").iterdir()) == []
    assert served.post(f"sessions/{id}/structures", version=0)["version"] == 1


def test_a_decoder_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Mapping[str, Any]) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(worker_process, "do", full)
    assert worker_process._answer({"do": "decode"}) == {
        "problem": "the disk is full; nothing was changed: free some space, and do it again",
        "status": 507,
        "choices": (),
    }


def test_a_defect_is_one_line(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("with /a/path and a name")

    monkeypatch.setattr(SessionStore, "ids", broken)
    answer = served.http.get("/api/sessions")
    assert answer.status_code == 500
    assert answer.json()["error"] == "this is a defect of medsam2; please report it"


def test_a_clock_that_jumps_removes_nothing(
    tmp_path: Path, queue: InferenceQueue, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards and backwards, while a server runs and between two of them; an upload that goes on, too."""
    settings, now, shift = ServerSettings(tmp_path / "state"), time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + shift[0])
    store = SessionStore(settings, queue)
    id, waiting = filled(store, ct), store.new()
    for jump in (8 * 86_400.0, -30 * 86_400.0, 365 * 86_400.0):
        shift[0] = jump
        store.remove_old()
        assert store.ids() == [id]
        assert store.uploads.is_waiting(waiting)
        assert (settings.state / waiting).is_dir()
        store.close()
        shift[0] = jump + 8 * 86_400.0
        store = SessionStore(settings, queue)
        assert store.ids() == [id]
        waiting = store.new()


def test_what_nobody_touched_for_days_is_removed(
    tmp_path: Path, queue: InferenceQueue, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days are those that a server saw pass; whoever changes something begins them anew."""
    now, passed = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now() + passed[0])
    store = SessionStore(ServerSettings(tmp_path / "state", keep_days=2), queue)
    idle, used = filled(store, ct), filled(store, ct)
    store.remove_old()
    for passed[0] in (1.5 * 86_400, 3 * 86_400):
        store.get(used).add_structure(store.get(used).history.version)
        store.remove_old()
    assert store.ids() == [used]
    assert not (tmp_path / "state" / idle).exists()


def test_days_without_a_server_count_for_one(
    tmp_path: Path, queue: InferenceQueue, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, now, off = ServerSettings(tmp_path / "state", keep_days=2.5), time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + off[0])
    store = SessionStore(settings, queue)
    id = filled(store, ct)
    store.remove_old()
    for off[0] in (3 * 86_400.0, 6 * 86_400.0, 9 * 86_400.0):
        assert store.ids() == [id]
        store.close()
        store = SessionStore(settings, queue)
    assert store.ids() == []


def test_a_journal_is_not_written_to_once_it_is_closed(served: Served, ct: Path, tmp_path: Path) -> None:
    """Its file's number may belong to another file by then."""
    session = served.store.get(served.upload(ct))
    session.close()
    with (tmp_path / "other").open("wb"):
        with pytest.raises(OSError, match="Bad file"):
            session.add_structure(0)
        assert (tmp_path / "other").read_bytes() == b""
    served.store._sessions.clear()
    assert json.loads(served.http.get("/api/sessions").text)[0]["structures"] == []
