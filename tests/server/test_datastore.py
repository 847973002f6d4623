"""A library as MONAI Label's datastore, asked as its client, 3D Slicer's module and OHIF's extension ask."""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch

from medical_sam2 import io
from medical_sam2.model.nano import nano
from medical_sam2.segmenter import Segmenter
from medical_sam2.server import Conflict, Refusal
from medical_sam2.server.datastore import DEPTHS, USEFUL, Datastore
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from medical_sam2.volume import Volume
from tests.io.making import Series
from tests.phantoms import phantom, segmenter
from tests.server.conftest import PORT, TOKEN, Served, entered, saved
from tests.server.test_protocols import MONAI, multipart

pytestmark = pytest.mark.usefixtures("inline")
IMAGE = phantom("LPS").volume
HOUNSFIELD = np.rint(np.asarray(phantom("RAS").volume.array, float) * 200).astype(np.int16)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A library of two volumes and a DICOM series."""
    home = tmp_path / "library"
    (home / "series").mkdir(parents=True)
    for name in ("liver 1.nii.gz", "liver 2.nrrd"):
        saved(phantom("LPS"), home / name)
    Series(phantom("RAS").volume.affine, HOUNSFIELD).write(home / "series", SeriesInstanceUID="1.2.3.4")
    return home


@pytest.fixture
def monai(serve: Callable[..., Served], home: Path) -> "Viewer":
    return Viewer(serve(library=home))


class Viewer:
    """A client of MONAI Label's.

    Args:
        served: the server.
    """

    def __init__(self, served: Served) -> None:
        self.served = served

    def ask(self, method: str, path: str, *, status: int = 200, **form: Any) -> Any:
        """The answer."""
        answer = self.served.http.request(method, f"{MONAI}{path}", **form)
        assert answer.status_code == status, answer.text
        return answer

    def save(self, image: str, label: Path, tag: str = "", *, status: int = 200, **params: Any) -> Any:
        """As save_label of client.py: a form with params and the file, the tag in the address where there is one."""
        query = f"?image={image}" + (f"&tag={tag}" if tag else "")
        form = multipart({"params": json.dumps({**params, "client_id": "user-xyz"})}, {"label": label})
        return self.ask("PUT", f"/datastore/label{query}", status=status, **form).json()

    def objects(self) -> Mapping[str, Any]:
        """As 3D Slicer's module looks for labels."""
        return self.ask("GET", "/datastore/?output=all").json()["objects"]


def labels(path: Path, value: int = 1) -> Path:
    """A label map of the phantom, as 3D Slicer sends it."""
    io.save(np.where(phantom("LPS").truth > 0, value, 0).astype(np.uint8), path, IMAGE)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_have_names_and_come_as_they_are(monai: Viewer, home: Path) -> None:
    sample = monai.ask("POST", "/activelearning/first", json={"client_id": "x"}).json()
    assert (sample["id"], sample["name"], sample["path"]) == ("liver 1", "liver 1.nii.gz", "")
    image = monai.ask("GET", f"/datastore/image?image={sample['id']}")
    assert image.content == (home / sample["name"]).read_bytes()
    assert sample["checksum"] == f"SHA256:{hashlib.sha256(image.content).hexdigest()}"
    assert 'filename="liver%201.nii.gz"' in image.headers["content-disposition"].replace("*=utf-8''", '="') + '"'
    assert {id: each["image"]["info"]["name"] for id, each in monai.objects().items()} == {
        "liver 1": "liver 1.nii.gz",
        "liver 2": "liver 2.nrrd",
        "series": "series.nii.gz",
    }
    monai.ask("HEAD", "/datastore/image?image=liver 2")
    monai.ask("HEAD", "/datastore/image?image=liver 3", status=404)
    assert monai.ask("GET", "/datastore/image/info?image=liver 2").json()["name"] == "liver 2.nrrd"


def test_a_series_is_sent_as_nifti(monai: Viewer, home: Path, tmp_path: Path) -> None:
    answer = monai.ask("GET", "/datastore/image?image=series")
    assert answer.headers["content-disposition"] == 'attachment; filename="series.nii.gz"'
    (tmp_path / "sent.nii.gz").write_bytes(answer.content)
    sent, known = io.load(tmp_path / "sent.nii.gz"), io.load(home / "series")
    assert (sent.array == known.array).all()
    assert np.allclose(sent.affine, known.affine)


def test_labels_are_kept_version_by_version(monai: Viewer, home: Path, tmp_path: Path) -> None:
    before = contents(home)
    segments = [{"name": "liver", "idx": 1}]
    for number in (1, 2):
        label = labels(tmp_path / "label.nii.gz", number)
        answer = monai.save("liver 1", label, label_info=segments, PatientName="SECRET")
        assert answer == {"image": "liver 1", "label": "liver 1", "version": number}
    after = contents(home)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {f"labels/final/liver 1.v{n}.{end}" for n in (1, 2) for end in ("nii.gz", "json")}
    assert after["labels/final/liver 1.v2.nii.gz"] == label.read_bytes() != after["labels/final/liver 1.v1.nii.gz"]
    assert b"SECRET" not in b"".join(after[name] for name in set(after) - set(before))
    assert monai.ask("GET", "/datastore/label?label=liver 1&tag=final").content == label.read_bytes()
    first = monai.ask("GET", "/datastore/label?label=liver 1.v1")
    assert first.content == after["labels/final/liver 1.v1.nii.gz"]
    monai.ask("HEAD", "/datastore/label?label=liver 1.v3", status=404)
    assert monai.ask("GET", "/datastore/label/info?label=liver 1").json() == {"label_info": segments}
    assert monai.objects()["liver 1"]["labels"] == {"final": {"ext": ".nii.gz", "info": {"label_info": segments, "version": 2}}}
    assert monai.ask("GET", "/datastore/?output=train").json() == [
        {"image": "liver 1.nii.gz", "label": "labels/final/liver 1.v2.nii.gz"}
    ]
    assert monai.ask("GET", "/info/").json()["datastore"] == {"total": 3, "completed": 1, "label_tags": {"final": 1}}
    assert monai.ask("POST", "/activelearning/first").json()["id"] == "liver 2"
    assert monai.served.http.get("/api/sessions").json()[0]["kind"] == "volume"  # of the image, none of a label
    assert len(monai.served.http.get("/api/sessions").json()) == 1


def test_labels_of_monai_label_itself_are_found(monai: Viewer, home: Path, tmp_path: Path) -> None:
    (home / "labels" / "original").mkdir(parents=True)
    labels(home / "labels" / "original" / "liver 1.nii.gz")
    assert monai.objects()["liver 1"]["labels"]["original"]["ext"] == ".nii.gz"
    sent = monai.ask("GET", "/datastore/label?label=liver 1&tag=original").content
    assert sent == (home / "labels" / "original" / "liver 1.nii.gz").read_bytes()
    monai.save("liver 1", labels(tmp_path / "a.nrrd"), "original")
    assert (home / "labels" / "original" / "liver 1.v1.nrrd").is_file()
    assert (home / "labels" / "original" / "liver 1.nii.gz").read_bytes() == sent


def test_what_is_no_label_of_the_image_is_refused(monai: Viewer, home: Path, tmp_path: Path) -> None:
    before = contents(home)
    moved = Volume(IMAGE.array, IMAGE.affine + np.array([[0, 0, 0, 5.0]] + [[0] * 4] * 3))
    io.save(phantom("LPS").truth, tmp_path / "moved.nii.gz", moved)
    io.save(IMAGE.array, tmp_path / "grey.nii.gz", IMAGE)
    good = labels(tmp_path / "label.nii.gz")
    (tmp_path / "label.bin").write_bytes(bytes(IMAGE.array.size))
    (tmp_path / "broken.nii.gz").write_bytes(good.read_bytes()[:50])
    for name in ("moved.nii.gz", "grey.nii.gz", "label.bin", "broken.nii.gz"):
        monai.save("liver 1", tmp_path / name, status=422)
    monai.save("liver 1", good, label_info=[{"name": "x"}], status=422)
    monai.save("nobody", good, status=404)
    assert contents(home) == before


@pytest.mark.parametrize(
    "name", ["../a", "..", "/etc/a", "a/../../b", "a\\b", ".hidden", "a\0b", "a\nb", " a", "a ", "-", "x" * 300]
)
def test_names_that_lead_elsewhere_are_refused(monai: Viewer, home: Path, tmp_path: Path, name: str) -> None:
    label, around = labels(tmp_path / "label.nii.gz"), contents(tmp_path)
    form = multipart({"params": "{}"}, {"label": label})
    for query in ({"image": "liver 1", "tag": name}, {"image": name}):
        answer = monai.served.http.put(f"{MONAI}/datastore/label", params=query, **form)
        assert answer.status_code in {404, 422}, query
    answer = monai.served.http.put(f"{MONAI}/datastore/image", params={"image": name}, **multipart({}, {"file": label}))
    assert answer.status_code == 422
    for query in ({"label": name}, {"label": "liver 1", "tag": name}):
        assert monai.served.http.get(f"{MONAI}/datastore/label", params=query).status_code in {404, 422}
    after = {path: data for path, data in contents(tmp_path).items() if not path.startswith("state")}
    assert after == {path: data for path, data in around.items() if not path.startswith("state")}


def test_no_link_of_the_labels_leads_out(monai: Viewer, home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    labels(outside / "liver 1.nii.gz")
    label = labels(tmp_path / "label.nii.gz")
    (home / "labels").symlink_to(outside.parent)
    monai.ask("GET", "/datastore/label?label=liver 1&tag=outside", status=404)
    monai.save("liver 1", label, "outside", status=403)
    (home / "labels").unlink()
    (home / "labels" / "final").mkdir(parents=True)
    (home / "labels" / "final" / "liver 1.nii.gz").symlink_to(outside / "liver 1.nii.gz")
    monai.ask("GET", "/datastore/label?label=liver 1", status=404)
    assert [path.name for path in outside.iterdir()] == ["liver 1.nii.gz"]


def test_an_image_is_added_and_nothing_is_written_over(monai: Viewer, home: Path, tmp_path: Path) -> None:
    """As upload_image of client.py sends it, by the old address and by the new one."""
    before, sent = contents(home), saved(phantom("RAS"), tmp_path / "tmpx1y2.nii.gz")
    form = multipart({"params": json.dumps({"client_id": "user-xyz"})}, {"file": sent})
    assert monai.ask("PUT", "/datastore/?image=4:%20T1", **form).json() == {"image": "4: T1"}
    assert (home / "4: T1.nii.gz").read_bytes() == sent.read_bytes()
    assert monai.ask("PUT", "/datastore/image?image=4:%20T1", **form).json() == {"image": "4: T1"}  # the same once more
    monai.ask("PUT", "/datastore/image?image=liver%201", status=409, **form)
    assert monai.ask("PUT", "/datastore/image", **multipart({}, {"file": sent})).json() == {"image": "tmpx1y2"}
    for name in ("notes.txt", "broken.nii.gz"):
        (tmp_path / name).write_bytes(b"x")
        monai.ask("PUT", "/datastore/image?image=a", status=422, **multipart({}, {"file": tmp_path / name}))
    assert {name: data for name, data in contents(home).items() if name in before} == before
    assert set(contents(home)) - set(before) == {"4: T1.nii.gz", "tmpx1y2.nii.gz"}


def test_without_a_folder_nothing_is_kept(serve: Callable[..., Served], tmp_path: Path) -> None:
    alone = saved(phantom("LPS"), tmp_path / "ct.nii.gz")
    viewer = Viewer(serve(library=alone))
    form = multipart({}, {"file": alone})
    assert "medsam2 serve FOLDER" in viewer.save("ct", labels(tmp_path / "label.nii.gz"), status=501)["error"]
    viewer.ask("PUT", "/datastore/image?image=a", status=501, **form)
    Viewer(serve()).ask("PUT", "/datastore/image?image=a", status=501, **form)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"ct.nii.gz", "label.nii.gz"}


def test_two_servers_take_different_numbers(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sees the library as it was before the other wrote."""
    one, other = Datastore(home), Datastore(home)
    image, label = one.get("liver 1"), labels(tmp_path / "label.nii.gz")
    (home / "labels" / "final").mkdir(parents=True)
    (home / "labels" / "final" / "liver 1.v1.json").touch()  # taken, and not yet written
    assert [each.save_label(image, "final", label, ".nii.gz", {}).version for each in (one, other, one)] == [2, 3, 4]
    with pytest.raises(Conflict):
        one.add_image("liver 1", label, ".nii.gz")
    monkeypatch.setattr("medical_sam2.server.datastore._read_name", lambda _: ("", 0))  # nothing of the other's is seen yet
    assert one.save_label(image, "final", label, ".nii.gz", {}).version == 5


def test_a_library_that_cannot_be_written_to(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datastore, label = Datastore(home), labels(tmp_path / "label.nii.gz")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(Refusal, match="cannot be written to") as refused:
        datastore.save_label(datastore.get("liver 1"), "final", label, ".nii.gz", {})
    assert refused.value.status == 403


def test_training_is_answered_as_where_there_is_none(monai: Viewer) -> None:
    for query in ("", "?check_if_running=true"):
        monai.ask("GET", f"/train/{query}", status=404)
    assert monai.ask("DELETE", "/train/").json() is None
    for path in ("/train/", "/train/medical_sam2"):
        assert "medsam2 finetune" in monai.ask("POST", path, json={"client_id": "x"}, status=404).json()["error"]


def test_a_model_without_a_name_is_the_first(monai: Viewer, tmp_path: Path) -> None:
    """3D Slicer's module asks so as soon as an image is there; then nothing is found, which the answer says."""
    case = phantom("LPS")
    click = multipart({"params": json.dumps({"foreground": [list(case.voxel(1))]})}, {})
    path = "?image=liver 1&output=image"
    named, unnamed = (monai.ask("POST", f"/infer/{name}{path}", **click).content for name in ("medical_sam2", ""))
    assert named == unnamed
    nothing = monai.ask("POST", "/infer/?image=liver 1&output=json", **multipart({"params": "{}"}, {})).json()
    assert "nothing says where" in nothing["warnings"][0]
    empty = monai.ask("POST", "/infer/?image=liver 1&output=image", **multipart({"params": "{}"}, {})).content
    (tmp_path / "empty.nrrd").write_bytes(empty)
    assert not io.load_labels(tmp_path / "empty.nrrd", IMAGE).array.any()
    monai.ask("POST", "/infer/medical_sam2?image=liver 1", status=422, **multipart({"params": "{}"}, {}))


def ohif(viewer: Viewer, series: str, voxel: list[int], *, status: int = 200) -> Any:
    """As MonaiLabelClient.js asks: a form with params alone, the answer as one NRRD."""
    params = {"foreground": [voxel], "background": [], "result_extension": ".nrrd", "result_dtype": "uint8"}
    params |= {"result_compress": False, "restore_label_idx": False}
    path = f"/infer/medical_sam2?image={series}&output=image"
    return viewer.ask("POST", path, status=status, files={"params": (None, json.dumps(params))})


def test_a_series_by_its_identifier_as_ohif_counts(monai: Viewer, home: Path, tmp_path: Path) -> None:
    """Its voxels are those of the volume that it makes of the series, and it takes the bytes of the answer in that order."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(home / "series"), "1.2.3.4"))
    seen = SimpleITK.GetArrayFromImage(reader.Execute())  # K J I
    inside = seen == seen[seen > 0.7 * seen.max()].min()
    k, j, i = (int(x) for x in np.argwhere(inside)[len(np.argwhere(inside)) // 2])
    for _ in range(2):
        (tmp_path / "found.nrrd").write_bytes(ohif(monai, "1.2.3.4", [i, j, k]).content)
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "found.nrrd")))
    assert found.shape == seen.shape
    assert found[k, j, i] == 1
    assert (seen[found > 0] > 0.7 * seen.max()).all()
    assert len(monai.served.http.get("/api/sessions").json()) == 1
    for other in ("1.2.3.5", "1.2.3.4.", "1" * 70, "../series"):
        ohif(monai, other, [i, j, k], status=404)


def test_the_answer_as_ohif_reads_it(monai: Viewer) -> None:
    """As MonaiLabelPanel of its extension for OHIF 3.9 does: clicks under the label's name, the whole answer taken for text."""
    (labels,) = {json.dumps(model["labels"]) for model in monai.ask("GET", "/info/").json()["models"].values()}
    assert json.loads(labels) == {"structure": 1}
    params = {"structure": [[5, 6, 8]], "result_extension": ".nrrd", "result_dtype": "uint16"}
    params |= {"result_compress": False, "restore_label_idx": False}
    path = "/infer/medical_sam2?image=1.2.3.4&output=all"
    answer = monai.ask("POST", path, files={"params": (None, json.dumps(params))})
    text = answer.content.decode("utf-8", "replace")
    parts = text.split("--" + answer.headers["content-type"].split("boundary=")[1])
    said = next(part for part in parts if "Content-Type: application/json" in part)
    sent = next(part for part in parts if "Content-Type: application/octet-stream" in part)
    nrrd = bytes(ord(char) for char in sent.split("\r\n\r\n")[1].rsplit("\r\n", 1)[0])
    head, body = nrrd.split(b"\n\n", 1)
    assert b"type: uint16\n" in head
    found = np.frombuffer(body, "<u2").reshape(HOUNSFIELD.shape, order="F")
    assert found[5, 6, 8] == 1
    number, *middle = json.loads(said[said.index("{") : said.rindex("}") + 1])["centroids"]["structure"]
    assert (number, found[tuple(middle)]) == (1, 1)
    packed = monai.ask("POST", path, files={"params": (None, json.dumps({**params, "result_compress": True}))}).content
    assert b"encoding: gzip\n" in packed


def test_a_series_that_comes_later_is_found(monai: Viewer, home: Path) -> None:
    ohif(monai, "1.2.9", [5, 6, 8], status=404)
    (home / "more").mkdir()
    Series(np.eye(4), HOUNSFIELD).write(home / "more", SeriesInstanceUID="1.2.9")
    ohif(monai, "1.2.9", [5, 6, 8])


def test_a_series_beside_files_of_the_library(serve: Callable[..., Served], tmp_path: Path) -> None:
    """A folder of DICOM files that is served itself, two series in it."""
    home = tmp_path / "library"
    home.mkdir()
    for number in (1, 2):
        Series(np.eye(4), HOUNSFIELD).write(home, names=f"{number}-{{:04d}}.dcm", SeriesInstanceUID=f"1.2.{number}")
    viewer = Viewer(serve(library=home))
    assert ohif(viewer, "1.2.2", [5, 6, 8]).content == ohif(viewer, "1.2.1", [5, 6, 8]).content


def test_the_most_useful_image_is_unlike_those_that_are_labelled(tmp_path: Path) -> None:
    home, noise = tmp_path / "library", np.random.default_rng(1)
    home.mkdir()
    alike = Volume(np.asarray(IMAGE.array, np.float32) + noise.normal(0, 0.01, IMAGE.shape).astype(np.float32), IMAGE.affine)
    other = Volume(noise.normal(size=IMAGE.shape).astype(np.float32), IMAGE.affine)
    for name, volume in (("a", IMAGE), ("b", alike), ("c", other), ("d", alike)):
        io.save(volume.array, home / f"{name}.nii.gz", volume)
    (home / "e.nii.gz").write_bytes(b"broken")
    torch.manual_seed(0)
    settings = ServerSettings(tmp_path / "state", library=home, token=TOKEN, port=PORT)
    with entered(settings, InferenceQueue(lambda: Segmenter(nano(64)))) as served:
        viewer = Viewer(served)
        assert next(iter(viewer.ask("GET", "/info/").json()["strategies"])) == USEFUL
        assert viewer.ask("POST", f"/activelearning/{USEFUL}").json()["reason"] == "nothing is labelled yet"
        viewer.save("a", labels(tmp_path / "label.nii.gz"))
        found = viewer.ask("POST", f"/activelearning/{USEFUL}", json={"client_id": "x"}).json()
        assert (found["id"], found["name"]) == ("c", "c.nii.gz")
        assert 0 < found["weight"] <= 2
        assert found["reason"].startswith("confidence 0.00, likeness")
        viewer.save("c", labels(tmp_path / "label.nii.gz"))
        assert viewer.ask("POST", f"/activelearning/{USEFUL}").json()["id"] in {"b", "d"}
        assert {viewer.ask("POST", "/activelearning/random").json()["id"] for _ in range(40)} == {"b", "d", "e"}
        viewer.ask("POST", "/activelearning/best", status=404)
        for id in ("b", "d"):
            viewer.save(id, labels(tmp_path / "label.nii.gz"))
        assert [path.name for path in settings.state.iterdir() if path.name.startswith("look")] == []


def test_a_sure_image_is_less_useful(tmp_path: Path) -> None:
    home = tmp_path / "library"
    home.mkdir()
    for name in "abc":
        saved(phantom("LPS"), home / f"{name}.nii.gz")
    with entered(ServerSettings(tmp_path / "state", library=home, token=TOKEN, port=PORT), InferenceQueue(_unlike)) as served:
        viewer = Viewer(served)
        viewer.save("a", labels(tmp_path / "label.nii.gz"))
        assert viewer.ask("POST", f"/activelearning/{USEFUL}").json()["id"] == "b"
        click = {"foreground": [list(phantom("LPS").voxel(1))]}
        viewer.ask("POST", "/infer/medical_sam2?image=b", **multipart({"params": json.dumps(click)}, {}))
        assert viewer.ask("POST", f"/activelearning/{USEFUL}").json()["id"] == "c"


def _unlike() -> Segmenter:
    """A network to which the first image that it looks at is unlike all others."""
    found, count = segmenter(), itertools.count()
    see = found.encode

    def encode(frame: torch.Tensor) -> Any:
        angle = torch.tensor(0.0 if next(count) < len(DEPTHS) else 1.0)
        return replace(see(frame), summary_BC=torch.stack([torch.cos(angle), torch.sin(angle)])[None])

    found.encode = encode  # type: ignore[method-assign,assignment]
    return found
