"""The protocols of other viewers, asked as their own clients ask."""

import gzip
import json
from collections.abc import Callable
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any, cast

import httpx
import nibabel as nib
import numpy as np
import pytest
from nnInteractive.inference.remote import SessionExpiredError, nnInteractiveRemoteInferenceSession
from nnInteractive.inference.remote.serialization import pack_array, unpack_array
from numpy.typing import NDArray

from medical_sam2.prompts import Box, Point
from medical_sam2.server import Refusal, nninteractive
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from medical_sam2.volume import Volume
from tests.phantoms import Phantom, directions, phantom, segmenter
from tests.server.browsing import running
from tests.server.conftest import TOKEN, Served, saved

MONAI = f"/monai/{TOKEN}"
LIMIT = "----------lImIt_of_THE_fIle_eW_$"

pytestmark = pytest.mark.usefixtures("inline")


def multipart(fields: dict[str, str], files: dict[str, Path]) -> dict[str, Any]:
    """A form as MONAI Label's client.py writes it: all in one body, with this boundary and its length."""
    lines: list[bytes] = []
    for key, value in fields.items():
        lines += [f"--{LIMIT}".encode(), f'Content-Disposition: form-data; name="{key}"'.encode(), b"", value.encode()]
    for key, path in files.items():
        disposition = f'Content-Disposition: form-data; name="{key}"; filename="{path}"'
        lines += [
            f"--{LIMIT}".encode(),
            disposition.encode(),
            b"Content-Type: application/octet-stream",
            b"",
            path.read_bytes(),
        ]
    body = b"\r\n".join([*lines, f"--{LIMIT}--".encode(), b"", b""])
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary={LIMIT}"}}


def parts(answer: httpx.Response) -> dict[str, Message]:
    """A multipart answer, by name."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    found = cast("list[Message]", BytesParser().parsebytes(head + answer.content).get_payload())
    return {str(part.get_param("name", header="content-disposition")): part for part in found}


def test_monai_label_as_3d_slicer_asks(served: Served, ct: Path, tmp_path: Path) -> None:
    """info, a session with the image, clicks, the label map, and the session is closed."""
    case = phantom("LPS")
    info = served.http.get(f"{MONAI}/info/").json()
    model, _ = info["models"]
    assert info["models"][model]["type"] == "deepgrow"
    with ct.open("rb") as file:
        made = served.http.put(f"{MONAI}/session/", files=[("files", (ct.name, file))], data={"client_id": "user-xyz"})
    assert made.status_code == 200, made.text
    session = made.json()["session_id"]
    assert served.http.get(f"{MONAI}/session/{session}").status_code == 200
    params = {"foreground": [list(case.voxel(1))], "background": [], "result_extension": ".nrrd", "client_id": "user-xyz"}
    answer = served.http.post(
        f"{MONAI}/infer/{model}?image={session}&session_id={session}", **multipart({"params": json.dumps(params)}, {})
    )
    assert answer.status_code == 200, answer.text
    found = parts(cast("httpx.Response", answer))
    assert json.loads(cast("bytes", found["params"].get_payload(decode=True)))["label_names"] == {"structure": 1}
    (tmp_path / "label.nrrd").write_bytes(cast("bytes", found["image"].get_payload(decode=True)))
    expected = segmenter().segment_volume(case.volume, [Point(case.voxel(1))])
    from medical_sam2 import io

    assert (io.load_labels(tmp_path / "label.nrrd", io.load(ct)).array == expected.labels).all()
    assert served.http.delete(f"{MONAI}/session/{session}").status_code == 200
    assert served.http.get(f"{MONAI}/session/{session}").status_code == 404


def test_monai_label_with_the_file_in_the_request(served: Served, ct: Path) -> None:
    case = phantom("LPS")
    params = {"foreground": [list(case.voxel(1))], "result_extension": ".nii.gz"}
    answer = served.http.post(
        f"{MONAI}/infer/medical_sam2?image=x&output=image", **multipart({"params": json.dumps(params)}, {"file": ct})
    )
    assert answer.status_code == 200, answer.text
    labels = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(answer.content)).dataobj)
    assert (labels == segmenter().segment_volume(case.volume, [Point(case.voxel(1))]).labels).all()
    assert served.http.get("/api/sessions").json() == []


def test_monai_label_from_the_library(serve: Callable[..., Served], tmp_path: Path) -> None:
    case = phantom("RAS")
    (tmp_path / "library").mkdir()
    saved(case, tmp_path / "library" / "a.nii.gz")
    served = serve(library=tmp_path / "library")
    sample = served.http.post(f"{MONAI}/activelearning/first", json={"client_id": "x"}).json()
    image = served.http.get(f"{MONAI}/datastore/image?image={sample['id']}")
    assert image.content == (tmp_path / "library" / "a.nii.gz").read_bytes()
    params = {"params": json.dumps({"foreground": [list(case.voxel(1))], "background": []})}
    for _ in range(2):
        answer = served.http.post(f"{MONAI}/infer/medical_sam2?image={sample['id']}", **multipart(params, {}))
        assert answer.status_code == 200, answer.text
    assert len(served.http.get("/api/sessions").json()) == 1


@pytest.mark.parametrize(
    ("query", "params", "status"),
    [
        ("other?image=0", {"foreground": [[1, 1, 1]]}, 404),
        ("medical_sam2?image=/etc/passwd", {"foreground": [[1, 1, 1]]}, 404),
        ("medical_sam2?image=99", {"foreground": [[1, 1, 1]]}, 404),
        ("medical_sam2?session_id=../..", {"foreground": [[1, 1, 1]]}, 404),
        ("medical_sam2?session_id=SESSION", {"foreground": []}, 422),
        ("medical_sam2?session_id=SESSION", {"foreground": [[1, 1]]}, 422),
        ("medical_sam2?session_id=SESSION", {"foreground": [[1, 1, 999]]}, 422),
        ("medical_sam2?session_id=SESSION", [], 422),
        ("medical_sam2?session_id=SESSION", {"roi": [1, 2, 3]}, 422),
        ("medical_sam2?session_id=SESSION", {"roi": [50, 60, 0, 5, 0, 5]}, 422),
        ("medical_sam2?session_id=SESSION", {"foreground": [[1, 1, 1]], "label_info": [{"name": "x"}]}, 422),
        ("medical_sam2?session_id=SESSION", {"background": [[1, 1, 1]]}, 422),
    ],
)
def test_monai_label_refuses(shared: Served, ct: Path, query: str, params: object, status: int) -> None:
    id = shared.upload(ct)
    form = multipart({"params": json.dumps(params)}, {})
    assert shared.http.post(f"{MONAI}/infer/{query.replace('SESSION', id)}", **form).status_code == status


def _inferred(served: Served, session: str, params: dict[str, Any], label: Path | None = None, model: str = "") -> Any:
    """The labels that 3D Slicer gets: clicks, or scribbles in a label map with what its segments are called."""
    url = f"{MONAI}/infer/{model or 'medical_sam2'}?image={session}&session_id={session}&output=image"
    params = {**params, "result_extension": ".nii.gz", "result_dtype": "uint8", "client_id": "user-xyz"}
    answer = served.http.post(url, **multipart({"params": json.dumps(params)}, {"label": label} if label else {}))
    assert answer.status_code == 200, answer.text
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(answer.content)).dataobj)


def test_monai_label_finds_within_a_region_of_interest(served: Served, ct: Path) -> None:
    case, session = phantom("LPS"), served.upload(ct)
    inside = np.zeros(case.volume.shape, bool)
    inside[3:8, 3:9, 6:10] = True
    click = {"foreground": [list(case.voxel(1))], "background": []}
    alone = _inferred(served, session, click)
    assert (_inferred(served, session, {**click, "roi": [7, 3, 8, 3, 6, 9]}) == alone * inside).all()
    box = segmenter().segment_volume(case.volume, [Box((3, 3, 6), (7, 8, 9))]).labels
    assert (_inferred(served, session, {"foreground": [], "roi": [7.2, 3, 8, 3, 6, 9]}) == box).all()
    assert _inferred(served, session, {"roi": [-20, 40, -20, 40, -20, 40]}).any()
    assert (_inferred(served, session, {**click, "roi": []}) == alone).all()


def test_monai_label_corrects_the_label_that_comes_with_clicks(served: Served, ct: Path, tmp_path: Path) -> None:
    case, session = phantom("LPS"), served.upload(ct)
    given = np.where(case.truth == 1, 3, case.truth).astype(np.uint8)
    from medical_sam2 import io

    io.save(given, tmp_path / "label.nii.gz", case.volume)
    params: dict[str, Any] = {"foreground": [], "background": [list(case.voxel(1))], "label": "liver"}
    params["label_info"] = [{"name": "spleen", "id": 2}, {"name": "liver", "id": 3}]
    found = _inferred(served, session, params, tmp_path / "label.nii.gz")
    click = Point(case.voxel(1), positive=False)
    earlier = (given == 3).astype(np.uint8)
    assert (found == segmenter().segment_volume(case.volume, [click], earlier=earlier).labels).all()
    assert 0 < found.sum() < earlier.sum()


def test_monai_label_follows_scribbles_as_3d_slicer_sends_them(served: Served, ct: Path, tmp_path: Path) -> None:
    """All segments in one label map, values from 1; `label_info` tells which of them are scribbles."""
    case, session = phantom("LPS"), served.upload(ct)
    info = served.http.get(f"{MONAI}/info/").json()["models"]
    assert info["medical_sam2_scribbles"]["type"] == "scribbles"
    drawn, voxel = np.zeros(case.volume.shape, np.uint8), tuple(int(i) for i in case.voxel(1))
    drawn[voxel[0], voxel[1] - 1 : voxel[1] + 2, voxel[2]] = 3
    drawn[0:2, 0:5, voxel[2]] = 2
    drawn[voxel[0], voxel[1] + 2, voxel[2]] = 2  # inside of what is as bright
    from medical_sam2 import io

    io.save(drawn, tmp_path / "scribbles.nii.gz", case.volume)
    names = ("structure", "background_scribbles", "foreground_scribbles")
    params: dict[str, Any] = {"roi": [], "selected_label_name": "structure"}
    params["label_info"] = [{"name": name, "id": number} for number, name in enumerate(names, 1)]
    found = _inferred(served, session, params, tmp_path / "scribbles.nii.gz", "medical_sam2_scribbles")
    assert found[drawn == 3].all()
    assert not found[drawn == 2].any()
    assert found.sum() > 100


def _draw_by_hand(client: Any, case: Phantom, target: NDArray[np.uint8]) -> None:
    """Lassos, scribbles, boxes in 3D: the answer follows what they settle."""
    lasso = np.zeros(case.volume.shape, np.uint8)
    lasso[4:7, 5:9, 8] = 1
    client.add_lasso_interaction(lasso, include_interaction=True)
    assert (target[:, :, 8] == lasso[:, :, 8]).all()
    drawn = np.zeros(case.volume.shape, np.uint8)
    drawn[3:8, 2, 8] = 1
    client.add_scribble_interaction(drawn, include_interaction=True)
    assert target[3:8, 2, 8].all()
    client.add_scribble_interaction(drawn, include_interaction=False)
    assert not target[3:8, 2, 8].any()
    client.add_lasso_interaction(lasso, include_interaction=False)
    assert not target[4:7, 5:9, 8].any()
    client.reset_interactions()
    client.add_bbox_interaction([[4, 7], [5, 9], [6, 10]], include_interaction=True)
    inside = np.zeros(case.volume.shape, bool)
    inside[4:7, 5:9, 6:10] = True
    assert ((target > 0) == inside).all()
    client.add_bbox_interaction([[4, 7], [5, 9], [9, 10]], include_interaction=False)
    inside[:, :, 9] = False
    assert ((target > 0) == inside).all()


def test_nninteractive_by_its_own_client(tmp_path: Path, queue: InferenceQueue) -> None:
    case = phantom("RAS")
    with running(ServerSettings(tmp_path / "state", token=TOKEN), queue) as found:
        url = f"http://127.0.0.1:{found.port}/nninteractive"
        with nnInteractiveRemoteInferenceSession(url, api_key=TOKEN) as client:
            assert client.ping()
            assert client.supports_undo
            client.set_image(case.volume.array[None], {"spacing": np.array([1.0, 1.0, 1.0])})
            target = np.zeros(case.volume.shape, np.uint8)
            client.set_target_buffer(target)
            changed = client.add_point_interaction(tuple(int(x) for x in case.voxel(1)), include_interaction=True)
            affine = np.eye(4)
            affine[:3, :3] = directions("SPL")  # as the protocol's axes run
            image = Volume(case.volume.array, affine)
            expected = segmenter().segment_volume(image, [Point(case.voxel(1))]).labels
            assert (target == expected).all()
            assert changed == [[int(side.min()), int(side.max()) + 1] for side in np.nonzero(expected)]
            before = target.copy()
            low, high = (3, 4, 8), (8, 10, 9)
            client.add_bbox_interaction([list(side) for side in zip(low, high, strict=True)], include_interaction=True)
            corrected = segmenter().segment_volume(image, [Box(low, (7, 9, 8))], earlier=before).labels
            assert (target == corrected).all()
            assert client.undo()
            assert (target == before).all()
            client.reset_interactions()
            assert not target.any()
            _draw_by_hand(client, case, target)
            client.add_initial_seg_interaction(before)
            client.add_point_interaction((5, 6, 8), include_interaction=True, run_prediction=False)
            client._predict()
            assert target.any()
            with pytest.raises(httpx.HTTPStatusError):
                client.add_point_interaction((99, 0, 0), include_interaction=True)
            assert client.heartbeat() > 500
            client._http.headers["X-Lease-Token"] = "gone"
            with pytest.raises(SessionExpiredError):
                client.lease_status()
        with pytest.raises(httpx.HTTPStatusError):
            nnInteractiveRemoteInferenceSession(url, api_key="wrong")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "bool"])
def test_frames_are_those_of_the_client(dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(dtype)
    assert (nninteractive.unpack_array(pack_array(array), 60) == array).all()
    assert (unpack_array(nninteractive.pack_array(array)) == array).all()


def test_broken_frames_are_refused() -> None:
    good = pack_array(np.zeros((3, 4, 5), np.float32))
    forged = good.replace((5).to_bytes(8, "little"), (1 << 40).to_bytes(8, "little"), 1)
    for data in (
        b"",
        b"NNIA",
        good[:-5],
        b"XXXX" + good[4:],
        forged,
        good.replace(b"float32", b"object0"),
        good[:60] + bytes(40),
    ):
        with pytest.raises(Refusal):
            nninteractive.unpack_array(data, 100)
