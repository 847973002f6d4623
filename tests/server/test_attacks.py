"""Requests that must not work, one kind each; what is refused leaves nothing behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medical_sam2.cli import main
from medical_sam2.server.security import POLICY
from tests.server.conftest import TOKEN, Served

HOME = f"http://127.0.0.1:{8421}"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
WRONG = {"authorization": "Bearer wrong"}

pytestmark = pytest.mark.usefixtures("inline")


def stranger(served: Served) -> dict[str, Any]:
    """Somebody without a cookie."""
    served.http.cookies.clear()
    return {"follow_redirects": False}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8421"}, 403),
        ({"host": "127.0.0.1:9999"}, 403),
        ({"host": "127.0.0.1.evil.example:8421"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "file://"}, 403),
        ({"origin": f"{HOME}.evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_other_hosts_and_pages_from_elsewhere(shared: Served, headers: dict[str, str], status: int) -> None:
    for method, path in (("GET", "/api/about"), ("POST", "/api/sessions")):
        assert shared.http.request(method, path, headers=headers, json={}).status_code == status
    assert [path for path in shared.settings.state.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        WRONG,
        {"authorization": "Bearer "},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": "medsam2_8421=guess"},
        {"cookie": f"medsam2_8421={TOKEN}"},
        {"cookie": 'medsam2_8421="; =;;'},
    ],
)
def test_without_proof_of_being_let_in(shared: Served, headers: dict[str, str]) -> None:
    options = stranger(shared)
    for path in ("/", "/app.js", "/api/about", "/api/sessions", "/monai/info/", "/nninteractive/healthz", "/monai/guess/info/"):
        assert shared.http.get(path, headers=headers, **options).status_code == 401


def test_a_wrong_token_gives_no_cookie(shared: Served) -> None:
    options = stranger(shared)
    for token in ("wrong", "", TOKEN[:-1], TOKEN + "x"):
        answer = shared.http.get(f"/?token={token}", **options)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


def test_passwords_cannot_be_tried_out(serve: Callable[..., Served]) -> None:
    served = serve(password="correct horse")
    stranger(served)
    tries = [served.http.post("/login", data={"password": f"guess {i}"}).status_code for i in range(10)]
    assert set(tries) == {401, 429}
    assert tries[-1] == 429
    assert served.http.post("/login", data={"password": "correct horse"}).status_code == 429  # not even the right one, for now
    answer = served.http.post("/login", data={"password": "guess"}, headers=BROWSER, follow_redirects=False)
    assert answer.headers["location"] == "/login#later"


def test_a_person_who_was_not_let_in_is_told_so_in_words(shared: Served) -> None:
    """There is no password here: nobody is sent to the form."""
    stranger(shared)
    answer = shared.http.get("/", headers=BROWSER, follow_redirects=False)
    told = "open the address that `medsam2 serve` printed"
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (401, "text/plain; charset=utf-8", told)
    assert shared.http.get("/").json() == {"error": told}


def test_no_password_is_no_way_in(shared: Served) -> None:
    stranger(shared)
    assert shared.http.post("/login", data={"password": ""}).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/static/../../app.py",
        "/api/sessions/../../../../etc/passwd",
        "/api/sessions/..%5c..%5cwindows",
        "/api/sessions/%00",
        "//etc/passwd",
        "/app.js%00.html",
        "/source.sha256",
    ],
)
def test_paths_lead_nowhere(shared: Served, path: str) -> None:
    request = shared.http.build_request("GET", f"{HOME}/x")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = shared.http.send(request)
    assert answer.status_code in {400, 404}
    assert "root:" not in answer.text


@pytest.mark.parametrize("id", ["0" * 32, "..", "A" * 32, "0" * 31, "%2e%2e%2f"])
def test_ids_that_were_never_given(shared: Served, id: str) -> None:
    assert shared.http.get(f"/api/sessions/{id}").status_code in {400, 404}
    assert shared.http.delete(f"/api/sessions/{id}").status_code in {400, 404, 405}
    assert shared.settings.state.is_dir()


def test_a_session_folder_that_is_a_link(served: Served, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "decoded").mkdir(parents=True)
    (tmp_path / "elsewhere" / "decoded" / "meta.json").write_text("{}")
    (served.settings.state / ("a" * 32)).symlink_to(tmp_path / "elsewhere")
    assert served.http.get("/api/sessions").json() == []


@pytest.mark.parametrize("suffix", [".exe", "/../../x", ".nii.gz/..", "\x00", ".py", ".svg", "..", ".html"])
def test_suffixes_of_no_image(shared: Served, suffix: str) -> None:
    id = shared.post("sessions")["id"]
    answer = shared.http.put(f"/api/sessions/{id}/files", params={"suffix": suffix}, content=b"x")
    assert answer.status_code in {400, 422}
    assert list((shared.settings.state / id / "source").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "form"),
    [
        (
            "say",
            {"version": 1, "label": 1, "plane": "axial", "t": 3, "kind": "points", "points": [[1e400, 0]], "positive": [True]},
        ),
        ("say", {"version": 1, "label": 1, "plane": "../x", "t": 3, "kind": "points"}),
        ("say", {"version": 1, "label": 10**9, "plane": "axial", "t": 3, "kind": "points"}),
        ("say", {"version": 1, "label": 1, "plane": "axial", "t": 3, "kind": "mask", "runs": [0, 2**31 - 1]}),
        ("say", {"version": 1, "label": 1, "plane": "axial", "t": 3, "kind": "mask", "runs": [0, 1] * 200_000}),
        ("say", {"version": 1, "label": 1, "plane": "axial", "t": 3, "kind": "points", "points": [[1, 1]] * 65}),
        ("say", {"version": 1, "label": 1, "plane": "axial", "t": 3, "kind": "points", "extra": {"a": 1}}),
        ("structures", {"version": 1, "name": "x" * 10_000}),
        ("structures", {"version": 1, "colour": "red;background:url(//evil)"}),
        ("structures", {"version": -1}),
        ("structures", {"version": "1; DROP"}),
        ("track", {"version": 1, "views": "os.system"}),
        ("open", {"frame": -1}),
        ("open", {"series": "1.2.3"}),
    ],
)
def test_malformed_forms(shared: Served, ct: Path, path: str, form: dict[str, Any]) -> None:
    id = shared.upload(ct)
    shared.post(f"sessions/{id}/structures", version=0)
    answer = shared.http.post(
        f"/api/sessions/{id}/{path}", content=json.dumps(form), headers={"content-type": "application/json"}
    )
    assert answer.status_code in {404, 422}
    assert shared.http.get(f"/api/sessions/{id}").json()["state"]["version"] == 1


@pytest.mark.parametrize(
    ("path", "form", "said"),
    [
        ("structures/1", {"value": 65_536}, "Number in files: give a whole number from 1 to 65,535"),
        ("structures/1", {"value": None}, "Number in files: give a whole number from 1 to 65,535"),
        ("structures/1/finish", {"smooth_mm": -1}, "Smooth (mm): give a number from 0 to 100"),
        ("structures/1/finish", {"grow_mm": 1e9}, "Grow (mm): give a number from -100 to 100"),
        ("structures/1/finish", {"min_volume_ml": "<b>"}, "Least part (mL): give a number from 0 to 100,000"),
        ("structures/1/finish", {"extra": 1}, "the request is malformed"),
    ],
)
def test_a_number_is_refused_by_its_name_and_limits(
    shared: Served, ct: Path, path: str, form: dict[str, Any], said: str
) -> None:
    id = shared.upload(ct)
    shared.post(f"sessions/{id}/structures", version=0)
    answer = shared.http.post(f"/api/sessions/{id}/{path}", json={"version": 1, **form})
    assert (answer.status_code, answer.json()["error"]) == (422, said)


def test_deep_json(shared: Served, ct: Path) -> None:
    id = shared.upload(ct)
    body = "[" * 100_000 + "]" * 100_000
    answer = shared.http.post(f"/api/sessions/{id}/undo", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}


def test_a_name_that_is_a_script_stays_a_name(shared: Served, ct: Path) -> None:
    """The answer says what it is, and that nobody may guess otherwise; the page puts names in as text."""
    id = shared.upload(ct)
    name = "<img src=x onerror=alert(1)>\n\x1b[31m"
    state = shared.post(f"sessions/{id}/structures", version=0, name=name)
    assert state["structures"][0]["name"] == "<img src=x onerror=alert(1)> [31m"
    answer = shared.http.get(f"/api/sessions/{id}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_answer_carries_its_headers(shared: Served) -> None:
    for path in ("/", "/login", "/app.js", "/api/about", "/nothing", "/api/sessions/x"):
        headers = shared.http.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert "server" not in headers
    assert "unsafe" not in POLICY


def test_the_cookie_is_kept_from_scripts_and_other_sites(shared: Served) -> None:
    answer = shared.http.get(f"/?token={TOKEN}", follow_redirects=False)
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=Strict" in answer.headers["set-cookie"]
    assert answer.headers["location"] == "/"


def test_methods_that_nobody_offers(shared: Served) -> None:
    for method in ("TRACE", "CONNECT", "PATCH", "PROPFIND"):
        assert shared.http.request(method, "/api/about").status_code in {404, 405}


def test_preflights_of_pages_from_elsewhere(serve: Callable[..., Served]) -> None:
    served = serve(origins=("https://viewer.example",))
    asked = {"origin": "https://viewer.example", "access-control-request-method": "POST"}
    good = served.http.options(f"/monai/{TOKEN}/infer/x", headers=asked)
    assert good.headers["access-control-allow-origin"] == "https://viewer.example"
    assert "access-control-allow-credentials" not in good.headers
    assert served.http.options("/api/sessions", headers=asked).status_code == 403
    assert served.http.options(f"/monai/{TOKEN}/x", headers={**asked, "origin": "https://evil.example"}).status_code == 403


def test_files_of_the_state_are_for_their_owner(shared: Served, ct: Path) -> None:
    id = shared.upload(ct)
    folder = shared.settings.state / id
    assert [oct(path.stat().st_mode & 0o077) for path in (folder, folder / "source", next((folder / "source").iterdir()))] == [
        "0o0"
    ] * 3


def test_nothing_of_a_patient_in_logs_or_names(shared: Served, ct: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = ct.rename(ct.with_name("Doe^Jane.nii.gz"))
    with caplog.at_level("DEBUG"):
        id = shared.upload(named)
        shared.post(f"sessions/{id}/structures", version=0, name="Jane's tumour")
    assert "Jane" not in caplog.text
    assert not any("Jane" in str(path) for path in shared.settings.state.rglob("*"))


def test_elsewhere_only_with_a_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MEDSAM2_PASSWORD", raising=False)
    assert main(["serve", "--host", "0.0.0.0", "--state", str(tmp_path)]) == 2
    assert "there is no password" in capsys.readouterr().err
    (tmp_path / "short").write_text("1234")
    assert main(["serve", "--host", "0.0.0.0", "--password-file", str(tmp_path / "short")]) == 2
    assert "shorter than 8" in capsys.readouterr().err
