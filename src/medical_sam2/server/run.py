"""Binds, serves, says where, and ends."""

import logging
import os
import signal
import sys
import threading
import time
import webbrowser
from asyncio import BaseTransport, TimerHandle
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from medical_sam2.server import thrift
from medical_sam2.server.app import build
from medical_sam2.server.desk import Desk
from medical_sam2.server.guard import LET_IN
from medical_sam2.server.settings import Settings

HEADERS_WITHIN_S = 15.0
UNREAD_WITHIN_S = 60.0  # in which a client takes nothing of what was written to it
LOOK_S = 0.25
MOST_CONNECTIONS = 256
END_WITHIN_S = 8.0  # whatever a thread still waits for: what was acknowledged is on the disk


class Impatient(H11Protocol):
    """Drops connections that do not say within a while what they want, or do not take what they asked for.

    Where there are too many, the oldest of those that were not let in makes room.
    """

    _watch: TimerHandle
    _since = _unread = 0.0
    _left = 0
    _let_in = False

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
        self._let_in = self._let_in or LET_IN in self.scope
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
        known = [each for each in self.connections if isinstance(each, Impatient) and each is not self]
        others = [each for each in known if not (each._let_in or LET_IN in (each.scope or ()))]
        if others:
            oldest = min(others, key=lambda each: each._since)
            self.connections.discard(oldest)
            oldest.transport.abort()


class Ending(uvicorn.Server):
    """Has ended soon after it was told to."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        super().handle_exit(sig, frame)
        code = 0 if sig == signal.SIGTERM else 128 + sig
        late = threading.Timer(END_WITHIN_S, os._exit, (code,))
        late.daemon = True
        late.start()


def server(settings: Settings, desk: Desk, *, certificate: str | None = None, key: str | None = None) -> uvicorn.Server:
    """A server that is ready to run; nothing of a request is logged."""
    app, _ = build(settings, desk)
    options: dict[str, Any] = {"ssl_certfile": certificate, "ssl_keyfile": key} if certificate else {}
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        http=Impatient,
        ws="none",
        access_log=False,
        log_level="error",
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS + 1,
        h11_max_incomplete_event_size=32_768,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
        proxy_headers=False,
        **options,
    )
    return Ending(config)


def address(settings: Settings, *, secure: bool = False) -> str:
    """Where the page is, with the token that lets in."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http{'s' if secure else ''}://{host}:{settings.port}/?token={settings.token}"


def serve(settings: Settings, desk: Desk, *, certificate: str | None, key: str | None, browser: bool) -> None:
    """Serve until interrupted."""
    thrift.share()
    logging.getLogger("medsam2.serve").setLevel(logging.INFO)
    running = server(settings, desk, certificate=certificate, key=key)
    url = address(settings, secure=certificate is not None)
    sys.stderr.write(f"The page is at {url}\nCtrl-C ends it; sessions are kept.\n")
    sys.stderr.flush()
    if browser:
        webbrowser.open(url)
    _end_on_terminate()
    running.run()


def _end_on_terminate() -> None:
    """SIGTERM ends the server as it should, with 0, and soon, even if a thread cannot be stopped."""

    def ended(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, ended)  # uvicorn has a handler of its own while it serves, and raises the signal again
