"""OHIF itself, in a browser, with series and results in Orthanc that this server reads and writes.

`scripts/viewers` makes what this needs and runs it; pictures of what was seen stay in out/viewers/ohif. The stock build has no
extension of MONAI Label's: what that asks is asked here from OHIF's page, as its source writes it.
"""

import json
import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page
from pydicom import dcmread

from examples.phantom import SHAPE_IJK, make
from medical_sam2.metrics import dice
from medical_sam2.segmenter import Segmenter
from medical_sam2.server import pacs
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from tests.io.making import Series
from tests.server.browsing import chromium, running
from tests.server.test_pacs import orthanc  # noqa: F401  a fixture
from tests.viewers import OUT, middle, organ

APP, FOLDER, TOKEN = OUT / "ohif" / "package" / "dist", OUT / "ohif", "t" * 32
PATIENT, KIDNEY, PATIENCE_MS = "PHANTOM-9", "left kidney", 60_000
STUDY, SERIES = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"
CONFIG = """window.config = {
  routerBasename: '/', showStudyList: true, extensions: [], modes: [], defaultDataSourceName: 'here',
  disableConfirmationPrompts: true,
  dataSources: [{ namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'here', configuration: {
    friendlyName: 'Orthanc', name: 'orthanc', wadoUriRoot: '/dicom-web', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
    qidoSupportsIncludeField: true, imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true,
    supportsFuzzyMatching: true, supportsWildcard: true, omitQuotationForMultipartRequest: true,
    bulkDataURI: { enabled: true } } }],
}"""


class Pages(BaseHTTPRequestHandler):
    """OHIF's files, and what it asks of Orthanc: of one origin, so that Orthanc needs no leave for others."""

    dicomweb = ""

    def do_GET(self) -> None:
        """A file of the build, its one page for any other address, or Orthanc's answer."""
        path = self.path.split("?")[0]
        if path.startswith("/dicom-web"):
            answer = httpx2.get(
                self.dicomweb + self.path.removeprefix("/dicom-web"), headers={"accept": self.headers["accept"]}, timeout=60
            )
            return self.send(answer.status_code, answer.headers["content-type"], answer.content)
        if path == "/app-config.js":
            return self.send(200, "text/javascript", CONFIG.encode())
        file = APP / path.lstrip("/")
        file = file if file.is_file() else APP / "index.html"
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return self.send(200, kind, file.read_bytes())

    def send(self, status: int, kind: str, body: bytes) -> None:
        """An answer."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def pages(dicomweb: str) -> Iterator[str]:
    """The address of OHIF."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Pages,), {"dicomweb": dicomweb}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Clinic:
    """OHIF, Orthanc and this server, and what OHIF's page asks of the last."""

    page: Page
    server: ServerSettings
    problems: list[str]

    def api(self, path: str, **form: Any) -> Any:
        """The answer to the page of this server."""
        head = {"authorization": f"Bearer {TOKEN}"}
        answer = httpx2.post(f"http://127.0.0.1:{self.server.port}/api/{path}", json=form, headers=head, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def tracked(self, id: str) -> int:
        """Which result of a session stands."""
        head = {"authorization": f"Bearer {TOKEN}"}
        return httpx2.get(f"http://127.0.0.1:{self.server.port}/api/sessions/{id}", headers=head).json()["state"]["tracked"]

    def fetch(self, what: str) -> Any:
        """What a script on OHIF's page gets, with the browser's rules for other origins."""
        return self.page.evaluate(what, f"http://127.0.0.1:{self.server.port}/monai/{TOKEN}/")

    def click_away(self) -> None:
        """What OHIF shows over its images the first time."""
        for name in ("Skip all", "Confirm and hide"):
            self.page.get_by_text(name).click()

    def picture(self, name: str) -> NDArray[np.int_]:
        """A screenshot, kept."""
        self.page.screenshot(path=FOLDER / f"{name}.png")
        return np.asarray(Image.open(FOLDER / f"{name}.png").convert("RGB"), int)


@pytest.fixture(scope="module")
def clinic(orthanc: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:  # noqa: F811
    """The phantom as a series in Orthanc, and a page that shows it."""
    folder, image = tmp_path_factory.mktemp("series"), make()[0]
    tags = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "PatientID": PATIENT, "StudyDate": "20260101"}
    Series(image.affine, np.asarray(image.dataobj)).write(folder, **tags)
    pacs.client(orthanc).store_instances([dcmread(file) for file in sorted(folder.glob("*.dcm"))])
    queue, problems = InferenceQueue(Segmenter.from_pretrained), list[str]()
    with pages(orthanc) as origin, chromium(solid=True) as browser:
        settings = ServerSettings(folder / "state", token=TOKEN, pacs=orthanc, origins=(origin,))
        with running(settings, queue) as server:
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.set_default_timeout(PATIENCE_MS)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(f"{origin}/viewer?StudyInstanceUIDs={STUDY}")
            clinic = Clinic(page, server, problems)
            clinic.click_away()
            yield clinic


def test_the_requests_of_monai_labels_extension_from_ohifs_page(clinic: Clinic) -> None:
    """Across origins; the series is fetched from Orthanc by its identifier."""
    info = clinic.fetch("async url => (await fetch(new URL('info/', url))).json()")
    assert "deepgrow" in {model["type"] for model in info["models"].values()}
    voxel = middle(organ(KIDNEY).T)[::-1]
    params = {
        "foreground": [voxel],
        "background": [],
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
    }
    ask = """async url => {
      const form = new FormData()
      form.append('params', PARAMS)
      const address = new URL('infer/medical_sam2?image=SERIES&output=image', url)
      const headers = { accept: 'application/json, multipart/form-data' }
      const answer = await fetch(address, { method: 'POST', body: form, headers })
      return [answer.status, [...new Uint8Array(await answer.arrayBuffer())]]
    }"""
    status, sent = clinic.fetch(ask.replace("PARAMS", repr(json.dumps(params))).replace("SERIES", SERIES))
    assert status == 200
    found = np.frombuffer(bytes(sent).split(b"\n\n", 1)[1], np.uint8).reshape(SHAPE_IJK, order="F")
    assert dice(organ(KIDNEY), found > 0) > 0.7  # through the window for soft tissue the spleen beside it looks alike
    assert not found[: SHAPE_IJK[0] // 2].any()  # the other side


def test_ohif_shows_what_was_sent_to_the_pacs(clinic: Clinic) -> None:
    """A DICOM-SEG of one box, beside the series, in colour on the side where the kidney is."""
    page = clinic.page
    (found,) = clinic.api("pacs/series", patient=PATIENT)
    id = clinic.api("pacs/open", number=found["number"])["id"]
    clinic.api(f"sessions/{id}/open")
    clinic.api(f"sessions/{id}/structures", version=0, name="left kidney")
    t, rows, columns = middle(organ(KIDNEY).T)[0], *np.nonzero(organ(KIDNEY).T[middle(organ(KIDNEY).T)[0]])
    corners = [[int(rows.min()), int(columns.min())], [int(rows.max()), int(columns.max())]]
    clinic.api(f"sessions/{id}/say", version=1, label=1, plane="axial", t=t, kind="box", points=corners)
    clinic.api(f"sessions/{id}/track", version=2)
    while not clinic.tracked(id):
        page.wait_for_timeout(200)
    clinic.picture("series")
    clinic.api(f"sessions/{id}/push")
    page.reload()
    clinic.problems.clear()  # a page that is left while it loads complains of views that are gone
    page.get_by_text("SEG", exact=True).first.dblclick()
    page.wait_for_timeout(10_000)
    after = clinic.picture("segmentation")
    rows, columns = np.nonzero(np.ptp(after[120:800, 330:1320], axis=-1) > 60)  # of the image; its middle is column 495
    assert len(columns) > 500
    assert columns.min() > 500
    assert clinic.problems == []
