"""A PACS by DICOMweb: series found by a query, fetched, and a segmentation sent back to the study that it belongs to.

Its address is the server's setting; the page names series by a number of our list and never by what they are called there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from medical_sam2.server import child
from medical_sam2.server.downloads import written
from medical_sam2.server.forms import Form
from medical_sam2.server.refusals import Missing, Refusal, Unusable
from medical_sam2.server.store import Store

if TYPE_CHECKING:  # loaded when a PACS is asked, so that the page is there at once
    from dicomweb_client import DICOMwebClient

MOST_FOUND = 200
TIMEOUT_S = 20
COUNT = "NumberOfSeriesRelatedInstances"
FIELDS = ("Modality", "SeriesDescription", COUNT, "StudyDate", "SeriesInstanceUID", "StudyInstanceUID")
MODALITY, DESCRIPTION, DATE, IMAGES = "00080060", "0008103E", "00080020", "00201209"
STUDY, SERIES = "0020000D", "0020000E"
NO_VOLUMES = frozenset({"SEG", "SR", "PR", "KO", "RTSTRUCT", "REG"})


class Asked(Form):
    """Whose series."""

    patient: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^*?\\]+$")]


class Chosen(Form):
    """Which of those that were found."""

    number: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Found:
    """A series of the PACS, and nothing of whose it is.

    Args:
        study: its study.
        series: itself.
        modality: of its images.
        description: of it.
        images: how many.
        date: of the study.
    """

    study: str
    series: str
    modality: str
    description: str
    images: int
    date: str


def routes(store: Store) -> APIRouter:
    """The routes, under /api."""
    router, known = APIRouter(prefix="/api"), list[Found]()

    @router.post("/pacs/series")
    def series(form: Asked) -> list[dict[str, Any]]:
        found = search(_address(store), form.patient)
        first = len(known)
        known.extend(found)
        return [
            {
                "number": first + i,
                "modality": one.modality,
                "description": one.description,
                "images": one.images,
                "date": one.date,
            }
            for i, one in enumerate(found)
        ]

    @router.post("/pacs/open")
    def open_(form: Chosen) -> dict[str, str]:
        if form.number >= len(known):
            raise Missing("series")
        one, id = known[form.number], store.new()
        source = store.settings.state / id / "source"
        child.fetch(_address(store), one.study, one.series, source, store.settings.child)
        store.place(id, source, one.study)
        return {"id": id}

    @router.post("/sessions/{id}/push")
    def push(id: str) -> dict[str, str]:
        session, origin = store.get(id), store.origin(id)
        if not origin.study:
            raise Unusable("this session does not come from the PACS")
        found = session.found()
        data = written(store, session, found.canvas[0], "dcm", session.history.state.names)
        send(_address(store), origin.study, data)
        return {"message": "The segmentation was sent to the PACS."}

    return router


def search(address: str, patient: str) -> list[Found]:
    """The series of a patient that may hold a volume.

    Raises:
        Refusal: the PACS does not answer as it should.
    """
    with _talking():
        rows: Sequence[Mapping[str, Any]] = client(address).search_for_series(
            search_filters={"PatientID": patient}, fields=FIELDS, limit=MOST_FOUND
        )
        found = [_found(row) for row in rows]
    return [one for one in found if one.study and one.series and one.modality not in NO_VOLUMES]


def _found(row: Mapping[str, Any]) -> Found:
    def value(tag: str) -> str:
        return str((row.get(tag, {}).get("Value") or [""])[0])[:64]

    images = value(IMAGES)
    return Found(
        value(STUDY), value(SERIES), value(MODALITY), value(DESCRIPTION), int(images) if images.isdigit() else 0, value(DATE)
    )


def fetch(address: str, study: str, series: str, target: Path) -> int:
    """Write the images of a series as numbered files; returns how many. Runs in a child.

    Raises:
        Refusal: the PACS does not answer as it should.
    """
    count = 0
    with _talking():
        for count, image in enumerate(client(address).iter_series(study, series), 1):
            image.save_as(target / f"{count:05d}.dcm", enforce_file_format=True)
    return count


def send(address: str, study: str, data: bytes) -> None:
    """Store an object of ours beside the images that it belongs to.

    Raises:
        Refusal: the PACS does not take it.
    """
    from pydicom import dcmread

    with _talking():
        client(address).store_instances([dcmread(BytesIO(data))], study_instance_uid=study)


def client(address: str) -> "DICOMwebClient":
    """Asks the PACS itself, through no proxy of the environment."""
    import requests
    from dicomweb_client import DICOMwebClient

    session = requests.Session()
    session.trust_env = False
    found = DICOMwebClient(address, session=session, timeout=TIMEOUT_S)
    found.set_http_retry_params(retry=False)  # somebody waits at the page
    return found


@contextmanager
def _talking() -> Iterator[None]:
    """What goes wrong on the way is said without quoting it: it may name a patient."""
    import requests

    try:
        yield
    except requests.HTTPError as error:
        status = "" if error.response is None else f" {error.response.status_code}"
        raise Refusal(HTTPStatus.BAD_GATEWAY, f"the PACS answered{status} with a refusal; look at its log") from None
    except (requests.RequestException, ValueError, KeyError, OSError) as error:
        problem = f"the PACS does not answer as it should ({type(error).__name__}); check --pacs and whether it runs"
        raise Refusal(HTTPStatus.BAD_GATEWAY, problem) from None


def _address(store: Store) -> str:
    if not store.settings.pacs:
        raise Missing("PACS: start with --pacs")
    return store.settings.pacs
