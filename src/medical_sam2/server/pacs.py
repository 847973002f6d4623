"""A PACS by DICOMweb: series found by a query, fetched, and a segmentation sent back to the study that it belongs to.

Nothing that a PACS answers is read by the server itself: a process of its own does
it (`do`), and takes nothing that was not asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from email.message import Message
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medical_sam2.server import Refusal

if TYPE_CHECKING:  # loaded when a PACS is asked
    import requests
    from dicomweb_client import DICOMwebClient

MOST_FOUND = 200
TIMEOUT_S = 20
FEW_BYTES, MANY_BYTES = 16 << 20, 4 << 30  # of an answer: rows, images
COUNT = "NumberOfSeriesRelatedInstances"
FIELDS = ("Modality", "SeriesDescription", COUNT, "StudyDate", "SeriesInstanceUID", "StudyInstanceUID")
MODALITY, DESCRIPTION, DATE, IMAGES = "00080060", "0008103E", "00080020", "00201209"
STUDY, SERIES = "0020000D", "0020000E"
NO_VOLUMES = frozenset({"SEG", "SR", "PR", "KO", "RTSTRUCT", "REG"})


@dataclass(frozen=True)
class SeriesRecord:
    """A series of the PACS, and nothing of whose it is."""

    study: str  # its study
    series: str  # itself
    modality: str  # of its images
    description: str  # of it
    images: int  # how many; 0 where the PACS does not say
    date: str  # of the study


class PacsFailure(Refusal):
    """The PACS does not answer as it should; nothing that it sent is quoted: it may name a patient."""

    def __init__(self, problem: str) -> None:
        super().__init__(HTTPStatus.BAD_GATEWAY, problem)


def do(order: Mapping[str, Any]) -> Any:
    """What was ordered: to search, to fetch or to send; raises PacsFailure if the PACS does not answer as it should."""
    address = order["address"]
    if order["do"] == "search":
        filters = {"SeriesInstanceUID": order["series"]} if "series" in order else {"PatientID": order["patient"]}
        return [asdict(one) for one in search(address, filters)]
    if order["do"] == "fetch":
        target, most = Path(order["target"]), order["most_bytes"]
        return fetch(address, order["study"], order["series"], target, images=order["images"], most_bytes=most)
    return send(address, order["study"], Path(order["source"]).read_bytes())


def search(address: str, filters: Mapping[str, str]) -> list[SeriesRecord]:
    """The series that may hold a volume, of a patient or by their own identifier (`filters`: keyword of a tag → its value).

    Raises:
        PacsFailure: the PACS does not answer as it should.
    """
    with _connection(address) as archive:
        rows: Sequence[Mapping[str, Any]] = archive.search_for_series(
            search_filters=dict(filters), fields=FIELDS, limit=MOST_FOUND
        )
        found = [_series(row) for row in rows[:MOST_FOUND]]
    return [one for one in found if one.study and one.series and one.modality not in NO_VOLUMES]


def _series(row: Mapping[str, Any]) -> SeriesRecord:
    def value(tag: str) -> str:
        return str((row.get(tag, {}).get("Value") or [""])[0])[:64]

    images = value(IMAGES)
    count = int(images) if images.isascii() and images.isdecimal() else 0
    return SeriesRecord(value(STUDY), value(SERIES), value(MODALITY), value(DESCRIPTION), count, value(DATE))


def fetch(address: str, study: str, series: str, target: Path, *, images: int = 0, most_bytes: int = MANY_BYTES) -> int:
    """Write the images of a series as numbered files; returns how many.

    Args:
        address: of the PACS.
        study: that is asked for.
        series: that is asked for.
        target: folder.
        images: how many there should be at least, where that is known.
        most_bytes: that it may send.

    Raises:
        PacsFailure: it does not answer as it should, sends less, more, or something else.
    """
    seen = set[str]()
    with _connection(address, most_bytes) as archive:
        for image in archive.iter_series(study, series):
            if (image.get("StudyInstanceUID"), image.get("SeriesInstanceUID")) != (study, series):
                raise PacsFailure("the PACS sent an image of another series; nothing was opened")
            if image.SOPInstanceUID in seen:
                raise PacsFailure("the PACS sent an image twice; nothing was opened")
            seen.add(image.SOPInstanceUID)
            image.save_as(target / f"{len(seen):05d}.dcm", enforce_file_format=True)
    if len(seen) < max(images, 1):
        problem = f"the PACS sent {len(seen)} of the {images or 'unknown number of'} images of this series; nothing was opened"
        raise PacsFailure(problem)
    return len(seen)


def send(address: str, study: str, data: bytes) -> None:
    """Store an object of ours beside the images that it belongs to; raises PacsFailure if the PACS does not take it."""
    from pydicom import dcmread  # slow to load, as all that talks with a PACS

    with _connection(address) as archive:
        answer = archive.store_instances([dcmread(BytesIO(data))], study_instance_uid=study)
        if answer.get("FailedSOPSequence"):
            raise PacsFailure("the PACS did not keep the segmentation; look at its log")


def client(address: str, session: "requests.Session | None" = None) -> "DICOMwebClient":
    """Asks the PACS."""
    from dicomweb_client import DICOMwebClient  # slow to load

    found = DICOMwebClient(address, session=session or _session(FEW_BYTES), timeout=TIMEOUT_S)
    found.set_http_retry_params(retry=False)  # somebody waits at the page
    return found


def _session(most_bytes: int) -> "requests.Session":
    """Asks the PACS itself, through no proxy of the environment, and nobody else that it may name."""
    import requests  # slow to load

    class PacsSession(requests.Session):
        def __init__(self) -> None:
            super().__init__()
            self.trust_env, self._answers = False, ExitStack()

        def close(self) -> None:
            self._answers.close()
            super().close()

        def get_redirect_target(self, resp: requests.Response) -> str | None:
            if super().get_redirect_target(resp):
                resp.close()
                problem = "the PACS sends us elsewhere, where we do not go; give its own address with --pacs"
                raise PacsFailure(problem)
            return None

        def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
            answer = super().send(request, **{**options, "stream": True})
            self._answers.callback(answer.close)
            answer.iter_content = _limited_body(answer, most_bytes)  # type: ignore[method-assign]
            if not options.get("stream"):
                _ = answer.content
            return answer

    return PacsSession()


def _limited_body(answer: "requests.Response", most_bytes: int) -> Callable[..., Iterator[bytes]]:
    """The body of an answer as it comes: no more than is allowed, and where it has parts, with its end."""
    plain: Callable[..., Iterator[bytes]] = answer.iter_content  # type: ignore[assignment]  # text only where it is asked for

    def limited(*arguments: Any, **options: Any) -> Iterator[bytes]:
        head, tail, size = b"", b"", 0
        for piece in plain(*arguments, **options):
            size += len(piece)
            if size > most_bytes:
                raise PacsFailure(f"the PACS sends more than {most_bytes >> 20} MB; it was given up")
            head, tail = (head + piece)[:1_024], (tail + piece[-1_024:])[-1_024:]
            yield piece
        if not _is_whole(answer.headers.get("content-type", ""), head, tail):
            raise PacsFailure("the answer of the PACS is cut off or broken; nothing was opened")

    return limited


def _is_whole(kind: str, head: bytes, tail: bytes) -> bool:
    """Whether a body in parts begins and ends with the boundary of its header; any other body is."""
    header = Message()
    header["content-type"] = kind
    if header.get_content_maintype() != "multipart":
        return True
    boundary = str(header.get_param("boundary", "")).encode()
    return bool(boundary) and head.lstrip().startswith(b"--" + boundary) and b"\r\n--" + boundary + b"--" in tail


@contextmanager
def _connection(address: str, most_bytes: int = FEW_BYTES) -> Iterator["DICOMwebClient"]:
    """A client; what goes wrong on the way is not quoted: it may name a patient."""
    import requests  # slow to load
    from pydicom.errors import InvalidDicomError  # slow to load

    try:
        with _session(most_bytes) as session:
            yield client(address, session)
    except requests.HTTPError as error:
        status = "" if error.response is None else f" {error.response.status_code}"
        raise PacsFailure(f"the PACS answered{status} with a refusal; look at its log") from None
    except (
        requests.RequestException,
        InvalidDicomError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
    ) as error:
        problem = f"the PACS does not answer as it should ({type(error).__name__}); check --pacs and whether it runs"
        raise PacsFailure(problem) from None
