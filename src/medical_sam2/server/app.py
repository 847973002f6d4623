"""The server: routes behind the guard."""

import secrets
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.resources import files
from typing import TypeAlias

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from medical_sam2.errors import MedicalSam2Error
from medical_sam2.server import api, monai, nninteractive, pacs_api
from medical_sam2.server.desk import Desk
from medical_sam2.server.guard import DEFECT, App, Guard
from medical_sam2.server.refusals import Refusal, disk_is_full, told
from medical_sam2.server.settings import Settings
from medical_sam2.server.store import Store

Asset: TypeAlias = tuple[bytes, str]
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
WARM_UP_AFTER_S = 0.5  # the page is there first; whoever asks the network sooner loads it sooner
PAGE, LOGIN, STYLE = "index.html", "login.html", "login.css"
PLAIN = {
    HTTPStatus.BAD_REQUEST: "the request is malformed",
    HTTPStatus.NOT_FOUND: "there is no such page",
    HTTPStatus.METHOD_NOT_ALLOWED: "nothing of the kind is done here",
}
NO_PAGE = "the page is not built in this checkout; run scripts/web, which needs Node, or install the package from a wheel"


def build(settings: Settings, desk: Desk) -> tuple[App, Store]:
    """The application, and its sessions."""
    store = Store(settings, desk)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = threading.Timer(WARM_UP_AFTER_S, desk.warm_up)
        loading.daemon = True
        loading.start()
        yield
        loading.cancel()
        store.close()

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    _explain(app)
    _explain_system(app)
    app.include_router(api.routes(store))
    app.include_router(pacs_api.routes(store))
    app.include_router(monai.routes(store))
    app.include_router(nninteractive.routes(desk, settings))
    _pages(app, assets())
    return Guard(app, settings, secrets.token_urlsafe(32)), store


def assets() -> dict[str, Asset]:
    """Everything of the page, read once: no path that a client sends is ever looked for."""
    folder = files("medical_sam2.server") / "static"
    if not folder.is_dir():
        return {}
    kinds = ((item, KINDS.get(f".{item.name.rpartition('.')[2]}")) for item in folder.iterdir() if item.is_file())
    return {item.name: (item.read_bytes(), kind) for item, kind in kinds if kind}


def _pages(app: FastAPI, known: dict[str, Asset]) -> None:
    @app.get("/")
    def page() -> Response:
        return _asset(known, PAGE)

    @app.get("/login")
    def login() -> Response:
        return _asset(known, LOGIN)

    @app.get("/{name}")
    def asset(name: str) -> Response:
        return _asset(known, name)


def _asset(known: dict[str, Asset], name: str) -> Response:
    if name in {PAGE, LOGIN} and name not in known:
        return Response(NO_PAGE, status_code=HTTPStatus.NOT_FOUND, media_type="text/plain")
    if name not in known:
        return JSONResponse({"error": "there is no such page"}, status_code=HTTPStatus.NOT_FOUND)
    data, kind = known[name]
    return Response(data, media_type=kind, headers={"cache-control": "no-cache"})


def _explain(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Exception) -> Response:
        if isinstance(error, Refusal):
            return api.problem(error)
        raise error

    @app.exception_handler(MedicalSam2Error)
    async def unusable(_: Request, error: Exception) -> Response:
        if isinstance(error, MedicalSam2Error):
            return api.problem(told(error))
        raise error

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: Exception) -> Response:
        status = HTTPStatus(error.status_code if isinstance(error, HTTPException) else 500)
        problem = PLAIN.get(status, status.phrase.lower())
        return api.problem(Refusal(status, problem))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: Exception) -> Response:
        """Nothing of what was sent comes back."""
        return JSONResponse({"error": "the request is malformed"}, status_code=HTTPStatus.UNPROCESSABLE_ENTITY)


def _explain_system(app: FastAPI) -> None:
    @app.exception_handler(RecursionError)
    async def deep(_: Request, error: Exception) -> Response:
        return api.problem(Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "the request is malformed"))

    @app.exception_handler(MemoryError)
    async def exhausted(_: Request, error: Exception) -> Response:
        return api.problem(Refusal(HTTPStatus.INSUFFICIENT_STORAGE, "the memory is exhausted; close other sessions"))

    @app.exception_handler(OSError)
    async def system(_: Request, error: Exception) -> Response:
        full = disk_is_full(error) if isinstance(error, OSError) else None
        if full is None:
            raise error
        return api.problem(full)

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> Response:
        """As the guard says it, who logs where it was."""
        return api.problem(DEFECT)
