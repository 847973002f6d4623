"""Who may ask what: host, origin, path, token or cookie, size and speed, checked before anything is parsed; and the settings.

As Jupyter does it: a token in the address that was printed becomes a cookie, as does a password, or that of a user. Other
programs send the token as `Authorization: Bearer`, or as a part of the path where they can send nothing else. A second token
lets people in to look.

What a proxy says of where a request came from counts only where the connection comes from an address that was named as its.
"""

import asyncio
import hmac
import json
import logging
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from medical_sam2.server import Refusal, TooLarge
from medical_sam2.server.users import PasswordHash, is_known
from medical_sam2.server.worker_process import WorkerLimits

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """How to serve."""

    state: Path  # folder of the sessions
    library: Path | None = None  # file or folder that may be opened from the page
    host: str = "127.0.0.1"  # address to bind to
    port: int = 8421  # of it
    names: tuple[str, ...] = ()  # further host names under which the page may be asked for
    origins: tuple[str, ...] = ()  # pages from elsewhere that may use the protocols
    token: str = ""  # who knows it may come in
    password: str = ""  # asked for where the server is bound to more than this machine
    users: Mapping[str, PasswordHash] = field(default_factory=dict[str, PasswordHash])  # who may come in by name
    read_token: str = ""  # who knows it may look, and change nothing
    root_path: str = ""  # below which a proxy offers the page ("/medsam2")
    trusted_proxies: tuple[str, ...] = ()  # addresses of proxies whose forwarded headers count
    window: str = "auto"  # of intensities, for the network and the page; see `intensity_window.choose_window`
    formats: tuple[str, ...] = ()  # plug-ins that results may be taken away in; see `io.registry`
    pacs: str = ""  # address of a DICOMweb server that series may be fetched from and segmentations sent to
    most_sessions: int = 24  # open at once
    most_upload_mb: int = 4_096  # of a session
    most_files: int = 5_000  # of a session
    most_body_mb: int = 16  # of any other request
    most_voxels: int = 1_000_000_000  # of a volume, or of all images of a set
    keep_days: float = 7.0  # after which a session that nobody touched is removed
    held_mb: float = 2_048.0  # of labels that are held in memory for all sessions
    idle_s: float = 30.0  # without a byte, after which an upload is given up
    worker_limits: WorkerLimits = field(default=WorkerLimits())  # of decoding, and of talks with a PACS


Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
log = logging.getLogger("medsam2.serve")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with "no-referrer" a browser sends the form of /login as if it came from elsewhere
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
VISITOR = "medsam2.visitor"  # key of the scope
AUTHENTICATED = "medsam2.let_in"  # key of the scope: whoever closes connections spares these
PATH = re.compile(r"[A-Za-z0-9_./~:@+-]*")
BULKY = re.compile(r"/(api/sessions/[0-9a-f]{32}/files|monai/.*|nninteractive/.*)")
OPEN_TO_ALL = {"/login", "/login.css"}
SLOWEST_BYTES_S, SLOW_FOR_S = 1_000, 60.0
DEFECT = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a defect of medsam2; please report it")
FAILURES, FORGIVEN_S = 8, 60.0


@dataclass(frozen=True)
class Visitor:
    """Who was let in."""

    name: str  # of a user, or how somebody came in
    may_edit: bool = True


BY_TOKEN, BY_PASSWORD, BY_LINK, NOBODY = Visitor("token"), Visitor("password"), Visitor("link", False), Visitor("", False)


class Guard:
    """Stands before an application.

    Args:
        app: that is guarded.
        settings: with the token, the password, hosts, origins and limits.
        secret: value of the cookie.
    """

    def __init__(self, app: App, settings: ServerSettings, secret: str) -> None:
        self._app, self._settings, self._secret = app, settings, secret
        self._failed: list[float] = []
        self.cookie = f"medsam2_{settings.port}"
        visitors = (BY_TOKEN, BY_PASSWORD, BY_LINK, *map(Visitor, settings.users))
        self._cookies = {hmac.new(secret.encode(), each.name.encode(), "sha256").hexdigest(): each for each in visitors}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        bare = self._strip_root(scope)
        measured = _LimitedBody(receive, self._limit(scope), self._settings.idle_s)
        answer = _Reply(send, self._headers(scope), measured, plain=_is_looked_at(scope))
        try:
            if bare:
                await answer.plain(HTTPStatus.PERMANENT_REDIRECT, b"", {"location": f"{self._settings.root_path}/"})
            else:
                await self._serve(scope, measured, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except AlreadyRefused as overruled:
            await answer.refuse(overruled.refusal)
        except asyncio.CancelledError:  # the server ends and waits no longer
            await answer.refuse(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the server is being ended"))
        except Exception as error:
            log.error("a defect: %s", _where(error))
            await answer.refuse(DEFECT)

    async def _serve(self, scope: Scope, receive: "_LimitedBody", answer: "_Reply") -> None:
        headers, forwarded = self._believed_headers(scope)
        self._check_host(headers, forwarded=forwarded)
        preflight = self._check_origin(scope, headers)
        if not PATH.fullmatch(scope.get("raw_path", b"").decode("latin-1").partition("?")[0]) or "/../" in f"{scope['path']}/":
            raise Refusal(HTTPStatus.BAD_REQUEST, "this is no address of this server")
        if preflight:
            await answer.plain(HTTPStatus.NO_CONTENT, b"")
            return
        receive.check_length(headers)
        if scope["path"] == "/login" and scope["method"] == "POST":
            await self._sign_in(scope, receive, answer)
        elif (token := parse_qs(scope["query_string"].decode("latin-1")).get("token")) and scope["path"] == "/":
            await self._exchange_token(scope, token[0], answer)
        elif scope["path"] == "/logout" and scope["method"] == "POST":
            await self._forget(answer)
        elif visitor := self._visitor(scope, headers):
            _check_may(visitor, scope)
            scope[AUTHENTICATED], scope[VISITOR] = True, visitor
            await self._app(scope, receive, answer)
        elif self._knows_passwords and scope["method"] == "GET" and _is_looked_at(scope):
            await self._show_login(answer)
        else:
            where = ", or sign in at /login" if self._knows_passwords else ""
            raise Refusal(HTTPStatus.UNAUTHORIZED, f"open the address that `medsam2 serve` printed{where}")

    @property
    def _knows_passwords(self) -> bool:
        return bool(self._settings.password or self._settings.users)

    async def _show_login(self, answer: "_Reply", message: str = "") -> None:
        """Send a browser to the form, which shows the message of that name."""
        where = f"{self._settings.root_path}/login{message and '#'}{message}"
        await answer.plain(HTTPStatus.SEE_OTHER, b"", {"location": where, "cache-control": "no-store"})

    # A proxy may take the part of the path that is its own away, or leave it.
    def _strip_root(self, scope: Scope) -> bool:
        """The path without the root; returns whether it was the root alone, without the / from which a page finds its parts."""
        root = self._settings.root_path
        if root and scope["path"].startswith(f"{root}/"):
            scope["path"] = scope["path"].removeprefix(root)
            scope["raw_path"] = scope.get("raw_path", b"").removeprefix(root.encode())
        return bool(root) and scope["path"] == root

    def _believed_headers(self, scope: Scope) -> tuple[dict[str, str], bool]:
        """The headers, with the host and the scheme that a proxy tells where it is trusted; whether it told the host."""
        headers = _headers(scope)
        if (scope.get("client") or ("",))[0] not in self._settings.trusted_proxies:
            return headers, False
        scheme = headers.get("x-forwarded-proto", scope.get("scheme", "http"))
        if scheme not in {"http", "https"}:
            raise Refusal(HTTPStatus.BAD_REQUEST, "the proxy must forward one scheme, http or https")
        scope["scheme"] = scheme
        told = headers.get("x-forwarded-host")
        return {**headers, "host": told or headers.get("host", "")}, told is not None

    def _headers(self, scope: Scope) -> dict[str, str]:
        origin = _headers(scope).get("origin", "")
        if origin not in self._settings.origins:
            return HEADERS
        allowed = {"access-control-allow-origin": origin, "access-control-allow-headers": "authorization, content-type"}
        methods = {"access-control-allow-methods": "GET, POST, PUT, DELETE", "cross-origin-resource-policy": "cross-origin"}
        return {**HEADERS, **allowed, **methods, "vary": "origin"}

    def _limit(self, scope: Scope) -> int:
        bulky = BULKY.fullmatch(scope["path"])
        return (self._settings.most_upload_mb if bulky else self._settings.most_body_mb) << 20

    def _hosts(self) -> set[str]:
        bound = set() if self._settings.host in {"0.0.0.0", "::"} else {self._settings.host}  # noqa: S104 - compared, not bound
        names = {*LOOPBACK, *bound, *self._settings.names}
        return {f"[{name}]" if ":" in name else name.lower() for name in names}

    def _check_host(self, headers: Mapping[str, str], *, forwarded: bool) -> None:
        """A page of another name that resolves to this machine must not talk to us (DNS rebinding)."""
        given = headers.get("host", "").lower()
        name, colon, port = given.rpartition(":") if re.search(r":\d+$", given) else (given, "", "")
        if name not in self._hosts() or (colon and port != str(self._settings.port) and not forwarded):
            raise Refusal(HTTPStatus.FORBIDDEN, "this server does not go by that name; see --name")

    def _check_origin(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """Refuse what a page from elsewhere asks; returns whether it is a preflight of one that may ask."""
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        if origin is None:
            if site in {"cross-site", "same-site"} and (scope["method"] != "GET" or scope["path"] != "/"):
                raise Refusal(HTTPStatus.FORBIDDEN, "pages from elsewhere may not use this server")
            return False
        if origin in self._settings.origins and scope["path"].startswith(("/monai/", "/nninteractive/")):
            return scope["method"] == "OPTIONS"
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or parts.netloc.lower() != headers.get("host", "").lower():
            raise Refusal(HTTPStatus.FORBIDDEN, "pages from elsewhere may not use this server; see --allow-origin")
        return False

    def _visitor(self, scope: Scope, headers: Mapping[str, str]) -> Visitor | None:
        """Who asks; None where that is nobody who was let in."""
        if scope["path"] in OPEN_TO_ALL and scope["method"] == "GET":
            return NOBODY
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _equal_secrets(bearer, self._settings.token):
            return BY_TOKEN
        for prefix in ("/monai/", "/nninteractive/"):
            if scope["path"].startswith(prefix):
                first, slash, rest = scope["path"].removeprefix(prefix).partition("/")
                if _equal_secrets(first, self._settings.token):
                    scope["path"] = f"{prefix}{rest}" if slash else prefix
                    scope["raw_path"] = scope["path"].encode()
                    return BY_TOKEN
                return self._by_cookie(headers) if prefix == "/nninteractive/" else None
        return self._by_cookie(headers)

    def _by_cookie(self, headers: Mapping[str, str]) -> Visitor | None:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return None
        given = morsel.value if morsel else ""
        return next((visitor for cookie, visitor in self._cookies.items() if _equal_secrets(given, cookie)), None)

    async def _exchange_token(self, scope: Scope, token: str, answer: "_Reply") -> None:
        known = {self._settings.token: BY_TOKEN, self._settings.read_token: BY_LINK}
        visitor = next((visitor for secret, visitor in known.items() if _equal_secrets(token, secret)), None)
        if visitor is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "this token is not of this server; it changes with every start")
        await self._set_cookie(scope, visitor, answer)

    async def _sign_in(self, scope: Scope, receive: "_LimitedBody", answer: "_Reply") -> None:
        try:
            await self._login(scope, receive, answer)
        except Refusal as refusal:
            if receive.refusal or not _is_looked_at(scope):
                raise
            await self._show_login(answer, "later" if refusal.status == HTTPStatus.TOO_MANY_REQUESTS else "wrong")

    async def _login(self, scope: Scope, receive: "_LimitedBody", answer: "_Reply") -> None:
        form = parse_qs((await receive.everything()).decode("utf-8", "replace"))
        name, password = (form.get(key, [""])[0] for key in ("name", "password"))
        now = time.monotonic()
        self._failed = [then for then in self._failed if now - then < FORGIVEN_S]
        if len(self._failed) >= FAILURES:
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many wrong passwords; wait a minute")
        self._failed.append(now)  # as long as it is not known to be right: many may be tried at once
        visitor = await asyncio.to_thread(self._by_password, name, password)
        if visitor is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "the password is wrong" + (", or the name" if self._settings.users else ""))
        self._failed.remove(now)
        await self._set_cookie(scope, visitor, answer)

    def _by_password(self, name: str, password: str) -> Visitor | None:
        if self._settings.users and name:
            return Visitor(name) if is_known(self._settings.users, name, password) else None
        return BY_PASSWORD if _equal_secrets(password, self._settings.password) else None

    async def _set_cookie(self, scope: Scope, visitor: Visitor, answer: "_Reply") -> None:
        value = next(cookie for cookie, each in self._cookies.items() if each == visitor)
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        path = f"{self._settings.root_path}/"
        cookie = f"{self.cookie}={value}; HttpOnly; SameSite=Strict; Path={path}{secure}"
        await answer.plain(HTTPStatus.SEE_OTHER, b"", {"location": path, "set-cookie": cookie, "cache-control": "no-store"})

    async def _forget(self, answer: "_Reply") -> None:
        """Take the cookie back; whoever copied it before could still use it until the server ends."""
        root = f"{self._settings.root_path}/"
        cookie = f"{self.cookie}=; HttpOnly; SameSite=Strict; Path={root}; Max-Age=0"
        headers = {"location": f"{root}login", "set-cookie": cookie, "cache-control": "no-store"}
        await answer.plain(HTTPStatus.SEE_OTHER, b"", headers)


def _check_may(visitor: Visitor, scope: Scope) -> None:
    """Refuse whatever may change something to who may only look."""
    looks = scope["method"] in {"GET", "HEAD"} and not scope["path"].startswith(("/monai/", "/nninteractive/"))
    if not visitor.may_edit and not looks:
        raise Refusal(HTTPStatus.FORBIDDEN, "you came in by a link that is for looking alone: nothing was changed")


class AlreadyRefused(Exception):  # noqa: N818 - no handler of the application knows it
    """The application answers, and something else is said instead."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.problem)


class _LimitedBody:
    """What comes in: no more, and no slower, than is allowed."""

    def __init__(self, receive: Receive, most_bytes: int, idle_s: float) -> None:
        self._receive, self._most, self._idle_s = receive, most_bytes, idle_s
        self._count, self._began, self._ended = 0, time.monotonic(), False
        self.refusal: Refusal | None = None

    def check_length(self, headers: Mapping[str, str]) -> None:
        """Refuse at once what says that it is too large."""
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", length) or int(length) > self._most:
            raise TooLarge(f"more than {self._most >> 20} MB are not taken here")

    async def __call__(self) -> Message:
        """The next message."""
        if self._ended:
            return await self._receive()
        try:
            return await self._next()
        except Refusal as refusal:
            self.refusal = refusal
            raise

    async def _next(self) -> Message:
        try:
            message = await asyncio.wait_for(self._receive(), self._idle_s)
        except TimeoutError:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "nothing came in for a while; the upload was given up") from None
        self._count += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._count > self._most:
            raise TooLarge(f"more than {self._most >> 20} MB are not taken here")
        passed_s = time.monotonic() - self._began
        if not self._ended and passed_s > SLOW_FOR_S and self._count < SLOWEST_BYTES_S * passed_s:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "the upload is too slow; it was given up")
        return message

    async def everything(self) -> bytes:
        """The whole body."""
        body = b""
        while not self._ended:
            body += (await self()).get("body", b"")
        return body


class _Reply:
    """What goes out, with the headers of every answer."""

    def __init__(self, send: Send, headers: Mapping[str, str], measured: _LimitedBody, *, plain: bool) -> None:
        self._send, self._headers, self._measured, self._plain = send, headers, measured, plain
        self._started = self._refusing = False

    # The application may have caught the refusal of a body, and answers as if it were whole: that answer is dropped.
    async def __call__(self, message: Message) -> None:
        """Pass a message on; what was refused on the way in is not answered otherwise."""
        if self._measured.refusal and not self._started and not self._refusing:
            raise AlreadyRefused(self._measured.refusal)
        if message["type"] == "http.response.start":
            self._started = True
            given = [(name, value) for name, value in message.get("headers", []) if name.lower() != b"server"]
            names = {name.lower() for name, _ in given}
            if b"cache-control" not in names:
                given.append((b"cache-control", b"no-store"))
            more = [(name.encode(), value.encode()) for name, value in self._headers.items() if name.encode() not in names]
            message = {**message, "headers": [*given, *more]}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Refuse, unless an answer has begun."""
        if not self._started:
            self._refusing = True
            body = refusal.problem if self._plain else json.dumps({"error": refusal.problem})
            kind = "text/plain; charset=utf-8" if self._plain else "application/json"
            await self.plain(refusal.status, body.encode(), {"content-type": kind, "connection": "close"})

    async def plain(self, status: HTTPStatus, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        rows = {**(headers or {}), "content-length": str(len(body))}
        start: Message = {"type": "http.response.start", "status": int(status), "headers": list(_encoded(rows))}
        await self(start)
        await self._send({"type": "http.response.body", "body": body})


def _encoded(headers: Mapping[str, str]) -> Iterable[tuple[bytes, bytes]]:
    return ((name.encode(), value.encode()) for name, value in headers.items())


def _headers(scope: Scope) -> dict[str, str]:
    """Headers by name; one that comes twice counts as what it says together, which no check accepts."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        found[key] = f"{found[key]}, {value.decode('latin-1')}" if key in found else value.decode("latin-1")
    return found


def _is_looked_at(scope: Scope) -> bool:
    """Whether a browser shows the answer to a person."""
    return scope["type"] == "http" and "text/html" in _headers(scope).get("accept", "")


def _equal_secrets(given: str, known: str) -> bool:
    """Compared in a time that does not depend on how much is right; nothing equals an empty secret."""
    return bool(known) and hmac.compare_digest(given.encode(), known.encode())


def _where(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
