"""A server for several people: users, links for looking alone, an audit file, a reverse proxy before it."""

import json
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from nnInteractive.inference.remote.serialization import pack_array
from playwright.sync_api import Browser

from medical_sam2.cli import main
from medical_sam2.errors import InputError
from medical_sam2.server import users
from medical_sam2.server.app import AUDIT_FILE
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from medical_sam2.server.users import hash_password, is_known, read_users
from tests.phantoms import phantom, segmenter
from tests.server.browsing import running
from tests.server.conftest import TOKEN, Served, saved
from tests.server.test_protocols import multipart

pytestmark = pytest.mark.usefixtures("inline")
PASSWORDS = {"anna": "correct horse", "ben": "battery staple"}
LINK = "token-for-looking"


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return {name: hash_password(password) for name, password in PASSWORDS.items()}


def sign_in(served: Served, name: str, password: str) -> Any:
    """As the page's form is sent."""
    served.http.cookies.clear()
    return served.http.post("/login", data={"name": name, "password": password}, follow_redirects=False)


def lines(served: Served) -> Sequence[Mapping[str, Any]]:
    """What the audit file says."""
    path = served.settings.state / AUDIT_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_user_has_a_password(serve: Callable[..., Served], known: dict[str, Any]) -> None:
    served = serve(users=known)
    assert sign_in(served, "anna", PASSWORDS["anna"]).status_code == 303
    assert served.http.get("/api/sessions").status_code == 200
    for name, password in (("anna", PASSWORDS["ben"]), ("carl", PASSWORDS["ben"]), ("", PASSWORDS["ben"]), ("anna", "")):
        assert sign_in(served, name, password).status_code == 401
        assert served.http.get("/api/sessions").status_code == 401
    assert sign_in(served, "ben", PASSWORDS["ben"]).status_code == 303
    stolen = "; ".join(f"{name}={value}" for name, value in served.http.cookies.items())
    other = serve(users=known)
    other.http.cookies.clear()
    assert other.http.get("/api/sessions", headers={"cookie": stolen}).status_code == 401  # of another server


def test_the_form_in_a_browser(browser: Browser, tmp_path: Path, known: dict[str, Any]) -> None:
    with running(
        ServerSettings(tmp_path / "state", token=TOKEN, users=known, root_path="/sam"), InferenceQueue(segmenter)
    ) as settings:
        page = browser.new_context().new_page()
        page.goto(f"http://127.0.0.1:{settings.port}/sam/login")
        page.fill("#name", "anna")
        page.fill("#password", PASSWORDS["anna"])
        page.click("button")
        page.wait_for_url("**/sam/")
        assert page.evaluate("fetch('api/sessions').then(answer => answer.status)") == 200
        page.context.close()


def test_passwords_of_users_cannot_be_tried_out(serve: Callable[..., Served], known: dict[str, Any]) -> None:
    served = serve(users=known)
    assert [sign_in(served, "anna", f"guess {i}").status_code for i in range(9)] == [401] * 8 + [429]
    assert sign_in(served, "anna", PASSWORDS["anna"]).status_code == 429


def test_a_right_password_does_not_count_as_a_wrong_one(serve: Callable[..., Served], known: dict[str, Any]) -> None:
    served = serve(users=known)
    assert {sign_in(served, "ben", PASSWORDS["ben"]).status_code for _ in range(10)} == {303}


def test_a_file_of_users(tmp_path: Path, known: dict[str, Any]) -> None:
    path = tmp_path / "users.txt"
    path.write_text("# the team\n\n" + "".join(f"{name}:{kept}\n" for name, kept in known.items()))
    path.chmod(0o600)
    assert read_users(path) == known
    assert PASSWORDS["anna"] not in path.read_text()
    assert hash_password("x" * 8) != hash_password("x" * 8)
    assert is_known(known, "anna", PASSWORDS["anna"])
    assert not is_known(known, "anna", PASSWORDS["ben"])
    assert not is_known(known, "nobody", "")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(InputError, match="others can read or change it"):
            read_users(path)


GOOD = str(hash_password("correct horse"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nobody\n",
        "anna:correct horse\n",
        f"anna {GOOD}\n",
        f"an/na:{GOOD}\n",
        f"token:{GOOD}\n",
        f"{'a' * 65}:{GOOD}\n",
        f"anna:{GOOD}\nanna:{GOOD}\n",
        f"anna:{GOOD.replace('$15$', '$40$')}\n",
        f"anna:{GOOD.replace('$15$', '$5$')}\n",
        f"anna:{GOOD.replace('$8$', '$99$')}\n",
        f"anna:{GOOD[:-8]}\n",
        "anna:scrypt$15$8$1$c2FsdA==$aGFzaA==\n",
    ],
    ids=range(13),
)
def test_files_that_name_no_users(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "users.txt"
    path.write_text(text)
    path.chmod(0o600)
    assert main(["serve", "--users", str(path), "--state", str(tmp_path / "state")]) == 2
    told = capsys.readouterr().err
    assert "line" in told or "names 0 users" in told or "the file is empty" in told
    assert GOOD.rpartition("$")[2] not in told


def test_a_line_of_a_user_is_made(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["users", "anna"])
    monkeypatch.setattr("getpass.getpass", lambda _: "correct horse")
    assert users.main() == 0
    path = tmp_path / "users.txt"
    path.write_text(capsys.readouterr().out)
    path.chmod(0o600)
    assert is_known(read_users(path), "anna", "correct horse")
    for name, password in (("an na", "correct horse"), ("link", "correct horse"), ("anna", "short")):
        monkeypatch.setattr("sys.argv", ["users", name])
        monkeypatch.setattr("getpass.getpass", lambda _, password=password: password)
        assert users.main() == 2
        assert capsys.readouterr().out == ""


def test_a_link_for_looking_alone(serve: Callable[..., Served], ct: Path, tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    served = serve(read_token=LINK, library=tmp_path / "library")
    id = served.upload(ct)
    served.post(f"sessions/{id}/structures", version=0, name="liver")
    before = served.http.get(f"/api/sessions/{id}").json()
    served.http.cookies.clear()
    assert served.http.get(f"/?token={LINK}", follow_redirects=False).status_code == 303
    assert served.http.get(f"/api/sessions/{id}").json() == before
    assert served.http.get(f"/api/sessions/{id}/frames/axial/3").status_code == 200
    for method, path, form in (
        ("POST", "/api/sessions", {}),
        ("POST", f"/api/sessions/{id}/structures", {"version": 1}),
        ("POST", f"/api/sessions/{id}/undo", {"version": 1}),
        ("POST", f"/api/sessions/{id}/cancel", {}),
        ("DELETE", f"/api/sessions/{id}", {}),
        ("PUT", f"/api/sessions/{id}/files", {}),
        ("POST", "/api/pacs/series", {"patient": "X"}),
        ("POST", "/nninteractive/claim", {}),
        ("GET", "/nninteractive/healthz", {}),
    ):
        answer = served.http.request(method, path, json=form)
        assert answer.status_code == 403, path
        assert "for looking alone" in answer.json()["error"]
    for path in (f"/monai/{LINK}/info/", f"/nninteractive/{LINK}/healthz", "/monai/info/"):
        assert served.http.get(path).status_code in {401, 403}
    assert served.http.get("/nninteractive/healthz", headers={"authorization": f"Bearer {LINK}"}).status_code == 403
    assert served.http.get(f"/api/sessions/{id}").json() == before
    served.http.cookies.clear()
    assert serve().http.get("/?token=", follow_redirects=False).status_code != 303  # no empty token lets in


def test_who_changed_what_is_noted(serve: Callable[..., Served], known: dict[str, Any], ct: Path, tmp_path: Path) -> None:
    """Once for each edit, before it is answered; nothing of what was refused or only looked at."""
    library = tmp_path / "library"
    library.mkdir()
    saved(phantom("LPS"), library / "Doe^Jane.nii.gz")
    served = serve(users=known, library=library)
    sign_in(served, "anna", PASSWORDS["anna"])
    id = served.upload(ct)
    served.post(f"sessions/{id}/structures", version=0, name="Doe^Jane liver")
    sign_in(served, "ben", PASSWORDS["ben"])
    points = {"plane": "axial", "t": 3, "kind": "points", "points": [[5.0, 5.0]], "positive": [True], "label": 1}
    served.post(f"sessions/{id}/say", version=1, **points)
    served.post(f"sessions/{id}/structures/1", version=2, name="spleen", colour="#102030")
    assert served.http.post(f"/api/sessions/{id}/undo", json={"version": 0}).status_code == 409
    assert served.http.get(f"/api/sessions/{id}").status_code == 200
    form = multipart({"params": "{}"}, {"label": saved_labels(tmp_path)})
    assert served.http.put(f"/monai/{TOKEN}/datastore/label?image=Doe^Jane", **form).status_code == 200
    lease = served.http.post("/nninteractive/claim").json()["lease_token"]
    image = pack_array(np.zeros((1, 4, 5, 6), np.float32))
    assert served.http.post("/nninteractive/set_image", content=image, headers={"X-Lease-Token": lease}).status_code == 200
    assert served.http.delete(f"/api/sessions/{id}").status_code == 200
    found = [{key: line[key] for key in line if key != "when"} for line in lines(served)]
    image_mark, lease_mark = found[6]["image"], found[7]["lease"]
    assert found == [
        {"who": "anna", "what": "new session"},
        {"who": "anna", "what": "files", "session": id},
        {"who": "anna", "what": "open", "session": id},
        {"who": "anna", "what": "structures", "session": id, "version": 0},
        {"who": "ben", "what": "say", "session": id, "version": 1, "label": 1},
        {"who": "ben", "what": "structures", "session": id, "version": 2, "label": 1},
        {"who": "token", "what": "datastore/label", "image": image_mark},
        {"who": "ben", "what": "set_image", "lease": lease_mark},
        {"who": "ben", "what": "remove", "session": id},
    ]
    text = (served.settings.state / AUDIT_FILE).read_text()
    assert all(word not in text for word in ("Doe", "Jane", "spleen", "phantom", lease, TOKEN))
    assert all(line["when"].endswith("+00:00") for line in lines(served))
    assert stat.S_IMODE((served.settings.state / AUDIT_FILE).stat().st_mode) == 0o600


def saved_labels(folder: Path) -> Path:
    from medical_sam2 import io

    io.save(phantom("LPS").truth, folder / "label.nii.gz", phantom("LPS").volume)
    return folder / "label.nii.gz"


def test_an_edit_that_cannot_be_noted_is_said(served: Served, ct: Path) -> None:
    id = served.upload(ct)
    (served.settings.state / AUDIT_FILE).unlink()
    (served.settings.state / AUDIT_FILE).symlink_to(served.settings.state / "elsewhere")
    answer = served.http.post(f"/api/sessions/{id}/structures", json={"version": 0})
    assert answer.status_code == 507
    assert "could not be noted" in answer.json()["error"]
    assert not (served.settings.state / "elsewhere").exists()


PROXY = {"x-forwarded-host": "clinic.example:8443", "x-forwarded-proto": "https", "host": "127.0.0.1:8421"}
ORIGIN = {"origin": "https://clinic.example:8443", "sec-fetch-site": "same-origin"}


def test_a_proxy_that_is_trusted(serve: Callable[..., Served]) -> None:
    """The test client's connections come from "testclient"."""
    served = serve(names=("clinic.example",), trusted_proxies=("testclient",), password="correct horse", root_path="/sam")
    served.http.cookies.clear()
    answer = served.http.post("/login", data={"password": "correct horse"}, headers={**PROXY, **ORIGIN}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sam/")
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("Path=/sam/", "; Secure", "HttpOnly", "SameSite=Strict"))
    proof = {"cookie": cookie.partition(";")[0]}
    for path in ("/api/about", "/sam/api/about", "/sam/", "/sam/app.css"):
        assert served.http.get(path, headers={**PROXY, **proof}).status_code == 200, path
    bare = served.http.get("/sam", headers={**PROXY, **proof}, follow_redirects=False)
    assert (bare.status_code, bare.headers["location"]) == (308, "/sam/")
    assert served.http.get(f"/sam/monai/{TOKEN}/info/", headers=PROXY).status_code == 200
    for headers, status in (
        ({"x-forwarded-host": "evil.example"}, 403),
        ({"x-forwarded-host": "evil.example, clinic.example"}, 403),
        ({"x-forwarded-proto": "https, http"}, 400),
        ({"origin": "https://evil.example"}, 403),
    ):
        assert served.http.get("/api/about", headers={**PROXY, **proof, **headers}).status_code == status, headers
    for path in ("/sam/../etc/passwd", "/sam//api/about", "/same/api/about"):
        request = served.http.build_request("GET", "http://127.0.0.1:8421/x", headers={**PROXY, **proof})
        request.url = request.url.copy_with(raw_path=path.encode())
        assert served.http.send(request).status_code in {400, 404}, path


def test_forwarded_headers_of_anybody_else_do_not_count(serve: Callable[..., Served]) -> None:
    served = serve(names=("clinic.example",), trusted_proxies=("192.0.2.7",))
    assert served.http.post("/api/pacs/series", json={}, headers={**PROXY, **ORIGIN}).status_code == 403
    evil = {"x-forwarded-host": "127.0.0.1:8421", "host": "evil.example"}
    assert served.http.get("/api/about", headers=evil).status_code == 403
    answer = served.http.get(f"/?token={TOKEN}", headers={"x-forwarded-proto": "https"}, follow_redirects=False)
    assert "Secure" not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trusted-proxy", "127.0.0.1"], "there is no password"),
        (["--host", "0.0.0.0"], "there is no password"),
        (["--root-path", "sam"], "--root-path is no path"),
        (["--root-path", "/../sam"], "--root-path is no path"),
        (["--root-path", "/a b"], "--root-path is no path"),
        (["--users", "/nowhere/users.txt"], "there is no such file"),
    ],
)
def test_settings_that_cannot_be(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDSAM2_PASSWORD", raising=False)
    assert main(["serve", *words, "--state", str(tmp_path / "state")]) == 2
    assert told in capsys.readouterr().err


def test_a_name_is_no_address_of_a_proxy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSAM2_PASSWORD", "correct horse")
    assert main(["serve", "--trusted-proxy", "proxy", "--state", str(tmp_path / "state")]) == 2
    assert "--trusted-proxy is no address" in capsys.readouterr().err


def test_the_command_line_sets_it_all_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: dict[str, Any]) -> None:
    started: list[ServerSettings] = []

    def run(settings: ServerSettings, queue: InferenceQueue, **options: object) -> None:
        started.append(settings)

    monkeypatch.setattr("medical_sam2.server.app.serve", run)
    path = tmp_path / "users.txt"
    path.write_text("".join(f"{name}:{kept}\n" for name, kept in known.items()))
    path.chmod(0o600)
    words = ["--users", str(path), "--trusted-proxy", "127.0.0.1", "--root-path", "/sam/", "--read-only-link"]
    assert main(["serve", *words, "--state", str(tmp_path / "state")]) == 0
    (one,) = started
    assert (one.users, one.trusted_proxies, one.root_path) == (known, ("127.0.0.1",), "/sam")
    assert len(one.read_token) >= 40
    assert one.read_token != one.token
    assert httpx.URL("https://x" + one.root_path).path == "/sam"
