"""Requests of a wrong shape, to every route: the answer is 4xx with one line, never a defect."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnInteractive.inference.remote.serialization import pack_array

from tests.phantoms import phantom
from tests.server.conftest import TOKEN, Served, saved

pytestmark = pytest.mark.usefixtures("inline")
MONAI, REMOTE = f"/monai/{TOKEN}", f"/nninteractive/{TOKEN}"
DEEP = "[" * 20_000 + "]" * 20_000
ODD: list[Any] = [None, True, -1, 1e308, 10**400, "\ud800", "²", [], [[]], {}, {"a": {"b": []}}, [None] * 3, ["x", "y", "z"]]
UNKNOWN = "0" * 32


def refused(answer: Any, *, may_work: bool = False) -> None:
    """4xx, and one line that says why."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        (line,) = answer.json()["error"].splitlines()
        assert line
    else:
        assert may_work, answer.text


@pytest.fixture
def leased(shared: Served) -> Iterator[dict[str, str]]:
    """Headers of a client of nnInteractive's with an image."""
    token = {"X-Lease-Token": shared.http.post(f"{REMOTE}/claim").json()["lease_token"]}
    image = pack_array(np.zeros((1, 4, 5, 6), np.float32))
    assert shared.http.post(f"{REMOTE}/set_image", content=image, headers=token).status_code == 200
    yield token
    assert shared.http.post(f"{REMOTE}/release", headers=token).status_code == 200


ROUTES = (
    ("/api/sessions", "library"),
    ("/api/sessions/ID/open", "frame"),
    ("/api/sessions/ID/structures", "name"),
    ("/api/sessions/ID/structures/1", "colour"),
    ("/api/sessions/ID/structures/1/remove", "version"),
    ("/api/sessions/ID/say", "points"),
    ("/api/sessions/ID/say", "runs"),
    ("/api/sessions/ID/undo", "version"),
    ("/api/sessions/ID/track", "views"),
    ("/api/pacs/series", "patient"),
    ("/api/pacs/open", "number"),
    (f"{REMOTE}/set_target_buffer", "shape"),
    (f"{REMOTE}/set_do_autozoom", "do_autozoom"),
    (f"{REMOTE}/add_point_interaction", "coordinates"),
    (f"{REMOTE}/add_bbox_interaction", "bbox_coords"),
    (f"{MONAI}/activelearning/first", "client_id"),
)


def test_wrong_types_and_depths(shared: Served, leased: dict[str, str], ct: Path) -> None:
    id = shared.upload(ct)
    kind = {"content-type": "application/json", **leased}
    for path, field in ROUTES:
        for value in ODD:
            whole = json.dumps(value)
            for body in (whole, json.dumps({"version": 0, field: value})):
                refused(shared.http.post(path.replace("ID", id), content=body, headers=kind), may_work=True)
        for body in (DEEP, f'{{"{field}": {DEEP}}}', "{", "\xff", f'{{"version": NaN, "{field}": NaN}}', "9" * 5_000):
            refused(shared.http.post(path.replace("ID", id), content=body.encode("latin-1"), headers=kind), may_work=True)


@pytest.mark.parametrize(
    "meta", ["", "[", "[]", "null", "1", DEEP[:15_000], '{"image_properties": []}', '{"image_properties": {"spacing": 1}}']
)
def test_odd_metadata(shared: Served, leased: dict[str, str], meta: str) -> None:
    image = pack_array(np.zeros((1, 4, 5, 6), np.float32))
    answer = shared.http.post(f"{REMOTE}/set_image", content=image, headers={**leased, "X-Meta": meta})
    refused(answer)
    outline = pack_array(np.ones((4, 5, 6), np.uint8))
    for sides in (
        "1",
        "[1]",
        "[[0, 4], [0, 5]]",
        "[[0, 4], [0, 5], [0, null]]",
        "[[-4, 4], [0, 5], [0, 6]]",
        "[[0, 1e400], [0], []]",
    ):
        headers = {**leased, "X-Meta": f'{{"interaction_bbox": {sides}}}'}
        refused(shared.http.post(f"{REMOTE}/add_lasso_interaction", content=outline, headers=headers))


@pytest.mark.parametrize(
    "spacing", [[0, 1, 1], [-1e5, 1, 1], [1, 1], ["x", 1, 1], [1, 1, float("nan")], {"a": 1}, [[1], [1], [1]]]
)
def test_odd_spacings(shared: Served, leased: dict[str, str], spacing: Any) -> None:
    image, meta = pack_array(np.zeros((1, 4, 5, 6), np.float32)), json.dumps({"image_properties": {"spacing": spacing}})
    refused(shared.http.post(f"{REMOTE}/set_image", content=image, headers={**leased, "X-Meta": meta}))


@pytest.mark.parametrize(
    "points", [*ODD[1:], {"0": 1}, [[1, 2, float("nan")]], [[1, 2, 10**400]], [[1, 1, 1]] * 1_001, "abc", DEEP]
)
def test_odd_clicks_of_monai_label(shared: Served, ct: Path, points: Any) -> None:
    id = shared.upload(ct)
    params = f'{{"foreground": {points}}}' if points is DEEP else json.dumps({"foreground": points})
    refused(shared.http.post(f"{MONAI}/infer/medical_sam2?session_id={id}", data={"params": params}))


@pytest.mark.parametrize(
    "roi", [1, "abc", [1], [1] * 7, [1, 2, 3, 4, 5, float("nan")], {"0": 1}, [[1, 2]] * 3, [90, 99, 0, 5, 0, 5]]
)
def test_odd_regions_of_monai_label(shared: Served, ct: Path, roi: Any) -> None:
    id, params = shared.upload(ct), json.dumps({"foreground": [[5, 6, 8]], "roi": roi})
    refused(shared.http.post(f"{MONAI}/infer/medical_sam2?session_id={id}", data={"params": params}))


@pytest.mark.parametrize(
    "info", [1, "abc", [1], [{"name": "liver"}], [{"id": 1}], [{"name": 1, "id": 1}], [{"name": "liver", "id": -1}]]
)
def test_odd_segments_of_monai_label(shared: Served, ct: Path, info: Any) -> None:
    id, params = shared.upload(ct), json.dumps({"foreground": [[5, 6, 8]], "label_info": info})
    form = {"data": {"params": params}, "files": {"label": ct.read_bytes()}}
    refused(shared.http.post(f"{MONAI}/infer/medical_sam2?session_id={id}", **form))


def test_digits_that_are_no_numbers(serve: Callable[..., Served], tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    saved(phantom(), tmp_path / "library" / "a.nii.gz")
    served = serve(library=tmp_path / "library")
    for digit in ("%C2%B2", "%D9%A0", "%EF%BC%90", "-0", "0x0", "9" * 60):
        for answer in (
            served.http.get(f"{MONAI}/datastore/image?image={digit}"),
            served.http.post(f"{MONAI}/infer/medical_sam2?image={digit}", data={"params": '{"foreground": [[1, 1, 1]]}'}),
        ):
            assert answer.status_code == 404, digit
            refused(answer)
    for length in (b"\xb2", b"9" * 5_000, b"-1", b"1e3"):
        refused(served.http.post("/api/sessions", content=b"{}", headers={b"content-length": length}))


def test_unknown_sessions_everywhere(shared: Served) -> None:
    """Whatever is asked of a session that is not there: 404, before anything is answered."""
    asked = [
        ("GET", ""), ("DELETE", ""), ("GET", "/rows"), ("GET", "/events"), ("GET", "/prompts"), ("GET", "/options"),
        ("GET", "/download/csv"), ("GET", "/frames/axial/0"),
        ("GET", "/labels/axial/0"), ("GET", "/doubt/axial/0"), ("GET", "/solid/image.nii.gz"), ("POST", "/cancel"),
        ("POST", "/push"),        ("POST", "/open"), ("POST", "/structures"), ("POST", "/structures/1"),
        ("POST", "/structures/1/remove"),
        ("POST", "/undo"),        ("POST", "/redo"), ("POST", "/track"), ("PUT", "/files?suffix=.dcm"),
    ]  # fmt: skip
    for method, rest in asked:
        form = {} if rest in {"/open", "/cancel"} else {"version": 0}
        options = {"json": form} if method == "POST" else {}
        answer = shared.http.request(method, f"/api/sessions/{UNKNOWN}{rest}", **options)
        assert answer.status_code == 404, (method, rest, answer.text)
        refused(answer)
    refused(shared.http.get("/api/nothing/of/the/kind"))
    refused(shared.http.post("/api/about"))
