"""Processes for what may break or never end, each with limits; they end when the server does."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from medical_sam2.server.refusals import Full, Refusal

CHILD = "medical_sam2.server.child"
ENDED = "the server ends; ask again when it is back"
TOO_LONG = {
    "decode": "reading the file takes too long; it was given up",
    "export": "writing the file takes too long; it was given up",
    "search": "the PACS takes too long; it was given up",
    "fetch": "the PACS takes too long; it was given up",
    "send": "the PACS takes too long; look there whether the segmentation has arrived",
}
BROKE = "the file broke its decoder, or needs more memory than is allowed; it was not opened"


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Args:
        memory_mb: of address space.
        seconds: of time.
        disk_mb: largest file that it may write.
    """

    memory_mb: int = 8_192
    seconds: float = 120.0
    disk_mb: int = 4_096


class Unclear(Refusal):
    """A source that can be read in several ways.

    Args:
        choices: one line each.
    """

    def __init__(self, problem: str, choices: tuple[str, ...]) -> None:
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY, problem)
        self.choices = choices


class Children:
    """Processes that run now; when the server ends, they do.

    Args:
        limits: of each.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(self, order: Mapping[str, Any]) -> Any:
        """What a child answers to an order.

        Raises:
            Refusal: it cannot be done, or not within the limits.
            Unclear: the source can be read in several ways.
            Full: the server ends.
        """
        with self._one() as process:
            try:
                said, _ = process.communicate(
                    json.dumps({**order, "limits": asdict(self.limits)}).encode(), self.limits.seconds
                )
            except subprocess.TimeoutExpired:
                raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, TOO_LONG[order["do"]]) from None
        answer: dict[str, Any] = {}
        with suppress(ValueError):
            answer = json.loads(said or b"{}")
        if problem := answer.get("problem"):
            choices = tuple(answer.get("choices", ()))
            status = HTTPStatus(answer.get("status", HTTPStatus.UNPROCESSABLE_ENTITY))
            raise Unclear(problem, choices) if choices else Refusal(status, problem)
        if process.returncode or "done" not in answer:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, BROKE)
        return answer["done"]

    @contextmanager
    def _one(self) -> Iterator["subprocess.Popen[bytes]"]:
        command = [sys.executable, "-m", CHILD]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self._lock:
            if self._ended:
                raise Full(ENDED)
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
            self._running.add(process)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
            with self._lock:
                self._running.discard(process)
        if self._ended:
            raise Full(ENDED)

    def end(self) -> None:
        """End them all; no other begins."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()
