"""Binds, serves, and says where."""

import logging
import sys
import webbrowser
from asyncio import BaseTransport, TimerHandle
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from medical_sam2.server import thrift
from medical_sam2.server.app import build
from medical_sam2.server.desk import Desk
from medical_sam2.server.settings import Settings

HEADERS_WITHIN_S = 15.0
MOST_CONNECTIONS = 256


class Impatient(H11Protocol):
    """Drops connections that do not say within a while what they want."""

    _timer: TimerHandle

    def connection_made(self, transport: BaseTransport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._timer = self.loop.call_later(HEADERS_WITHIN_S, self._drop)

    def connection_lost(self, exc: Exception | None) -> None:
        """No need to wait any more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _drop(self) -> None:
        if getattr(self, "cycle", None) is None:
            self.transport.close()


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
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=32_768,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
        proxy_headers=False,
        **options,
    )
    return uvicorn.Server(config)


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
    running.run()
