"""What the page asks of a PACS. Its address is the server's setting; series go by numbers of our list, not by their names."""

from tempfile import NamedTemporaryFile
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from medical_sam2.server.downloads import written
from medical_sam2.server.forms import Form
from medical_sam2.server.pacs import Found
from medical_sam2.server.refusals import Missing, Unusable
from medical_sam2.server.store import Store


class Asked(Form):
    """Whose series."""

    patient: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^*?\\]+$")]


class Chosen(Form):
    """Which of those that were found."""

    number: Annotated[int, Field(ge=0)]


def routes(store: Store) -> APIRouter:
    """The routes, under /api."""
    router = APIRouter(prefix="/api")
    _in(router, store)
    _out(router, store)
    return router


def _in(router: APIRouter, store: Store) -> None:
    known = list[Found]()

    @router.post("/pacs/series")
    def series(form: Asked) -> list[dict[str, Any]]:
        order = {"do": "search", "address": _address(store), "patient": form.patient}
        found = [Found(**row) for row in store.children.run(order)]
        first = len(known)
        known.extend(found)
        shown = ("modality", "description", "images", "date")
        return [{"number": first + i, **{name: getattr(one, name) for name in shown}} for i, one in enumerate(found)]

    @router.post("/pacs/open")
    def open_(form: Chosen) -> dict[str, str]:
        if form.number >= len(known):
            raise Missing("series")
        one, id = known[form.number], store.new()
        source = store.settings.state / id / "source"
        order = {"do": "fetch", "address": _address(store), "study": one.study, "series": one.series, "images": one.images}
        try:
            store.children.run({**order, "target": str(source), "most_bytes": store.settings.most_upload_mb << 20})
        except BaseException:
            store.remove(id)
            raise
        store.place(id, source, study=one.study)
        return {"id": id}


def _out(router: APIRouter, store: Store) -> None:
    @router.post("/sessions/{id}/push")
    def push(id: str) -> dict[str, str]:
        session, origin = store.get(id), store.origin(id)
        if not origin.study:
            raise Unusable("this session does not come from the PACS")
        found = session.found()
        data = written(store, session, found.canvas[0], "dcm", session.history.state.names)
        with NamedTemporaryFile(dir=session.folder, suffix=".dcm") as file:
            file.write(data)
            file.flush()
            order = {"do": "send", "address": _address(store), "study": origin.study, "source": file.name}
            store.children.run(order)
        return {"message": "The segmentation was sent to the PACS."}


def _address(store: Store) -> str:
    if not store.settings.pacs:
        raise Missing("PACS: start with --pacs")
    return store.settings.pacs
