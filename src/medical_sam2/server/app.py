"""The application: routes behind the guard, and a note of what they change; it binds, serves, says where, and ends.

Who changed what, and when, is a line of JSON for each edit, in `audit.jsonl` in the folder of the sessions. `who` is the user;
"token", "password" or "link" where somebody came in by one of these. `session` and `version` name a step of that session's
journal, `label` a structure in it. Nothing of a patient is written, nor of a file's or a structure's name: an image of the
datastore stands there by the beginning of the SHA-256 of its id, a client of nnInteractive by that of its lease.
"""

import asyncio
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
import webbrowser
from asyncio import BaseTransport, TimerHandle
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from medical_sam2.errors import ConfigError, MedicalSam2Error
from medical_sam2.server import InvalidRequest, Refusal, api, monai_label, nninteractive, refusal_for
from medical_sam2.server.inference_queue import InferenceQueue, limit_heaps
from medical_sam2.server.security import (
    AUTHENTICATED,
    DEFECT,
    VISITOR,
    AlreadyRefused,
    App,
    Guard,
    Message,
    Receive,
    Scope,
    Send,
    ServerSettings,
    Visitor,
)
from medical_sam2.server.session_store import SessionStore

Asset: TypeAlias = tuple[bytes, str]
MOST_PORTS = 65_535
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
WARM_UP_AFTER_S = 0.5  # the page is there first; whoever asks the network sooner loads it sooner
PAGE, LOGIN, STYLE = "index.html", "login.html", "login.css"
PLAIN = {
    HTTPStatus.BAD_REQUEST: "the request is malformed",
    HTTPStatus.NOT_FOUND: "there is no such page",
    HTTPStatus.METHOD_NOT_ALLOWED: "nothing of the kind is done here",
}
NO_PAGE = "the page is not built in this checkout; run scripts/web, which needs Node, or install the package from a wheel"

HEADERS_WITHIN_S = 15.0
UNREAD_WITHIN_S = 60.0  # in which a client takes nothing of what was written to it
LOOK_S = 0.25
MOST_CONNECTIONS = 256
END_WITHIN_S = 8.0  # whatever a thread still waits for: what was acknowledged is on the disk

AUDIT_FILE = "audit.jsonl"
EDIT = re.compile(
    r"/api/sessions(?:/(?P<session>[0-9a-f]{32}))?(?:/structures/(?P<label>[0-9]{1,3}))?(?:/(?P<what>[a-z]+))?"
    r"|/api/(?P<pacs>pacs/open)"
    r"|/monai/(?P<monai>datastore/(?:image|label)?|session)/?(?:(?<=session/)(?P<viewed>[0-9a-f]{32}))?"
    r"|/nninteractive/(?P<gesture>set_image|reset_interactions|add_[a-z_]+|undo|predict)"
)
CHANGING = frozenset({"POST", "PUT", "DELETE"})
NOT_WRITTEN = "this was done, but could not be noted in the audit file; let whoever runs the server free some space"


def build(settings: ServerSettings, queue: InferenceQueue) -> tuple[App, SessionStore]:
    """The application, and its sessions."""
    store = SessionStore(settings, queue)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = threading.Timer(WARM_UP_AFTER_S, queue.warm_up)
        loading.daemon = True
        loading.start()
        yield
        loading.cancel()
        queue.end_idle(END_WITHIN_S)
        store.close()
        loading.join(END_WITHIN_S)  # Python aborts where it ends while a thread loads torch

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    _handle_errors(app)
    app.include_router(api.routes(store))
    app.include_router(monai_label.routes(store))
    app.include_router(nninteractive.routes(queue, settings))
    _pages(app, assets())
    return Guard(Audit(app, settings.state), settings, secrets.token_urlsafe(32)), store


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


def _handle_errors(app: FastAPI) -> None:
    async def refuse(_: Request, error: Exception) -> Response:
        if refusal := refusal_for(error):
            return _refused(refusal)
        raise error

    for kind in (Refusal, MedicalSam2Error, MemoryError, OSError):
        app.add_exception_handler(kind, refuse)  # type: ignore[arg-type]

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: Exception) -> Response:
        status = HTTPStatus(error.status_code if isinstance(error, HTTPException) else 500)
        return _refused(Refusal(status, PLAIN.get(status, status.phrase.lower())))

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(RecursionError)
    async def malformed(_: Request, error: Exception) -> Response:
        """Nothing of what was sent comes back."""
        limits = api.describe_limits(error.errors()) if isinstance(error, RequestValidationError) else None
        return _refused(InvalidRequest(limits or PLAIN[HTTPStatus.BAD_REQUEST]))

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> Response:
        """As the guard says it, who logs where it was."""
        return _refused(DEFECT)


def _refused(refusal: Refusal) -> Response:
    """A refusal as the page reads it."""
    choices = list(getattr(refusal, "choices", ()))
    return JSONResponse({"error": refusal.problem, "choices": choices}, status_code=refusal.status)


class TimedProtocol(H11Protocol):
    """Drops connections that do not say within a while what they want, or do not take what they asked for.

    Where there are too many, the oldest of those that have not signed in makes room.
    """

    _watch: TimerHandle
    _since = _unread = 0.0
    _left = 0
    _is_authenticated = False

    def connection_made(self, transport: BaseTransport) -> None:  # type: ignore[override]
        """Begin to watch."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._since = time.monotonic()
        if len(self.connections) >= MOST_CONNECTIONS:
            self._make_room()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """No need to watch any more."""
        self._watch.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, however much of it has come."""
        self._is_authenticated = self._is_authenticated or AUTHENTICATED in self.scope
        self._since = time.monotonic()
        super().on_response_complete()

    def _look(self) -> None:
        now = time.monotonic()
        left = self.transport.get_write_buffer_size()
        if not left or left < self._left:
            self._unread = now
        self._left = left
        cycle = getattr(self, "cycle", None)
        waits = cycle is None or cycle.response_complete
        if (waits and not left and now - self._since > HEADERS_WITHIN_S) or now - self._unread > UNREAD_WITHIN_S:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(LOOK_S, self._look)

    def _make_room(self) -> None:
        known = [each for each in self.connections if isinstance(each, TimedProtocol) and each is not self]
        others = [each for each in known if not (each._is_authenticated or AUTHENTICATED in (each.scope or ()))]
        if others:
            oldest = min(others, key=lambda each: each._since)
            self.connections.discard(oldest)
            oldest.transport.abort()


class GracefulServer(uvicorn.Server):
    """Has ended soon after it was asked to."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        super().handle_exit(sig, frame)
        code = 0 if sig == signal.SIGTERM else 128 + sig
        late = threading.Timer(END_WITHIN_S, os._exit, (code,))
        late.daemon = True
        late.start()


def server(
    settings: ServerSettings, queue: InferenceQueue, *, certificate: str | None = None, key: str | None = None
) -> uvicorn.Server:
    """A server that is ready to run; nothing of a request is logged."""
    app, _ = build(settings, queue)
    options: dict[str, Any] = {"ssl_certfile": certificate, "ssl_keyfile": key} if certificate else {}
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        http=TimedProtocol,
        ws="none",
        access_log=False,
        log_level="error",
        server_header=False,
        limit_concurrency=2 * MOST_CONNECTIONS,  # it counts requests, too, and those of dropped connections end a moment later
        h11_max_incomplete_event_size=32_768,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
        proxy_headers=False,
        **options,
    )
    return GracefulServer(config)


def address(settings: ServerSettings, *, secure: bool = False, token: str = "") -> str:
    """Where the page is, with the token that lets in, or with another one."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http{'s' if secure else ''}://{host}:{settings.port}/?token={token or settings.token}"


def serve(settings: ServerSettings, queue: InferenceQueue, *, certificate: str | None, key: str | None, browser: bool) -> None:
    """Serve until interrupted; raises ConfigError if nothing can be offered at this address."""
    check_address(settings.host, settings.port)
    limit_heaps()
    logging.getLogger("medsam2.serve").setLevel(logging.INFO)
    running = server(settings, queue, certificate=certificate, key=key)
    url = address(settings, secure=certificate is not None)
    sys.stderr.write(f"The page is at {url}\n")
    if settings.read_token:
        looking = address(settings, secure=certificate is not None, token=settings.read_token)
        sys.stderr.write(f"For looking alone: {looking}\n")
    sys.stderr.write("Ctrl-C ends it; sessions are kept.\n")
    sys.stderr.flush()
    if browser:
        webbrowser.open(url)
    _end_on_terminate()
    running.run()


# uvicorn would end the process with a log line, or a traceback, after the address was printed.
def check_address(host: str, port: int) -> None:
    """Refuse an address at which this process cannot serve; raises ConfigError."""
    if not 1 <= port <= MOST_PORTS:
        raise ConfigError(f"--port {port} is no port", f"give one from 1024 to {MOST_PORTS}, or leave it out")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, UnicodeError) as error:  # a name that is none
        code = getattr(error, "errno", None)
        if code == errno.EADDRINUSE:
            raise ConfigError(f"--port {port} is taken", "give another, or leave it out") from None
        if code in {errno.EACCES, errno.EPERM}:
            raise ConfigError(
                f"--port {port} needs rights that you do not have", "give one from 1024, or leave it out"
            ) from None
        raise ConfigError(f"--host {host} is no address of this machine", "give one of it, such as 127.0.0.1") from None


def _end_on_terminate() -> None:
    """SIGTERM ends the server as it should, with 0, and soon, even if a thread cannot be stopped."""

    def ended(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, ended)  # uvicorn has a handler of its own while it serves, and raises the signal again


class Audit:
    """Stands before an application and notes what it has changed, before anybody hears of it.

    Args:
        app: that answers.
        folder: in which the file lies.
    """

    def __init__(self, app: App, folder: Path) -> None:
        self._app, self._path = app, folder / AUDIT_FILE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        found = EDIT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] in CHANGING else None
        if found is None:
            await self._app(scope, receive, send)
            return
        body = bytearray()
        keep = Headers(scope=scope).get("content-type", "").startswith("application/json")

        async def received() -> Message:
            message = await receive()
            if keep:
                body.extend(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < HTTPStatus.BAD_REQUEST:
                await asyncio.to_thread(self._write, scope, found, bytes(body))
            await send(message)

        await self._app(scope, received, sent)

    def _write(self, scope: Scope, found: re.Match[str], body: bytes) -> None:
        visitor: Visitor | None = scope.get(VISITOR)
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"when": when, "who": visitor.name if visitor else "", **_described(scope, found, body)}
        data = (json.dumps({key: value for key, value in line.items() if value is not None}) + "\n").encode()
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if os.write(file, data) != len(data):
                    raise OSError
                os.fsync(file)
            finally:
                os.close(file)
        except OSError:
            raise AlreadyRefused(Refusal(HTTPStatus.INSUFFICIENT_STORAGE, NOT_WRITTEN)) from None


def _described(scope: Scope, found: re.Match[str], body: bytes) -> MutableMapping[str, Any]:
    form, query = _form(body), parse_qs(scope["query_string"].decode("latin-1"))
    named = found["what"] or found["pacs"] or found["monai"] or found["gesture"] or ("structures" if found["label"] else None)
    what = "remove" if scope["method"] == "DELETE" else named or "new session"
    label = int(found["label"]) if found["label"] else _number(form, "label")
    image = query.get("image", [""])[0] if (found["monai"] or "").startswith("datastore") else ""
    lease = Headers(scope=scope).get("x-lease-token", "") if found["gesture"] else ""
    known = {"session": found["session"] or found["viewed"], "version": _number(form, "version"), "label": label}
    return {"what": what, **known, "image": _mark(image), "lease": _mark(lease)}


def _form(body: bytes) -> Mapping[str, Any]:
    try:
        form = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return form if isinstance(form, dict) else {}


def _number(form: Mapping[str, Any], key: str) -> int | None:
    value = form.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _mark(name: str) -> str | None:
    return hashlib.sha256(name.encode()).hexdigest()[:12] if name else None
