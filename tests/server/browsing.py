"""A server in a thread, and a browser that looks at it."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from medical_sam2.server.app import address, server
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings

SOFTWARE_GL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
NO_GL = ["--disable-gpu", "--disable-3d-apis"]
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def running(settings: ServerSettings, queue: InferenceQueue, port: int = 0) -> Iterator[ServerSettings]:
    """A real server on a port of this machine, by default a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        settings = replace(settings, port=probe.getsockname()[1])
    one: uvicorn.Server = server(settings, queue)
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    while not one.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield settings
    finally:
        one.should_exit = True
        thread.join(30)


def hold_tracking(monkeypatch: pytest.MonkeyPatch, after: int = 4) -> threading.Event:
    """Tracking waits after so many slices, until the event is set; so what a test does meanwhile has the time it takes."""
    slices, goes_on = count(), threading.Event()
    monkeypatch.setattr(InferenceQueue, "give_way", lambda _: next(slices) > after and goes_on.wait(60))
    return goes_on


@contextmanager
def chromium(*, solid: bool) -> Iterator[Browser]:
    """Debian's browser, which draws the 3D view in software, or not at all."""
    path = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := which(name))), None)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox", *(SOFTWARE_GL if solid else NO_GL)])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Person:
    """Somebody at the page.

    Args:
        page: what they see.
        problems: what the browser complained of.
        asked: addresses of all requests.
    """

    page: Page
    problems: list[str]
    asked: list[str]

    @classmethod
    def at(cls, browser: Browser, settings: ServerSettings) -> "Person":
        """Comes in by the address that was printed."""
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(PATIENCE_MS)
        one = cls(page, [], [])
        page.on("pageerror", lambda error: one.problems.append(str(error)))
        page.on("console", lambda said: one.problems.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: one.asked.append(request.url))
        page.goto(address(settings))
        return one

    def view(self, plane: str) -> Locator:
        """A plane's canvas."""
        return self.page.locator(f".view.{plane} .stage canvas")

    def wait(self, plane: str) -> None:
        """Until the slice has been drawn; before that, nobody can click on anything in it."""
        expect(self.view(plane)).to_have_attribute("aria-label", re.compile("cursor at row"))

    def click(self, plane: str, spot: tuple[float, float], shape: tuple[int, int], spacing: tuple[float, float]) -> None:
        """Click on a row and column of the slice, once it is seen."""
        self.wait(plane)
        left, top = self.place(plane, spot, shape, spacing)
        self.page.mouse.click(left, top)

    def drag(
        self,
        plane: str,
        spots: tuple[tuple[float, float], ...],
        shape: tuple[int, int],
        spacing: tuple[float, float],
    ) -> None:
        """Draw from one row and column to the next, with the left button held, once the slice is seen."""
        self.wait(plane)
        for number, spot in enumerate(spots):
            self.page.mouse.move(*self.place(plane, spot, shape, spacing), steps=5 if number else 1)
            if not number:
                self.page.mouse.down()
        self.page.mouse.up()

    def place(
        self, plane: str, spot: tuple[float, float], shape: tuple[int, int], spacing: tuple[float, float]
    ) -> tuple[float, float]:
        """Where a row and column of the slice are on the page."""
        self.wait(plane)
        box = self.view(plane).bounding_box()
        assert box is not None
        fit = min(box["width"] / (shape[1] * spacing[1]), box["height"] / (shape[0] * spacing[0]))
        left = (box["width"] - shape[1] * spacing[1] * fit) / 2 + (spot[1] + 0.5) * spacing[1] * fit
        top = (box["height"] - shape[0] * spacing[0] * fit) / 2 + (spot[0] + 0.5) * spacing[0] * fit
        return box["x"] + left, box["y"] + top

    def painted(self, plane: str, folder: Path, shape: tuple[int, int], spacing: tuple[float, float]) -> NDArray[np.bool_]:
        """Which pixels (H, W) of a slice are seen in the colour of the first structure, in a screenshot."""
        path = folder / "seen.png"
        self.view(plane).screenshot(path=path)
        seen = np.asarray(Image.open(path).convert("RGB"), int)
        height, width = seen.shape[:2]
        fit = min(width / (shape[1] * spacing[1]), height / (shape[0] * spacing[0]))
        rows = (height - shape[0] * spacing[0] * fit) / 2 + (np.arange(shape[0]) + 0.25) * spacing[0] * fit
        columns = (width - shape[1] * spacing[1] * fit) / 2 + (np.arange(shape[1]) + 0.25) * spacing[1] * fit
        picked = seen[np.ix_(rows.astype(int), columns.astype(int))]
        return picked[..., 2] - picked[..., 0] > 25  # the first colour is blue, the image is grey

    def sees(self, plane: str, folder: Path, mask: NDArray[np.bool_], spacing: tuple[float, float]) -> None:
        """The outline is on the screen where it should be, as soon as the page has drawn it."""
        for _ in range(100):
            seen = self.painted(plane, folder, mask.shape, spacing)  # type: ignore[arg-type]
            self.wait(plane)
            cross = np.zeros_like(mask)
            info = self.view(plane).get_attribute("aria-label") or ""
            words = info.replace(",", "").replace(":", "").split()
            cross[int(words[words.index("row") + 1])] = cross[:, int(words[words.index("column") + 1])] = True  # it is blue too
            if (seen | cross == mask | cross).all():
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"the {plane} view shows {seen.astype(int)}, not {mask.astype(int)}")
