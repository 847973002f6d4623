"""A real PACS on this machine: Orthanc, started for these tests alone."""

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import highdicom
import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread

from medical_sam2 import io
from medical_sam2.server import Refusal, pacs
from medical_sam2.tracking.plan import PLANES
from tests.io.making import Series
from tests.phantoms import phantom
from tests.server.conftest import TOKEN, Served

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
PATIENT = "PHANTOM-1"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of its DICOMweb; it listens on this machine only."""
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "Name": "TEST",
        "StorageDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    program = which("Orthanc") or "/usr/sbin/Orthanc"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/dicom-web"
    finally:
        process.terminate()
        process.wait(30)


def test_series_in_segmentation_out(serve: Callable[..., Served], orthanc: str, tmp_path: Path) -> None:
    """Found, opened, clicked on, tracked, sent back; read again by three readers in the right place."""
    case = phantom("LPS", spacing_mm=(1.5, 1.25, 3.0))
    ras = phantom("RAS", spacing_mm=(1.5, 1.25, 3.0))
    hounsfield = np.rint(ras.volume.array * 200).astype(np.int16)
    tags = {"PatientID": PATIENT, "SeriesDescription": "thorax", "StudyDate": "20260101"}
    sent = Series(ras.volume.affine, hounsfield).write(tmp_path, **tags)
    pacs.client(orthanc).store_instances([dcmread(tmp_path / f"IM{k:04d}.dcm") for k in range(len(sent))])
    served = serve(pacs=orthanc)
    (found,) = served.post("pacs/series", patient=PATIENT)
    assert (found["modality"], found["description"], found["images"]) == ("CT", "thorax", 16)
    id = served.post("pacs/open", number=found["number"])["id"]
    info = served.post(f"sessions/{id}/open")
    assert (info["dicom"], info["pacs"], info["downloads"]["dcm"]) == (True, True, "DICOM-SEG")
    volume = served.store.get(id).image.volume  # type: ignore[union-attr]
    assert sorted(volume.shape) == sorted(case.volume.shape)
    clicked_mm = tuple(float(x) for x in (ras.volume.affine @ [*ras.voxel(1), 1])[:3])
    t, y, x = PLANES["axial"].project([round(i) for i in volume.to_voxel(clicked_mm)], volume.shape, volume.orientation)
    served.post(f"sessions/{id}/structures", version=0, name="block")
    gesture = {"plane": "axial", "t": int(t), "kind": "points", "points": [[y, x]], "positive": [True]}
    served.post(f"sessions/{id}/say", version=1, label=1, **gesture)
    served.post(f"sessions/{id}/track", version=2)
    session = served.store.get(id)
    assert session.job is not None
    session.job.wait(60)
    labels = session.result().labels[0]
    assert labels.any()
    assert "sent" in served.post(f"sessions/{id}/push")["message"]

    rows = pacs.client(orthanc).search_for_series(search_filters={"PatientID": PATIENT, "Modality": "SEG"})
    assert len(rows) == 1
    study, series = (rows[0][tag]["Value"][0] for tag in (pacs.STUDY, pacs.SERIES))
    assert pacs.fetch(orthanc, study, series, tmp_path) == 1
    file = tmp_path / "00001.dcm"
    assert (io.load_labels(file, volume).array == labels).all()
    segmentation = highdicom.seg.segread(file)
    assert segmentation.get_segment_description(1).segment_label == "block"
    _same_place(file, labels, volume.affine)
    complaints = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False).stderr
    assert [line for line in complaints.splitlines() if line.startswith("Error")] == []


def test_monai_label_finds_a_series_that_ohif_shows(serve: Callable[..., Served], orthanc: str, tmp_path: Path) -> None:
    """By its SeriesInstanceUID; fetched once, and its segmentation may go back to its study."""
    ras, series = phantom("RAS"), "1.2.3.4.5.6"
    hounsfield = np.rint(np.asarray(ras.volume.array, float) * 200).astype(np.int16)
    Series(ras.volume.affine, hounsfield).write(tmp_path, SeriesInstanceUID=series, PatientID="PHANTOM-2")
    pacs.client(orthanc).store_instances([dcmread(file) for file in tmp_path.glob("*.dcm")])
    served = serve(pacs=orthanc)
    params = {"foreground": [[5, 6, 8]], "background": [], "result_extension": ".nrrd"}

    def ask(name: str) -> tuple[int, bytes]:
        path = f"/monai/{TOKEN}/infer/medical_sam2?image={name}&output=image"
        answer = served.http.post(path, files={"params": (None, json.dumps(params))})
        return answer.status_code, answer.content

    (status, first), again = ask(series), ask(series)
    assert (status, first) == again
    assert status == 200
    (session,) = served.http.get("/api/sessions").json()
    assert served.http.get(f"/api/sessions/{session['id']}").json()["pacs"]
    (tmp_path / "found.nrrd").write_bytes(first)
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "found.nrrd"))).any()
    for unknown in ("1.2.3.4.5.7", "1.2.3.4.5.*", "PHANTOM-2", ""):
        assert ask(unknown)[0] == 404
    assert len(served.http.get("/api/sessions").json()) == 1


def _same_place(file: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    """SimpleITK reads the frames with their own positions: the centre of what is outlined is where it was.

    To half a voxel: it was seen to get a single voxel wrong where frames do not begin with a byte (143 bits each here).
    """
    image = SimpleITK.ReadImage(str(file))
    voxels = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0)
    centre_lps = image.TransformContinuousIndexToPhysicalPoint([float(x) for x in voxels.mean(0)[::-1]])
    expected_ras = (affine @ [*np.argwhere(labels > 0).mean(0), 1])[:3]
    assert np.abs(np.array(centre_lps) * (-1, -1, 1) - expected_ras).max() < 0.5


def test_nothing_is_found_and_nothing_is_guessed(serve: Callable[..., Served], orthanc: str) -> None:
    served = serve(pacs=orthanc)
    assert served.post("pacs/series", patient="NOBODY") == []
    for patient in ("", "*", "A*", "?"):
        assert served.http.post("/api/pacs/series", json={"patient": patient}).status_code == 422
    assert served.http.post("/api/pacs/open", json={"number": 7}).status_code == 404


def test_a_pacs_that_is_not_there(serve: Callable[..., Served], served: Served) -> None:
    silent = serve(pacs="http://127.0.0.1:9/dicom-web")
    answer = silent.http.post("/api/pacs/series", json={"patient": "SECRET-ID"})
    assert answer.status_code == 502
    assert "SECRET-ID" not in answer.text
    assert served.http.post("/api/pacs/series", json={"patient": "X"}).status_code == 404
    with pytest.raises(Refusal):
        pacs.send("http://127.0.0.1:9/dicom-web", "1.2.3", _tiny())


def _tiny() -> bytes:
    from io import BytesIO

    from pydicom.uid import CTImageStorage

    from tests.io.making import base

    stream = BytesIO()
    base(np.zeros((2, 2), np.int16), CTImageStorage).save_as(stream, enforce_file_format=True)
    return stream.getvalue()
