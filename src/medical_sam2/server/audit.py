"""Who changed what, and when: a line of JSON for each edit, in `audit.jsonl` in the folder of the sessions.

`who` is the user; "token", "password" or "link" where somebody came in by one of these. `session` and `version` name a step of
that session's journal, `label` a structure in it. Nothing of a patient is written, nor of a file's or a structure's name: an
image of the datastore stands there by the beginning of the SHA-256 of its id, a client of nnInteractive by that of its lease.
"""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from medical_sam2.server.refusals import Refusal
from medical_sam2.server.security import VISITOR, AlreadyRefused, App, Message, Receive, Scope, Send, Visitor

FILE = "audit.jsonl"
EDIT = re.compile(
    r"/api/sessions(?:/(?P<session>[0-9a-f]{32}))?(?:/structures/(?P<label>[0-9]{1,3}))?(?:/(?P<what>[a-z]+))?"
    r"|/api/(?P<pacs>pacs/open)"
    r"|/monai/(?P<monai>datastore/(?:image|label)?|session)/?(?:(?<=session/)(?P<viewed>[0-9a-f]{32}))?"
    r"|/nninteractive/(?P<gesture>set_image|reset_interactions|add_[a-z_]+|undo|predict)"
)
CHANGING = frozenset({"POST", "PUT", "DELETE"})
NOT_WRITTEN = "this was done, but could not be noted in the audit file; let whoever runs the server free some space"


class Audit:
    """Stands before an application and notes what it has changed, before anybody hears of it.

    Args:
        app: that answers.
        folder: in which the file lies.
    """

    def __init__(self, app: App, folder: Path) -> None:
        self._app, self._path = app, folder / FILE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        found = EDIT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] in CHANGING else None
        if found is None:
            await self._app(scope, receive, send)
            return
        body = bytearray()
        keep = _header(scope, b"content-type").startswith("application/json")

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
    lease = _header(scope, b"x-lease-token") if found["gesture"] else ""
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


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), "")
