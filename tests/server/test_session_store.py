import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from medical_sam2.errors import ConfigError
from medical_sam2.server import NotFound, state
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.rendering import list_session
from medical_sam2.server.security import ServerSettings
from medical_sam2.server.session_store import SessionStore
from tests.io.making import EXPORTER
from tests.server.conftest import Served


def filled(store: SessionStore, ct: Path) -> str:
    """A session with an image."""
    id = store.new()
    store.uploads.new_file(id, ".nii.gz").write_bytes(ct.read_bytes())
    store.open(id)
    return id


@pytest.mark.usefixtures("inline")
def test_results_in_a_format_of_ones_own(serve: Callable[..., Served], tmp_path: Path, ct: Path) -> None:
    """Known to who started the server; a client names suffixes alone."""
    (tmp_path / "exporter.py").write_text(EXPORTER)
    served = serve(formats=(f"{tmp_path / 'exporter.py'}:COUNTS",))
    id = served.upload(ct)
    menu = served.http.get(f"/api/sessions/{id}").json()["downloads"]
    more = {"seg.nrrd": "3D Slicer", "obj": "OBJ"}
    assert menu == {"nii.gz": "NIfTI", "nrrd": "NRRD", "mha": "MetaImage", **more, "counts": "counts", "csv": "Volumes (CSV)"}
    served.post(f"sessions/{id}/structures", version=0)
    gesture = {"plane": "axial", "t": 8, "kind": "points", "points": [[6, 5]], "positive": [True]}
    served.post(f"sessions/{id}/say", version=1, label=1, **gesture)
    served.post(f"sessions/{id}/track", version=2)
    assert "event: done" in served.http.get(f"/api/sessions/{id}/events").text
    answer = served.http.get(f"/api/sessions/{id}/download/counts")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/x; charset=utf-8")
    assert answer.json()["voxels"] > 0
    refusal = served.http.get(f"/api/sessions/{id}/download/absent").json()["error"]
    assert "choose nii.gz, nii, nrrd, mha, dcm, rtstruct.dcm, seg.nrrd, stl, ply, obj, counts or csv" in refusal


def test_sessions_outlive_the_server_and_uploads_that_broke_off_do_not(tmp_path: Path, queue: InferenceQueue, ct: Path) -> None:
    settings = ServerSettings(tmp_path / "state")
    store = SessionStore(settings, queue)
    id, broken = filled(store, ct), store.new()
    store.get(id).add_structure(0, "liver")
    store.close()
    again = SessionStore(settings, queue)
    assert again.ids() == [id]
    assert list(again.get(id).history.state.names.values()) == ["liver"]
    assert not (tmp_path / "state" / broken).exists()
    again.remove(id)
    with pytest.raises(NotFound):
        again.get(id)
    assert not (tmp_path / "state" / id).exists()


def test_two_servers_never_share_a_folder(tmp_path: Path, queue: InferenceQueue) -> None:
    first = SessionStore(ServerSettings(tmp_path / "state"), queue)
    with pytest.raises(ConfigError, match="another server"):
        SessionStore(ServerSettings(tmp_path / "state"), queue)
    first.close()
    SessionStore(ServerSettings(tmp_path / "state"), queue).close()


@pytest.mark.usefixtures("inline")
def test_memory_of_sessions_is_bounded(tmp_path: Path, queue: InferenceQueue, ct: Path) -> None:
    store = SessionStore(ServerSettings(tmp_path / "state", held_mb=0.001), queue)
    first, second = filled(store, ct), filled(store, ct)
    for id in (first, second):
        store.get(id).current_labels()
    store.get(second)
    assert store.get(second).memory_bytes > 0
    assert store._sessions[first].memory_bytes == 0


def test_the_page_says_how_sure_it_is_and_takes_what_it_is_given(serve: Callable[..., Served], ct: Path) -> None:
    """Frames, labels, uncertainty, rows and events of a session, as the page asks for them."""
    served = serve(library=ct)
    assert served.http.get("/api/about").json()["single"]
    id = served.post("sessions", library=0)["id"]
    info = served.post(f"sessions/{id}/open")
    frame = served.http.get(f"/api/sessions/{id}/frames/axial/3")
    assert len(frame.content) == 2 * 11 * 13
    assert (frame.headers["x-rows"], frame.headers["x-columns"]) == ("13", "11")
    assert info["extent"] == [float(frame.headers["x-low"]), float(frame.headers["x-high"])]
    served.post(f"sessions/{id}/structures", version=0)
    gesture = {"plane": "axial", "t": 8, "kind": "points", "points": [[6, 5]], "positive": [True]}
    served.post(f"sessions/{id}/say", version=1, label=1, **gesture)
    assert any(served.http.get(f"/api/sessions/{id}/labels/axial/8").content)
    assert served.http.get(f"/api/sessions/{id}/doubt/axial/8").status_code == 404
    served.post(f"sessions/{id}/track", version=2)
    told = served.http.get(f"/api/sessions/{id}/events").text
    assert told.count("event: frame") >= 10
    assert told.count("event: done") == 1
    assert len(served.http.get(f"/api/sessions/{id}/doubt/axial/8").content) == 11 * 13
    rows = served.http.get(f"/api/sessions/{id}/rows").json()
    assert [row["t"] for row in rows if row["said"]] == [8]
    assert served.http.get(f"/api/sessions/{id}/solid/labels.nii.gz").content[:2] == b"\x1f\x8b"
    for form, start in (("nii.gz", b"\x1f\x8b"), ("nrrd", b"NRRD"), ("csv", b"object,name")):
        assert served.http.get(f"/api/sessions/{id}/download/{form}").content.startswith(start)
    assert served.http.get(f"/api/sessions/{id}/download/dcm").status_code == 422
    assert served.http.get(f"/api/sessions/{id}/download/zip").status_code == 404


@pytest.mark.usefixtures("inline")
def test_a_session_is_listed_with_its_last_change_whenever_it_was_opened_again(
    tmp_path: Path, queue: InferenceQueue, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServerSettings(tmp_path / "state")
    store = SessionStore(settings, queue)
    id = filled(store, ct)
    assert abs(list_session(store, id)["changed"] - time.time()) < 60  # it was opened
    monkeypatch.setattr(state, "time", SimpleNamespace(time=lambda: 1_000_000_000.7))
    store.get(id).add_structure(0, "liver")
    monkeypatch.undo()
    assert list_session(store, id)["changed"] == 1_000_000_000
    journal = settings.state / id / "journal.jsonl"
    for changed in (1_000_000_000, 0):
        store.close()
        store = SessionStore(settings, queue)
        listed = list_session(store, id)
        assert (listed["changed"], listed["structures"]) == (changed, ["liver"])
        journal.write_text(re.sub(r',"at":\d+', "", journal.read_text()))  # as earlier versions wrote it
    store.close()
